"""Notices that are told when they are committed, and sign-outs that end all connections."""

from databases import Base, Note, include_sessions, new_session
from pyramid.config import Configurator
from pyramid.view import view_config
from scopes import Policy, SignIn, sign_in
from sqlalchemy import delete, engine_from_config

from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.helpers import use_executor
from aiopyramid.websocket.exceptions import CloseWebsocket
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config


@view_config(route_name="notices", request_method="POST", permission="write", renderer="json")
def add_notice(request):
    notice = Note(text=request.POST["text"])
    request.dbsession.add(notice)
    request.dbsession.flush()
    value = {"id": notice.id, "text": notice.text}
    request.groups.publish_json("notices", value, after_commit=request.tm)
    if "preview" in request.POST:
        request.tm.doom()  # it is neither kept nor told
    return value


# Signed out is signed out everywhere.


@view_config(route_name="sign_out", request_method="POST", permission="write", renderer="json")
def sign_out_everywhere(request):
    user = request.identity
    request.dbsession.execute(delete(SignIn).where(SignIn.user == user))
    request.groups.close_connections(f"user:{user}", 4401, "signed out", after_commit=request.tm)


@use_executor
def is_signed_in(token):
    with new_session() as session:
        return session.get(SignIn, token) is not None


@websocket_view_config(route_name="notices", permission="write")
class Notices(WebsocketConnectionView):
    def __init__(self, context, request):
        super().__init__(context, request)
        self.user, self.token = request.identity, request.cookies["token"]
        self.groups = request.groups

    async def on_open(self):
        await self.groups.join(f"user:{self.user}", self.ws)
        if not await is_signed_in(self.token):  # since the handshake
            raise CloseWebsocket(4401, "signed out")
        await self.groups.join("notices", self.ws, form=TAGGED)


def main(global_config=None, **settings):
    engine = engine_from_config(settings, "sqlalchemy.")
    new_session.configure(bind=engine)
    Base.metadata.create_all(engine)
    engine.dispose()  # worker processes must not share the connection
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.include("pyramid_tm")
        config.include(include_sessions)
        config.set_security_policy(Policy())
        for name in ("notices", "sign_in", "sign_out"):
            config.add_route(name, f"/{name}")
        config.add_view(sign_in, route_name="sign_in", request_method="POST", renderer="json")
        config.scan(__name__)
        return config.make_wsgi_app()
