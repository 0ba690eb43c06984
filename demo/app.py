"""
The demo of aiopyramid: coroutine views, plain views and a WebSocket on one page.

Run it from the root of the repository, under either server::

    gunicorn -c demo/gunicorn.conf.py
    uwsgi --ini demo/uwsgi.ini

One worker keeps the chat in its memory. With a Redis, such as ``REDIS_URL=redis://127.0.0.1/0`` in
the environment, there are two workers and one chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.response import FileResponse, Response
from pyramid.view import view_config

from aiopyramid.broadcast import after, groups_of
from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import use_executor, use_request_thread
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from pyramid.request import Request

PAGE = Path(__file__).with_name("page.html")

# The groups: what was said, with a history; and who is there, with news of that.
SAID, TABS = "said", "tabs"

MAX_NAME = 24
MAX_TEXT = 500
MAX_HISTORY = 50
MAX_TABS = 500  # in each worker
LOOK = 1.0  # seconds from one look at who is there to the next
RATE, PERIOD = 5, 5.0  # messages, seconds

WAIT = 0.2
REQUESTS = 20


def main() -> WSGIApplication:
    """Make the application."""
    settings = {
        "aiopyramid.broadcast.url": os.environ.get("REDIS_URL") or "memory://",
        "aiopyramid.broadcast.history": f"{SAID} = {MAX_HISTORY}",
    }
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_static_view("aiopyramid", "aiopyramid:static")
        config.add_background_task(tell_who_is_there)
        config.add_route("home", "/")
        config.add_route("coroutine", "/coroutine")
        config.add_route("threaded", "/threaded")
        config.add_route("race", "/race")
        config.add_route("steps", "/steps")
        config.add_tween("demo.app.steps_tween_factory")
        config.scan(__name__)
        app: WSGIApplication = config.make_wsgi_app()
    return app


# The page and the chat, on one route.


@view_config(route_name="home", websocket=False, request_method="GET")
def page(request: Request) -> FileResponse:
    """Send the page."""
    return FileResponse(PAGE, request=request)


@websocket_view_config(route_name="home", max_message_size=4096, max_connections=MAX_TABS)
class Chat(WebsocketConnectionView):
    """A tab: ``/?name=Ann``."""

    def __init__(self, context: Any, request: Request) -> None:
        super().__init__(context, request)
        self.id = secrets.token_hex(2)
        try:
            self.name = self._checked_name(request.GET.get("name"))
        except UnicodeDecodeError:
            raise HTTPBadRequest("the name must be UTF-8") from None
        self.groups = request.groups
        self.said: deque[float] = deque(maxlen=RATE)

    def _checked_name(self, name: object) -> str:
        text = " ".join(name.split())[:MAX_NAME] if isinstance(name, str) else ""
        return text or f"Guest {self.id}"

    async def on_open(self) -> None:
        """Let the tab in: it gets what it has missed, or the last messages if it is new."""
        await self.ws.send_json({"type": "welcome", "id": self.id, "name": self.name})
        where = after(self.request, SAID)
        await self.groups.join(SAID, self.ws, form=TAGGED, last=MAX_HISTORY, after=where)
        await self._enter()
        self._tell(f"{self.name} joined")

    async def _enter(self) -> None:
        info = {"id": self.id, "name": self.name, "process": os.getpid()}
        await self.groups.join(TABS, self.ws, form=TAGGED, info=info)

    def _tell(self, text: str) -> None:
        """Tell all tabs who comes and goes."""
        self.groups.publish_json(TABS, {"type": "notice", "text": text})

    async def on_message(self, message: str | bytes) -> None:
        """Do what the tab asks for."""
        try:
            data = json.loads(message)
            kind = data["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            await self.ws.close(1008, "a message is a JSON object with a type")
            return
        if kind == "ping" and isinstance(data.get("sent"), int | float):
            await self.ws.send_json({"type": "pong", "sent": data["sent"], "time": time.time()})
        elif kind == "say":
            await self._say(data.get("text"))
        elif kind == "rename":
            await self._rename(data.get("name"))

    async def _say(self, text: object) -> None:
        if isinstance(text, str) and text.strip() and await self._is_allowed():
            message = {"id": self.id, "name": self.name, "text": text.strip()[:MAX_TEXT]}
            self.groups.publish_json(SAID, {"type": "message", "time": time.time(), **message})

    async def _rename(self, name: object) -> None:
        old, new = self.name, self._checked_name(name)
        if new != old and await self._is_allowed():
            self.name = new
            self.groups.leave(TABS, self.ws)
            await self._enter()
            self._tell(f"{old} is now {new}")
        await self.ws.send_json({"type": "name", "name": self.name})

    async def _is_allowed(self) -> bool:
        now = time.monotonic()
        if len(self.said) == RATE and now - self.said[0] < PERIOD:
            text = f"Not so fast: at most {RATE} messages in {PERIOD:g} seconds"
            await self.ws.send_json({"type": "refused", "text": text})
            return False
        self.said.append(now)
        return True

    async def on_close(self) -> None:
        """Say goodbye for the tab, which has left its groups by itself."""
        self._tell(f"{self.name} left")


async def tell_who_is_there(registry: Any) -> None:
    """
    Tell the tabs when others are there than before.

    Looking now and then also notices the tabs of a worker that was killed, and many changes at once
    are one.
    """
    groups, told = groups_of(registry), None
    while True:
        await asyncio.sleep(LOOK)
        if groups.local_count(TABS):
            with contextlib.suppress(BroadcastError):  # Redis is gone: look again later
                tabs = sorted(await groups.members(TABS), key=itemgetter("name", "id"))
                if tabs != told:
                    groups.publish_json(TABS, {"type": "members", "tabs": tabs})
                    told = tabs


# One request, step by step, and the thread of each.


def here() -> str:
    """Tell in which process and thread this runs."""
    return f"{os.getpid()} {threading.current_thread().name}"


def note(request: Request, what: str) -> None:
    """Note which thread does this."""
    request.environ["demo.steps"].append([what, here()])


def steps_tween_factory(
    handler: Callable[[Request], Response], registry: Any
) -> Callable[[Request], Response]:
    """Make a tween that notes what comes before and after a view."""

    def steps_tween(request: Request) -> Response:
        request.environ["demo.steps"] = steps = []
        note(request, "tween, before the view")
        response = handler(request)
        if request.matched_route is not None and request.matched_route.name == "steps":
            note(request, "tween, after the view")
            response.json_body = steps
        return response

    return steps_tween


@view_config(route_name="steps")
async def steps(request: Request) -> Response:
    """Let the loop, the thread of the request and another one do something."""
    note(request, "async def view, begins")
    try:
        await use_request_thread(note)(request, "plain code, by use_request_thread")
    except ScopeError:
        note(request, "use_request_thread finds no request's thread: requests run on the loop")
    await use_executor(note)(request, "plain code, by use_executor")
    note(request, "async def view, ends")
    return Response()


# The race: the same wait in a coroutine and in a thread.


@view_config(route_name="coroutine", renderer="json")
async def coroutine(request: Request) -> dict[str, Any]:
    """Wait on the event loop."""
    began = time.monotonic()
    await asyncio.sleep(WAIT)
    return {"began": began, "thread": here()}


@view_config(route_name="threaded", renderer="json")
def threaded(request: Request) -> dict[str, Any]:
    """Wait in the request's own thread."""
    began = time.monotonic()
    time.sleep(WAIT)
    return {"began": began, "thread": here()}


