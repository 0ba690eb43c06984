"""Sign in by a form, listen by a WebSocket, sign out in all tabs and on all devices."""

import hmac
import secrets
import sqlite3
from contextlib import closing
from html import escape

from pyramid.authorization import ACLHelper, Allow, Authenticated, Everyone
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.request import RequestLocalCache
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import view_config

from aiopyramid.helpers import synchronize, use_executor
from aiopyramid.websocket.exceptions import CloseWebsocket
from aiopyramid.websocket.scope import message_scope
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

# Who may do what. A real application asks its database, and stores no passwords but their hashes.

PASSWORDS = {"ann": "apple", "bob": "banana"}


class Site:
    def __acl__(self):
        return [(Allow, Authenticated, "listen")]


class Room:
    def __init__(self, *users):
        self.__acl__ = [(Allow, user, "enter") for user in users]


ROOMS = {"kitchen": Room("ann", "bob"), "cellar": Room("ann")}


# Who is signed in: a row for each browser. The session's cookie has its token.


def execute(settings, statement, *values):
    with closing(sqlite3.connect(settings["sign_ins"])) as database, database:
        return database.execute(statement, values).fetchall()


def user_of(settings, token):
    rows = execute(settings, "SELECT user FROM sign_ins WHERE token = ?", token)
    return rows[0][0] if rows else None


class SecurityPolicy:
    """Plain code, in the thread of its request: it may block."""

    def __init__(self):
        self.users = RequestLocalCache(self.load)

    def load(self, request):
        return user_of(request.registry.settings, request.session.get("token"))

    def identity(self, request):
        return self.users.get_or_create(request)

    authenticated_userid = identity

    def permits(self, request, context, permission):
        user = self.identity(request)
        principals = [Everyone] if user is None else [Everyone, Authenticated, user]
        return ACLHelper().permits(context, principals, permission)


# The page, and its forms.

FORM = """\
<!doctype html>
<form method="post" action="/{action}">
<input type="hidden" name="csrf_token" value="{token}">
{fields}
<button>{action}</button>
</form>
"""

SIGN_IN = '<input name="user"> <input name="password" type="password">'

LISTEN = """\
<p>You are {user}. <span id="state"></span>
<script>
const socket = new WebSocket("/inbox");
socket.onmessage = ({{ data }}) => {{ state.textContent = data; }};
socket.onclose = ({{ code }}) => {{ if (code === 4401) location.reload(); }};
</script>
"""


@view_config(route_name="page")
def page(request):
    token, user = get_csrf_token(request), request.identity
    if user is None:
        return Response(FORM.format(action="sign_in", token=token, fields=SIGN_IN))
    listen = LISTEN.format(user=escape(user))
    return Response(FORM.format(action="sign_out", token=token, fields=listen))


@view_config(route_name="sign_in", request_method="POST")
def sign_in(request):
    user, password = request.POST["user"], request.POST["password"]
    if not hmac.compare_digest(PASSWORDS.get(user, "").encode(), password.encode()):
        raise HTTPForbidden("wrong name or password")
    token = secrets.token_urlsafe()
    execute(request.registry.settings, "INSERT INTO sign_ins VALUES (?, ?)", token, user)
    request.session.invalidate()  # whoever knew the old one does not know this one
    request.session["token"] = token
    return HTTPSeeOther("/")


@view_config(route_name="sign_out", request_method="POST")
def sign_out_everywhere(request):
    user = request.identity
    execute(request.registry.settings, "DELETE FROM sign_ins WHERE user = ?", user)  # committed
    request.groups.close_connections(f"user:{user}", 4401, "signed out")
    request.session.invalidate()
    return HTTPSeeOther("/")


# The WebSocket.


def ten_for_each_user(request):
    return {f"user {request.identity}": 10}


def still_signed_in(request):
    if request.identity is None:
        raise CloseWebsocket(4401, "signed out")


@websocket_view_config(
    route_name="inbox", permission="listen", admission=ten_for_each_user, max_age=8 * 3600
)
class Inbox(WebsocketConnectionView):
    def __init__(self, context, request):
        super().__init__(context, request)
        self.user, self.token = request.identity, request.session["token"]
        self.groups = request.groups

    async def on_open(self):
        await self.groups.join(f"user:{self.user}", self.ws)
        settings = self.request.registry.settings
        if await use_executor(user_of)(settings, self.token) is None:
            raise CloseWebsocket(4401, "signed out")  # since the handshake
        await self.send("connected")

    @message_scope(check=still_signed_in)
    def on_message(self, message):
        room = ROOMS.get(str(message))
        if room is None or not self.request.has_permission("enter", room):
            synchronize(self.send)("you may not enter")
            return
        synchronize(self.groups.join)(f"room:{message}", self.ws)
        self.groups.publish(f"room:{message}", f"{self.user} enters")


def main(global_config=None, **settings):
    execute(settings, "CREATE TABLE IF NOT EXISTS sign_ins (token TEXT PRIMARY KEY, user TEXT)")
    with Configurator(settings=settings, root_factory=lambda request: Site()) as config:
        config.include("aiopyramid")
        session_factory = SignedCookieSessionFactory(
            settings["session.secret"],
            secure=settings.get("session.secure") != "false",
            httponly=True,
            samesite="Lax",
            timeout=30 * 86400,  # longer than any connection; the rows say how long
        )
        config.set_session_factory(session_factory)
        config.set_security_policy(SecurityPolicy())
        config.set_default_csrf_options(require_csrf=True)
        config.add_route("page", "/")
        for name in ("sign_in", "sign_out", "inbox"):
            config.add_route(name, f"/{name}")
        config.scan(__name__)
        return config.make_wsgi_app()
