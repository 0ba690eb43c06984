from pathlib import Path

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import FileResponse
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import forbidden_view_config, view_config

from aiopyramid.broadcast import after
from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.websocket.view import websocket_view_config

HERE = Path(__file__).parent


class Policy:
    def identity(self, request):
        return request.session.get("name")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return self.identity(request) is not None


@forbidden_view_config()
def ask(request):
    response = FileResponse(HERE / "sign_in.html", request=request)
    response.status_int = 403
    return response


@view_config(route_name="sign_in", request_method="POST")
def sign_in(request):
    if name := request.POST.get("name", "").strip():
        request.session["name"] = name[:30]
    return HTTPSeeOther("/")


@view_config(route_name="chat", websocket=False, permission="chat")
def page(request):
    return FileResponse(HERE / "chat.html", request=request)


@websocket_view_config(
    route_name="chat", permission="chat", max_message_size=1000, max_message_rate=5
)
async def chat(ws):
    name = ws.request.identity
    groups, where = ws.request.groups, after(ws.request, "chat")
    await groups.join("chat", ws, form=TAGGED, last=50, after=where, info=name)
    async for text in ws:
        groups.publish("chat", f"{name}: {text}")


@view_config(route_name="who", permission="chat", renderer="json")
async def who(request):
    return sorted(set(await request.groups.members("chat")))


def main(global_config=None, **settings):
    settings = {"aiopyramid.broadcast.history": "chat = 50", **settings}
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_static_view("aiopyramid", "aiopyramid:static")
        config.set_session_factory(SignedCookieSessionFactory(settings["session.secret"]))
        config.set_security_policy(Policy())
        config.add_route("chat", "/")
        config.add_route("sign_in", "/sign-in")
        config.add_route("who", "/who")
        config.scan(__name__)
        return config.make_wsgi_app()
