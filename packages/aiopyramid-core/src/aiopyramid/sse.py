"""
Server-sent events (HTML Living Standard, section 9.2): what a server tells a browser, over HTTP.

A view returns an `EventSourceResponse` with an asynchronous iterator of events, and no thread is
held while they are sent. The iterator runs in a task of its own and is at most ``max_queue``
events ahead of the client. It is closed, its ``finally`` blocks included, when the client
leaves, when the worker ends, and when it fails.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Any

from pyramid.renderers import render
from pyramid.response import Response

from .app_iter import CoroutineAppIter

__all__ = [
    "EventQueue",
    "EventSourceResponse",
    "ServerSentEvent",
    "last_event_id",
]

TAKER = "aiopyramid.sse.taker"
"""Where in the WSGI environ a client in the same process puts a function that takes the body."""

KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """
    An event.

    Args:
        data: The text of the event, of any number of lines. A browser ignores events without data.
        event: The type of the event, by which a page listens to it; ``message`` to a browser if
            it is not given.
        id: What the browser sends as ``Last-Event-ID`` when it reconnects.
        retry: How long the browser is to wait before it reconnects, in milliseconds.
        comment: Text that browsers ignore.

    Raises:
        TypeError: For a text that is no `str`.
        ValueError: For a text that cannot be encoded, a line break in ``event`` or ``id``, a NUL
            in ``id``, or a ``retry`` that is no whole number.
    """

    data: str | None = None
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        # Here, and not where it is sent: that would be once for each client.
        for name in ("data", "event", "id", "comment"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise TypeError(f"{name} = {value!r} must be a str")
            value.encode()
            if name in ("event", "id") and not {"\n", "\r", "\0"}.isdisjoint(value):
                raise ValueError(f"{name} = {value!r} must be one line, without NUL")
        if self.retry is not None and (type(self.retry) is not int or self.retry < 0):
            raise ValueError(f"retry = {self.retry!r} must be a whole number of milliseconds")

    @classmethod
    def json(cls, value: Any, **fields: Any) -> ServerSentEvent:
        """
        Make an event of a value, rendered by Pyramid's ``json`` renderer and its adapters.

        Args:
            value: The value.
            fields: The other fields of the event.
        """
        return cls(data=render("json", value), **fields)

    def encode(self) -> bytes:
        """Return the event as it is sent."""
        fields = (
            ("", self.comment),
            ("event", self.event),
            ("id", self.id),
            ("retry", self.retry),
            ("data", self.data),
        )
        lines = [
            f"{name}: {line}\n"
            for name, value in fields
            if value is not None
            for line in _lines(str(value))
        ]
        return "".join([*lines, "\n"]).encode()


def _lines(text: str) -> list[str]:
    # Not `splitlines`: it knows more line ends than browsers do.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def last_event_id(request: Any) -> str | None:
    """
    Return the ``id`` of the last event that the browser has seen, if it reconnects.

    Args:
        request: The request.
    """
    value = request.environ.get("HTTP_LAST_EVENT_ID")
    return value.encode("latin-1").decode(errors="replace") if value else None


class EventSourceResponse(Response):  # type: ignore[misc]
    """
    A response that sends events for as long as there are any, and the client listens.

    A browser reconnects when the response ends. What tells it not to is a response with
    status 204.

    Args:
        events: The events; a `str` is an event's data. Typically an asynchronous generator or
            an `EventQueue`.
        keep_alive: A comment is sent when there was no event for so many seconds, so that
            proxies keep the connection, and a client that is gone is noticed.
        retry: How long the browser is to wait before it reconnects, in milliseconds; its own
            choice, a few seconds, if it is not given.
        max_queue: How many events may wait for a client that reads slowly. Then the iterator
            waits.
        options: Arguments of `pyramid.response.Response`.
    """

    def __init__(
        self,
        events: AsyncIterable[ServerSentEvent | str],
        *,
        keep_alive: float = 15.0,
        retry: int | None = None,
        max_queue: int = 16,
        **options: Any,
    ) -> None:
        if keep_alive <= 0:
            raise ValueError(f"keep_alive = {keep_alive!r} must be a number of seconds above 0")
        if max_queue < 1:
            raise ValueError(f"max_queue = {max_queue!r} must be at least 1")
        first = ServerSentEvent(retry=retry, comment=None if retry is not None else "")
        super().__init__(**options)
        self.headers["Content-Type"] = "text/event-stream"
        self.headers.setdefault("Cache-Control", "no-cache")
        self.headers.setdefault("X-Accel-Buffering", "no")  # nginx would wait for more
        stream = EventStream(aiter(events), first, keep_alive, max_queue)
        self.app_iter: Any = CoroutineAppIter(stream)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer, as a WSGI application."""
        take = environ.get(TAKER)
        if take is not None:
            take(self.app_iter)
            self.app_iter = []
        return super().__call__(environ, start_response)


