"""
The demo of aiopyramid: coroutine views, plain views and a WebSocket on one page.

Run it from the root of the repository, under either server::

    gunicorn -c demo/gunicorn.conf.py
    uwsgi --ini demo/uwsgi.ini
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.response import FileResponse, Response
from pyramid.view import view_config

from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import use_executor, use_request_thread
from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from pyramid.request import Request

PAGE = Path(__file__).with_name("page.html")

MAX_NAME = 24
MAX_TEXT = 500
MAX_HISTORY = 50
MAX_OUTBOX = 100
MAX_TABS = 500
RATE, PERIOD = 5, 5.0  # messages, seconds

WAIT = 0.2
REQUESTS = 20


def main() -> WSGIApplication:
    """Make the application."""
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("home", "/")
        config.add_route("coroutine", "/coroutine")
        config.add_route("threaded", "/threaded")
        config.add_route("race", "/race")
        config.add_route("steps", "/steps")
        config.add_tween("demo.app.steps_tween_factory")
        config.scan(__name__)
        app: WSGIApplication = config.make_wsgi_app()
    return app


# The page and the chat room, on one route.


@view_config(route_name="home", websocket=False, request_method="GET")
def page(request: Request) -> FileResponse:
    """Send the page."""
    return FileResponse(PAGE, request=request)


class Room:
    """The tabs that are open, and what was said last."""

    def __init__(self) -> None:
        self.members: set[Chat] = set()
        self.history: deque[dict[str, Any]] = deque(maxlen=MAX_HISTORY)
        # Pages skip what they have shown; so numbers go up across restarts too.
        self.numbers = itertools.count(time.time_ns() // 1_000_000)

    def say(self, author: Chat, text: str) -> None:
        """Tell all tabs what somebody says."""
        message = {
            "type": "message",
            "number": next(self.numbers),
            "author": author.number,
            "name": author.name,
            "text": text,
            "time": time.time(),
        }
        self.history.append(message)
        self._broadcast(message)

    def tell(self, text: str) -> None:
        """Tell all tabs who comes and goes."""
        self._broadcast(
            {
                "type": "notice",
                "number": next(self.numbers),
                "text": text,
                "tabs": len(self.members),
            }
        )

    def _broadcast(self, message: dict[str, Any]) -> None:
        encoded = json.dumps(message)
        for member in self.members:
            member.post(encoded)


room = Room()


@websocket_view_config(route_name="home", max_message_size=4096, max_connections=MAX_TABS)
class Chat(WebsocketConnectionView):
    """A tab: ``/?name=Ann``."""

    numbers = itertools.count(1)

    def __init__(self, context: Any, request: Request) -> None:
        super().__init__(context, request)
        self.number = next(self.numbers)
        try:
            self.name = self._checked_name(request.GET.get("name"))
        except UnicodeDecodeError:
            raise HTTPBadRequest("the name must be UTF-8") from None
        self.said: deque[float] = deque(maxlen=RATE)
        # A tab that reads slowly delays nobody else: it has a queue of its own.
        self.outbox: asyncio.Queue[str] = asyncio.Queue(MAX_OUTBOX)

    def _checked_name(self, name: object) -> str:
        text = " ".join(name.split())[:MAX_NAME] if isinstance(name, str) else ""
        return text or f"Guest {self.number}"

    async def on_open(self) -> None:
        """Let the tab in."""
        self.sender = asyncio.create_task(self._send_posts())
        welcome = {
            "type": "welcome",
            "author": self.number,
            "name": self.name,
            "history": list(room.history),
        }
        self.post(json.dumps(welcome))
        room.members.add(self)
        room.tell(f"{self.name} joined")

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
            room.say(self, text.strip()[:MAX_TEXT])

    async def _rename(self, name: object) -> None:
        old, new = self.name, self._checked_name(name)
        if new != old and await self._is_allowed():
            self.name = new
            room.tell(f"{old} is now {new}")
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
        """Say goodbye for the tab."""
        self.sender.cancel()
        if self in room.members:
            room.members.discard(self)
            room.tell(f"{self.name} left")

    def post(self, encoded: str) -> None:
        """Send a message when the tab is ready for it; give up on a tab that is too slow."""
        try:
            self.outbox.put_nowait(encoded)
        except asyncio.QueueFull:
            self.ws.close_nowait(1013, "this tab reads too slowly")

    async def _send_posts(self) -> None:
        with contextlib.suppress(WebsocketClosed):
            while True:
                await self.ws.send(await self.outbox.get())


# One request, step by step, and the thread of each.


def note(request: Request, what: str) -> None:
    """Note which thread does this."""
    request.environ["demo.steps"].append([what, threading.current_thread().name])


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
    return {"began": began, "thread": threading.current_thread().name}


@view_config(route_name="threaded", renderer="json")
def threaded(request: Request) -> dict[str, Any]:
    """Wait in the request's own thread."""
    began = time.monotonic()
    time.sleep(WAIT)
    return {"began": began, "thread": threading.current_thread().name}


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