races = asyncio.Semaphore(4)


@view_config(route_name="race", request_method="POST")
async def race(request: Request) -> Response:
    """
    Send many requests at once, to one view and then to the other, and stream the answers.

    Not to both together, or those that sleep in threads would let the others queue. The
    requests go out from here, because a browser opens no more than six connections to a
    server at a time.
    """
    address = request.environ["SERVER_NAME"], int(request.environ["SERVER_PORT"])
    return Response(app_iter=run_race(address), content_type="application/x-ndjson")


async def run_race(address: tuple[str, int]) -> AsyncIterator[bytes]:
    """Yield one line of JSON for each answer."""
    async with races:
        for view in ("coroutine", "threaded"):
            begin = time.monotonic()
            runners = [
                asyncio.create_task(run(address, view, number, begin)) for number in range(REQUESTS)
            ]
            try:
                for runner in asyncio.as_completed(runners):
                    yield json.dumps(await runner).encode() + b"\n"
            finally:
                for unfinished in runners:
                    unfinished.cancel()


async def run(address: tuple[str, int], view: str, number: int, begin: float) -> dict[str, Any]:
    """Send one request, and tell when it began to run and when it was answered."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(f"GET /{view} HTTP/1.0\r\nHost: {address[0]}\r\n\r\n".encode())
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    answer = json.loads(body)
    return {
        "view": view,
        "number": number,
        "began": answer["began"] - begin,
        "ended": time.monotonic() - begin,
        "thread": answer["thread"],
    }
