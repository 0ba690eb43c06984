"""Rooms, and who is in them: groups of WebSockets, over any number of workers."""

from pyramid.authorization import ACLHelper, Allow, Everyone
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPNotFound, HTTPServiceUnavailable
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import view_config

from aiopyramid.broadcast import after, groups_of
from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

# Who may enter which room. A real application asks its database.

ROOMS = {"kitchen": ["ann", "bob"], "cellar": ["ann"]}


class Room:
    """The context of a room's views."""

    def __init__(self, request):
        name = request.matchdict["room"]
        if name not in ROOMS:
            raise HTTPNotFound()
        self.group, self.typing = f"room:{name}", f"typing:{name}"
        self.__acl__ = [(Allow, user, "enter") for user in ROOMS[name]]


class Policy:
    """A security policy: the session knows the user."""

    def identity(self, request):
        return request.session.get("user")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return ACLHelper().permits(context, [Everyone, self.identity(request)], permission)


@view_config(route_name="sign_in", request_method="POST", renderer="json")
def sign_in(request):
    request.session["user"] = request.POST["user"]


# WebSockets: a function that listens, and a class that talks.


@websocket_view_config(route_name="listen", permission="enter")
async def listen(ws):
    await ws.request.groups.join(ws.context.group, ws)
    async for _ in ws:
        pass  # until the client leaves


@websocket_view_config(route_name="room", permission="enter", max_message_size=4096)
class Chat(WebsocketConnectionView):
    def __init__(self, context, request):
        super().__init__(context, request)
        self.user = request.identity
        self.groups = request.groups

    async def on_open(self):
        group = self.context.group
        where, info = after(self.request, group), {"user": self.user}
        await self.groups.join(group, self.ws, form=TAGGED, last=20, after=where, info=info)

    async def on_message(self, message):
        said = {"user": self.user, "text": str(message)}
        self.groups.publish_json(self.context.group, said)


@websocket_view_config(route_name="typing", permission="enter", max_message_rate=5)
async def typing(ws):
    groups, group = ws.request.groups, ws.context.typing
    await groups.join(group, ws)
    async for message in ws:
        groups.publish(group, message, exclude=ws)  # to all but this one


# Coroutine views, plain views and tweens.


@view_config(route_name="room", websocket=False, permission="enter", renderer="json")
async def who(request):
    members = await request.groups.members(request.context.group)
    return sorted({member["user"] for member in members if member})


@view_config(route_name="say", request_method="POST", permission="enter", renderer="json")
async def say(request):
    said = {"user": request.identity, "text": request.POST["text"]}
    published = request.groups.publish_json(request.context.group, said)
    try:
        await published
    except BroadcastError as exc:
        raise HTTPServiceUnavailable(f"it was perhaps not said: {exc}") from None
    return said


@view_config(route_name="ring", request_method="POST", permission="enter", renderer="json")
def ring(request):
    request.groups.publish_json(request.context.group, {"user": "the bell", "text": "ring"})


def monitor_tween_factory(handler, registry):
    def monitor_tween(request):
        response = handler(request)
        line = f"{response.status_int} {request.method} {request.path}"
        request.groups.publish("monitor", line)
        return response

    return monitor_tween


# A background task: each worker forgets what it remembers when it has changed.


async def watch_menu(registry):
    groups = groups_of(registry)
    while True:  # a listener that is too slow ends
        async with await groups.listen("menu") as changes:
            registry.menu.clear()  # it may have changed before
            async for _ in changes:  # a message, or a gap in which one may be missing
                registry.menu.clear()


def include_menu(config):
    config.registry.menu = {}
    config.add_background_task(watch_menu)


@view_config(route_name="menu", request_method="GET", renderer="json")
def menu(request):
    remembered = request.registry.menu
    if "today" not in remembered:
        with open(request.registry.settings["menu.file"]) as file:
            remembered["today"] = file.read()
    return remembered["today"]


@view_config(route_name="menu", request_method="PUT", renderer="json")
def put_menu(request):
    with open(request.registry.settings["menu.file"], "w") as file:
        file.write(request.text)
    request.groups.publish("menu", "")


# For those who run it.


@view_config(route_name="status", renderer="json")
async def status(request):
    groups = request.groups
    workers = await groups.workers()
    return {
        "workers": {f"{each.host} {each.pid}": each.connections for each in workers},
        "counters": groups.counters.as_dict(),  # of the worker that answers
    }


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.set_session_factory(SignedCookieSessionFactory(settings["session.secret"]))
        config.set_security_policy(Policy())
        config.add_tween("groups.monitor_tween_factory")
        config.include(include_menu)
        config.add_static_view("aiopyramid", "aiopyramid:static")
        for name in ("sign_in", "menu", "status"):
            config.add_route(name, f"/{name}")
        config.add_route("room", "/rooms/{room}", factory=Room)
        for name in ("listen", "typing", "say", "ring"):
            config.add_route(name, f"/rooms/{{room}}/{name}", factory=Room)
        config.scan(__name__)
        return config.make_wsgi_app()
