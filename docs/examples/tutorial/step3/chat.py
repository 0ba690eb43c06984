from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import FileResponse
from pyramid.view import view_config

from aiopyramid.broadcast import after
from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.websocket.view import websocket_view_config

HERE = Path(__file__).parent


@view_config(route_name="chat", websocket=False)
def page(request):
    return FileResponse(HERE / "chat.html", request=request)


@websocket_view_config(route_name="chat")
async def chat(ws):
    groups, where = ws.request.groups, after(ws.request, "chat")
    await groups.join("chat", ws, form=TAGGED, last=50, after=where)
    async for text in ws:
        groups.publish("chat", text)


def main(global_config=None, **settings):
    settings = {"aiopyramid.broadcast.history": "chat = 50", **settings}
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_static_view("aiopyramid", "aiopyramid:static")
        config.add_route("chat", "/")
        config.scan(__name__)
        return config.make_wsgi_app()
