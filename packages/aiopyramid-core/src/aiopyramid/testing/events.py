"""Server-sent events in tests: what a view sends, without a network."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import EllipsisType
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..app_iter import CoroutineAppIter
from ..sse import TAKER, ServerSentEvent
from .websocket import BODY_WIDTH, LONGER, Timeout, wait_for

P = ParamSpec("P")
T = TypeVar("T")


class NoEvents(Exception):
    """
    The application did not answer with events.

    Attributes:
        response: The `webtest.TestResponse`.
    """

    def __init__(self, response: Any) -> None:
        super().__init__(f"the answer was {response.status}: {response.testbody[:BODY_WIDTH]}")
        self.response = response


class EventsOpening:
    """
    The request of a client that listens.

    Args:
        app: The `webtest.TestApp`.
        url: The path of the view.
        headers: More headers.
        last_event_id: The ``id`` of the last event that the client has seen, if any.
        timeout: How long each wait may take, in seconds.
    """

    what = "request"

    def __init__(
        self,
        app: Any,
        url: str,
        *,
        headers: Mapping[str, str] | None,
        last_event_id: str | None,
        timeout: float | None,
    ) -> None:
        self.app = app
        self.url = url
        self.headers = {"Accept": "text/event-stream", **(headers or {})}
        if last_event_id is not None:
            self.headers["Last-Event-ID"] = last_event_id.encode().decode("latin-1")
        self.timeout = timeout
        self.taken: list[CoroutineAppIter] = []

    def request(self) -> Any:
        """Make the request, in a thread where the application's plain code may run."""
        environ = {"SERVER_PROTOCOL": "HTTP/1.1", TAKER: self.taken.append}
        return self.app.get(
            self.url, headers=self.headers, extra_environ=environ, expect_errors=True
        )

    async def finish(self, response: Any) -> Events:
        """
        Begin to listen, on the loop.

        Raises:
            NoEvents: If the response has none.
        """
        if not self.taken:
            raise NoEvents(response)
        return Events(response, self.taken.pop(), self.timeout)

    async def forget(self) -> None:
        """Close what nobody listens to."""
        for body in self.taken:
            await body.aclose()

    def sync(self, events: Events) -> SyncEvents:
        """Return what plain code listens with."""
        return SyncEvents(events)


class Events:
    """
    The events that a view sends. Each wait is bounded.

    Attributes:
        response: The `webtest.TestResponse`, without the body.
        last_event_id: The ``id`` of the last event that had one.
        retry: The time that a browser is to wait before it reconnects, in milliseconds.
        comments: The comments that have come, such as those that keep the connection alive.
    """

    def __init__(self, response: Any, body: CoroutineAppIter, timeout: float | None) -> None:
        self.response = response
        self.last_event_id: str | None = None
        self.retry: int | None = None
        self.comments: list[str] = []
        self._body = body
        self._timeout = timeout
        self._events: deque[ServerSentEvent] = deque()
        self._rest = b""
        self._reading: asyncio.Task[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Events {self.response.request.path}>"

    async def receive(self, *, timeout: Timeout = ...) -> ServerSentEvent:
        """
        Receive the next event, as a browser would: comments, and events without data, are not.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            The event.

        Raises:
            EOFError: If the response has ended.
            TimeoutError: If no event comes in time.
            BaseException: What the view's iterator raises.
        """
        limit = self._timeout if isinstance(timeout, EllipsisType) else timeout
        try:
            async with asyncio.timeout(limit):
                while not self._events:
                    if not (chunk := await self._read()):
                        raise EOFError("the response has ended")
                    self._rest += chunk
                    self._events.extend(self._cut())
        except TimeoutError:
            raise TimeoutError(f"no event came within {limit} s. {LONGER}") from None
        return self._events.popleft()

    async def _read(self) -> bytes:
        # Cancelling a step of an asynchronous generator would end it.
        if self._reading is None:
            self._reading = asyncio.ensure_future(_next(self._body))
        chunk = await asyncio.shield(self._reading)
        if chunk:
            self._reading = None
        return chunk

    def _cut(self) -> Iterator[ServerSentEvent]:
        *blocks, self._rest = self._rest.split(b"\n\n")
        for block in blocks:
            fields: dict[str, list[str]] = {}
            for line in block.decode().split("\n"):
                name, _, value = line.partition(":")
                fields.setdefault(name, []).append(value.removeprefix(" "))
            self.comments += fields.get("", [])
            self.last_event_id = fields.get("id", [self.last_event_id])[-1]
            if "retry" in fields:
                self.retry = int(fields["retry"][-1])
            if "data" in fields:
                yield ServerSentEvent(
                    data="\n".join(fields["data"]),
                    event=fields.get("event", [None])[-1],
                    id=self.last_event_id,
                )

    async def leave(self, code: int) -> BaseException | None:
        """Leave, as a client that closes its connection."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(BaseException):  # `receive` has raised it
                await self._reading
        await self._body.aclose()
        return None


async def _next(body: CoroutineAppIter) -> bytes:
    return await anext(body, b"")


def _waiting(
    method: Callable[Concatenate[Events, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncEvents, P], T]:
    @functools.wraps(method)
    def call(self: SyncEvents, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return wait_for(method(self.events, *args, **kwargs))

    return call


class SyncEvents:
    """
    The events that a view sends, for plain code: as `Events`, without ``await``.

    Args:
        events: Those events, which come on a loop in another thread.
    """

    def __init__(self, events: Events) -> None:
        self.events = events

    def __getattr__(self, name: str) -> Any:
        return getattr(self.events, name)

    receive = _waiting(Events.receive)