class EventStream:
    """
    The body of an `EventSourceResponse`.

    Args:
        events: The events.
        first: What is sent before them.
        keep_alive: Seconds.
        max_queue: How many events may wait.
    """

    #: A client that has closed its side of the connection does not listen any more.
    ends_with_client = True

    def __init__(
        self,
        events: AsyncIterator[ServerSentEvent | str],
        first: ServerSentEvent,
        keep_alive: float,
        max_queue: int,
    ) -> None:
        # So that plain code below the events can wait, as below any other body.
        self._events: Any = CoroutineAppIter(events)
        self._keep_alive = keep_alive
        self._max_queue = max_queue
        self._chunks = [first.encode()]
        #: The view's, so that the events are made with its current request.
        self.context = contextvars.copy_context()
        self._pump: asyncio.Task[None] | None = None
        self._begun = False
        self._changed: asyncio.Future[None] | None = None
        self._room = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        Return all that waits, or a comment when nothing has come for long.

        Raises:
            StopAsyncIteration: At the end.
        """
        if self._pump is None:
            pump = asyncio.get_running_loop().create_task(self._run(), context=self.context)
            self._pump = pump
            pump.add_done_callback(self._ended)
            streams.opened(self)
        elif not self._chunks and not self._pump.done():
            await self._wait()
        if self._chunks:
            chunk = b"".join(self._chunks)
            self._chunks.clear()
            self._room.set()
            return chunk
        if not self._pump.done():
            return KEEP_ALIVE
        if not self._pump.cancelled() and (exception := self._pump.exception()) is not None:
            raise exception
        raise StopAsyncIteration

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._changed = changed = loop.create_future()
        timer = loop.call_later(self._keep_alive, self._wake)
        try:
            await changed
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _run(self) -> None:
        self._begun = True
        try:
            async for event in self._events:
                while len(self._chunks) >= self._max_queue:
                    self._room.clear()
                    await self._room.wait()
                self._chunks.append(_event(event).encode())
                self._wake()
        finally:
            await self._events.aclose()  # in the task that has iterated

    def _ended(self, pump: asyncio.Task[None]) -> None:
        streams.ended(self)
        self._wake()

    def end(self) -> None:
        """End the response in order, because the worker ends."""
        if self._pump is not None:
            self._pump.cancel()

    async def aclose(self) -> None:
        """Close the iterator of the events, and wait for its end."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        if not self._begun:
            await self._events.aclose()


def _event(event: ServerSentEvent | str) -> ServerSentEvent:
    if isinstance(event, str):
        return ServerSentEvent(data=event)
    if not isinstance(event, ServerSentEvent):
        raise TypeError(f"an event is a ServerSentEvent or a str, not {event!r}")
    return event


class Streams:
    """The responses of this process that send events now."""

    def __init__(self) -> None:
        self._open: set[EventStream] = set()
        self._ending = False

    def opened(self, stream: EventStream) -> None:
        """Count a stream, and end it at once if the worker ends."""
        self._open.add(stream)
        if self._ending:
            stream.end()

    def ended(self, stream: EventStream) -> None:
        """Stop counting a stream."""
        self._open.discard(stream)

    def end(self) -> None:
        """End all streams, now and from now on: the worker ends."""
        self._ending = True
        for stream in tuple(self._open):
            stream.end()


streams = Streams()
"""Those of this process."""


class EventQueue:
    """
    Events from elsewhere, for one client: an asynchronous iterator with an end that can be fed.

    It is bounded. A client that falls so far behind is disconnected. Its browser reconnects,
    and tells by ``Last-Event-ID`` what it has missed.

    Args:
        max_size: How many events may wait.
    """

    def __init__(self, max_size: int = 100) -> None:
        if max_size < 1:
            raise ValueError(f"max_size = {max_size!r} must be at least 1")
        self.closed = False
        self._max_size = max_size
        self._events: deque[ServerSentEvent] = deque()
        self._changed = asyncio.Event()

    def put(self, event: ServerSentEvent | str) -> bool:
        """
        Add an event, on the event loop. Never waits, and never raises for a client's sake.

        Args:
            event: The event; a `str` is its data.

        Returns:
            True, or False if the queue is closed. If it is full, it is closed now.

        Raises:
            TypeError: For what is no event.
            ValueError: For a text that cannot be encoded.
        """
        event = _event(event)
        if not self.closed and len(self._events) >= self._max_size:
            self._events.clear()
            self.close()
        if self.closed:
            return False
        self._events.append(event)
        self._changed.set()
        return True

    def close(self) -> None:
        """End the iterator behind the events that wait."""
        self.closed = True
        self._changed.set()

    def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        return self

    async def __anext__(self) -> ServerSentEvent:
        while not self._events:
            if self.closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """Close the queue, and drop what waits: the client has left."""
        self.close()
        self._events.clear()
