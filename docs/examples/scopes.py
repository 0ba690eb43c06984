"""Notes that are written over WebSockets, each message in a transaction of its own."""

from contextlib import asynccontextmanager

from databases import Base, Note, include_sessions, new_session, save
from pyramid.config import Configurator
from pyramid.view import view_config
from sqlalchemy import engine_from_config, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from aiopyramid.helpers import synchronize
from aiopyramid.websocket.exceptions import CloseWebsocket
from aiopyramid.websocket.scope import message_scope
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

# Who has signed in.


class SignIn(Base):
    __tablename__ = "sign_ins"

    token: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str]


class Policy:
    """A security policy: a cookie has the token of a sign-in. A real one would sign it."""

    def identity(self, request):
        sign_in = request.dbsession.get(SignIn, request.cookies.get("token", ""))
        return None if sign_in is None else sign_in.user

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return self.identity(request) is not None


@view_config(route_name="sign_in", request_method="POST", renderer="json")
def sign_in(request):
    token = request.POST["token"]
    request.dbsession.add(SignIn(token=token, user=request.POST["user"]))
    request.response.set_cookie("token", token, httponly=True, samesite="lax")


@view_config(route_name="sign_in", request_method="DELETE", renderer="json")
def sign_out(request):
    request.dbsession.delete(request.dbsession.get(SignIn, request.cookies["token"]))


@view_config(route_name="list", renderer="json")
def list_notes(request):
    return list(request.dbsession.scalars(select(Note.text).order_by(Note.id)))


def still_signed_in(request):
    if request.identity is None:
        raise CloseWebsocket(4401, "signed out")


# A plain callback: it has one thread, from the check to the commit.


@websocket_view_config(route_name="plain", permission="write")
class Plain(WebsocketConnectionView):
    @message_scope(check=still_signed_in)
    def on_message(self, message):
        note = Note(text=f"{self.request.identity}: {message}")
        self.request.dbsession.add(note)
        self.request.dbsession.flush()
        synchronize(self.send)(f"note {note.id}")


# A coroutine: the thread waits for it, and runs what uses the session.


@websocket_view_config(route_name="coroutine", permission="write")
class Coroutine(WebsocketConnectionView):
    @message_scope(check=still_signed_in)
    async def on_message(self, message):
        number = await save(self.request, f"{self.request.identity}: {message}")
        if message == "undo":
            raise ValueError("the note is not kept, and the connection is closed")
        await self.send(f"note {number}")


# A coroutine with an asynchronous session, whose transaction surrounds it.


@asynccontextmanager
async def async_transaction(request):
    async with request.new_async_session.begin() as request.async_session:
        yield


@websocket_view_config(route_name="asynchronous", permission="write")
class Asynchronous(WebsocketConnectionView):
    @message_scope(check=still_signed_in, within=async_transaction)
    async def on_message(self, message):
        note = Note(text=f"{self.request.identity}: {message}")
        self.request.async_session.add(note)
        await self.request.async_session.flush()
        await self.send(f"note {note.id}")


def main(global_config=None, **settings):
    engine = engine_from_config(settings, "sqlalchemy.")
    new_session.configure(bind=engine)
    Base.metadata.create_all(engine)
    engine.dispose()  # worker processes must not share the connection
    url = engine.url.set(drivername="sqlite+aiosqlite") if engine.name == "sqlite" else engine.url
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.include("pyramid_tm")
        config.include(include_sessions)
        config.set_security_policy(Policy())
        new_async_session = async_sessionmaker(create_async_engine(url))
        config.add_request_method(lambda _: new_async_session, "new_async_session", property=True)
        for name in ("list", "sign_in", "plain", "coroutine", "asynchronous"):
            config.add_route(name, f"/{name}")
        config.scan(__name__)
        return config.make_wsgi_app()
