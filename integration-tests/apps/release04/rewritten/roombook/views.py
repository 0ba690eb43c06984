import asyncio
import threading
from contextlib import suppress

from pyramid.httpexceptions import HTTPForbidden, HTTPFound
from pyramid.response import Response
from pyramid.security import forget, remember
from pyramid.view import forbidden_view_config, view_config, view_defaults

from aiopyramid.helpers import synchronize, use_executor
from aiopyramid.websocket.exceptions import WebsocketClosed

from .resources import Room, Year
from .store import RoomTaken


@view_config(route_name="home", renderer="json")
async def home(request):
    return {"rooms": await request.registry.store.rooms()}


@view_config(route_name="search", renderer="json")
async def search(request):
    await asyncio.sleep(0.01)
    rooms = await request.registry.store.rooms()
    return {"found": [room for room in rooms if request.params["q"] in room]}


@view_config(route_name="plan", renderer="string")
async def plan(request):
    store = request.registry.store
    rooms = await asyncio.gather(store.room("attic"), store.room("cellar"))
    return f"days booked: {sum(len(room) for room in rooms)}"


async def price(room):
    await asyncio.sleep(0.01)
    return {"attic": 20, "cellar": 10}[room]


async def total(rooms):
    return sum(await asyncio.gather(*[price(room) for room in rooms]))


@view_config(route_name="prices", renderer="json")
async def prices(request):
    return {"total": await total(await request.registry.store.rooms())}


@synchronize
async def loop_thread():
    return threading.current_thread()


@use_executor
def typeset(rooms):
    assert threading.current_thread() is not loop_thread()
    return ", ".join(rooms)


@view_config(route_name="printout")
async def printout(request):
    text = await typeset(await request.registry.store.rooms())
    return Response(text, content_type="text/plain", charset="utf-8")


@view_config(route_name="blocking", renderer="json")
def blocking(request):
    return {
        "blocks the loop": threading.current_thread() is loop_thread(),
        "number": request.number,
    }


@view_defaults(route_name="settings", renderer="json")
class Settings:
    """Plain code, in a class."""

    values = {"colour": "blue"}  # noqa: RUF012

    def __init__(self, request):
        self.request = request

    @view_config(request_method="GET")
    def show(self):
        return self.values

    @view_config(request_method="POST")
    def save(self):
        self.values["colour"] = self.request.POST["colour"]
        return HTTPFound(self.request.route_url("settings"))


@view_config(route_name="occupancy", renderer="json")
class Occupancy:
    def __init__(self, request):
        self.request = request

    async def __call__(self):
        return {"cellar": sorted(await self.request.registry.store.room("cellar"))}


@view_config(route_name="login", request_method="POST")
async def login(request):
    return HTTPFound("/whoami", headers=remember(request, request.POST["name"]))


@view_config(route_name="logout")
async def logout(request):
    return HTTPFound("/whoami", headers=forget(request))


@view_config(route_name="whoami", renderer="json")
async def whoami(request):
    return request.identity


@view_config(context=Room, renderer="json")
@view_config(context=Room, route_name="watch", renderer="json")
async def room(context, request):
    await context.store.round_trip()
    return {"name": context.__name__, "bookings": context.bookings}


@view_config(context=Room, name="book", renderer="json", request_method="POST", permission="book")
async def book(context, request):
    userid = request.authenticated_userid
    day = request.POST["day"]
    bookings = await context.store.book(context.__name__, day, userid)
    for watcher in tuple(request.registry.watchers):
        if watcher.context.__name__ == context.__name__:
            with suppress(WebsocketClosed):  # by one that has left just now
                await watcher.send(f"{userid} has booked {day}")
    return bookings


@view_config(context=RoomTaken, renderer="json")
async def taken(exc, request):
    await request.registry.store.round_trip()
    request.response.status_int = 409
    return {"taken by": str(exc)}


@forbidden_view_config(renderer="json")
def forbidden(request):
    request.response.status_int = HTTPForbidden.code
    return {"sorry": request.path}


@view_config(context=Year, route_name="archive", renderer="json")
async def year(context, request):
    await asyncio.sleep(0.01)
    return {context.number: context.count}


@view_config(route_name="state", renderer="json")
def state(request):
    registry = request.registry
    return {
        "audit": registry.audit,
        "watchers": len(registry.watchers),
        "farewells": registry.farewells,
    }
