from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import FileResponse
from pyramid.view import view_config

from aiopyramid.websocket.view import websocket_view_config

HERE = Path(__file__).parent


@view_config(route_name="chat", websocket=False)
def page(request):
    return FileResponse(HERE / "chat.html", request=request)


@websocket_view_config(route_name="chat")
async def chat(ws):
    groups = ws.request.groups
    await groups.join("chat", ws)
    async for text in ws:
        groups.publish("chat", text)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("chat", "/")
        config.scan(__name__)
        return config.make_wsgi_app()
