"""
Members of groups: connections and listeners, each with a queue of its own.

Who reads slowly holds up nobody: what waits for a member is bounded, and above the bound the
member is closed or messages are dropped, as the settings say. Where messages were dropped, the
member is told of the gap.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, NamedTuple

from websockets.frames import CloseCode

from ..websocket.connection import WebsocketConnection
from ..websocket.protocol import OPEN
from .backends import Position
from .forms import Form, Frames, encode
from .messages import Message, Resync
from .settings import BroadcastSettings

logger = logging.getLogger("aiopyramid.broadcast")

OnResync = Callable[[Resync], Any]

MAX_HELD = 10_000
"""Messages that wait for a member that is being sent the history."""


class Counters:
    """
    What has happened to the messages of this worker's groups.

    Attributes:
        published: Messages that were published here.
        failed: Those of them that did not reach the broker, or may not have.
        delivered: Messages to members: each counts once for each of them.
        dropped: Those that were dropped because a member, or this worker, was slow.
        closed: Members that were closed because they were slow.
        resyncs: Gaps that members were told of: each counts once for each of them.
    """

    __slots__ = ("closed", "delivered", "dropped", "failed", "published", "resyncs")

    def __init__(self) -> None:
        self.published = self.failed = self.delivered = 0
        self.dropped = self.closed = self.resyncs = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Member:
    """
    A member of one group.

    Args:
        name: Tells it from all others, in all workers.
    """

    __slots__ = ("_behind", "_held", "info", "name")

    def __init__(self, name: str, info: Any = None) -> None:
        self.name = name
        #: What others are told about it.
        self.info = info
        # What has arrived while it is sent the history.
        self._held: list[Message] | None = None
        # Up to where the history has gone, while messages of it may still arrive.
        self._behind: Position | None = None

    def take(self, frames: Frames) -> None:
        """Take messages, in order. Never waits."""
        if self._held is not None:
            self._held += frames.messages[: MAX_HELD + 1 - len(self._held)]
        elif self._behind is not None or (frames.excluding and self.name in frames.excluding):
            wanted = [each for each in frames.messages if self._wants(each)]
            if wanted:
                self.put(Frames(wanted))
        else:
            self.put(frames)

    def _wants(self, message: Message) -> bool:
        behind = self._behind
        if behind is not None:
            position = message.id and Position.parse(message.id)
            if position and position.epoch == behind.epoch and position.number <= behind.number:
                return False
            self._behind = None
        return message._exclude != self.name

    def hold(self) -> None:
        """Let what arrives wait, until `release`."""
        self._held = []

    def release(
        self,
        group: str,
        history: Iterable[Message] = (),
        gap: Resync | None = None,
        behind: Position | None = None,
    ) -> None:
        """
        Take the history, and what has arrived meanwhile.

        Args:
            group: The name of the group.
            history: The messages.
            gap: What is missing before them, if something is.
            behind: The position of the last one, in a group with history.
        """
        held, self._held = self._held or [], None
        if gap is not None:
            self.tell(gap)
        for message in history:
            self.take(Frames([message]))
        self.joined(group, None if behind is None else str(behind))
        self._behind = behind
        for message in held[:MAX_HELD]:
            self.take(Frames([message]))
        if len(held) > MAX_HELD:
            self.tell(Resync(group, "overflow"))

    def put(self, frames: Frames) -> None:
        """Put messages into the queue."""
        raise NotImplementedError

    def tell(self, resync: Resync) -> None:
        """Tell of a gap, behind what waits."""
        raise NotImplementedError

    def joined(self, group: str, id_: str | None) -> None:
        """Tell that it has joined, and in a group with history, where it is."""

    def close(self, code: int, reason: str) -> None:
        """End it, because somebody asks for that."""
        raise NotImplementedError


class Waiting(NamedTuple):
    """What waits for a connection: frames, or news of a gap."""

    member: ConnectionMember
    frames: bytes
    messages: int
    resync: Resync | None = None


class Outbox:
    """
    What waits for a connection, of all groups that it is in.

    Args:
        ws: The connection.
        name: Its name.
        settings: The bounds, and what happens at them.
        counters: Where to count.
    """

    __slots__ = (
        "_count",
        "_settings",
        "_size",
        "_waiting",
        "counters",
        "members",
        "name",
        "window_bits",
        "ws",
    )

    def __init__(
        self,
        ws: WebsocketConnection[Any, Any],
        name: str,
        settings: BroadcastSettings,
        counters: Counters,
    ) -> None:
        self.ws = ws
        self.name = name
        #: By group.
        self.members: dict[str, ConnectionMember] = {}
        #: How frames are compressed that it shares with others.
        self.window_bits = ws.protocol.judge.forget_context()
        self._settings = settings
        self.counters = counters
        self._waiting: deque[Waiting] = deque()
        self._count = self._size = 0  # of the messages that wait
        ws.protocol.writer.resumed = self._flush

    def put(self, member: ConnectionMember, frames: bytes, count: int) -> None:
        """Write frames, or let them wait."""
        protocol = self.ws.protocol
        if protocol.state is not OPEN:
            return
        if protocol.writer.writable is None and not self._waiting:
            protocol.messages_sent += count
            protocol.writer.write_shared(frames)
            self.counters.delivered += count
        elif self._make_room(member, count):
            member.has_gap = False
            self._waiting.append(Waiting(member, frames, count))
            self._count += count
            self._size += len(frames)

    def tell(self, member: ConnectionMember, resync: Resync) -> None:
        """Tell of a gap when its turn comes."""
        if self._waiting:
            self._waiting.append(Waiting(member, b"", 0, resync))
        else:
            member.told(resync)

    def _make_room(self, member: ConnectionMember, count: int) -> bool:
        settings = self._settings
        while self._count >= settings.max_queue or self._size >= settings.max_queue_size:
            if settings.overflow == "close":
                self.counters.closed += 1
                self.ws.close_nowait(CloseCode.TRY_AGAIN_LATER, "messages are read too slowly")
                return False
            if settings.overflow == "drop_newest":
                self.counters.dropped += count
                if not member.has_gap:
                    member.has_gap = True
                    self.tell(member, Resync(member.group, "overflow"))
                return False
            self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        gaps = []
        while (item := self._waiting.popleft()).resync is not None:
            gaps.append(item)
        self._count -= item.messages
        self._size -= len(item.frames)
        self.counters.dropped += item.messages
        if not any(gap.member is item.member for gap in gaps):
            gaps.append(Waiting(item.member, b"", 0, Resync(item.member.group, "overflow")))
        self._waiting.extendleft(reversed(gaps))

    def _flush(self) -> None:
        protocol = self.ws.protocol
        while self._waiting and protocol.writer.writable is None:
            member, frames, count, resync = self._waiting.popleft()
            if resync is not None:
                member.told(resync)
                continue
            self._count -= count
            self._size -= len(frames)
            protocol.messages_sent += count
            protocol.writer.write_shared(frames)
            self.counters.delivered += count

    def clear(self) -> None:
        """Forget what waits: the connection ends."""
        self._waiting.clear()
        self._count = self._size = 0
        self.ws.protocol.writer.resumed = None


class ConnectionMember(Member):
    """
    A WebSocket connection in a group.

    Args:
        group: The name of the group.
        outbox: The connection's queue.
        form: What it is sent of a message.
        on_resync: Called for each gap.
        info: What others are told about it.
    """

    __slots__ = ("_context", "_on_resync", "form", "group", "has_gap", "outbox")

    def __init__(
        self,
        group: str,
        outbox: Outbox,
        form: Form,
        on_resync: OnResync | None,
        info: Any,
    ) -> None:
        super().__init__(outbox.name, info)
        self.group = group
        self.outbox = outbox
        self.form = form
        self.has_gap = False
        self._on_resync = on_resync
        self._context = copy_context() if on_resync is not None else None

    def put(self, frames: Frames) -> None:
        outbox = self.outbox
        encoded = frames.encoded(self.form, outbox.window_bits)
        if encoded is None:
            self.tell(Resync(self.group, "lost"))
        else:
            outbox.put(self, encoded, len(frames.messages))

    def tell(self, resync: Resync) -> None:
        if self._held is None:
            self.outbox.tell(self, resync)

    def told(self, resync: Resync) -> None:
        """Tell of a gap now."""
        outbox = self.outbox
        outbox.counters.resyncs += 1
        data = self.form.resync(resync)
        if data is not None:
            outbox.ws.protocol.writer.write_shared(encode(data, outbox.window_bits))
            outbox.ws.protocol.messages_sent += 1
        if self._context is not None and self._on_resync is not None:
            self._context.copy().run(_call, self._on_resync, resync)
        elif data is None:
            outbox.ws.close_nowait(
                CloseCode.SERVICE_RESTART, f"messages are missing: {resync.reason}"
            )

    def joined(self, group: str, id_: str | None) -> None:
        data = self.form.joined(group, id_)
        if data is not None:
            self.outbox.put(self, encode(data, self.outbox.window_bits), 1)

    def close(self, code: int, reason: str) -> None:
        self.outbox.ws.close_nowait(code, reason)


_tasks: set[asyncio.Task[None]] = set()


def _call(on_resync: OnResync, resync: Resync) -> None:
    try:
        result = on_resync(resync)
    except Exception:
        logger.exception("on_resync of group %r raised an exception", resync.group)
        return
    if inspect.iscoroutine(result):
        task = asyncio.get_running_loop().create_task(_finish(result, resync))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


async def _finish(result: Any, resync: Resync) -> None:
    try:
        await result
    except Exception:
        logger.exception("on_resync of group %r raised an exception", resync.group)


class Listener(Member):
    """
    Listens to a group: an asynchronous iterator of messages and gaps.

    It ends when it is closed, or too slow and the settings say that this closes it.
    """

    __slots__ = (
        "_changed",
        "_count",
        "_counters",
        "_leave",
        "_queue",
        "_settings",
        "_size",
        "closed",
        "group",
    )

    def __init__(
        self,
        group: str,
        name: str,
        settings: BroadcastSettings,
        counters: Counters,
        info: Any,
        leave: Callable[[], None],
    ) -> None:
        super().__init__(name, info)
        self.group = group
        self.closed = False
        self._settings = settings
        self._counters = counters
        self._leave = leave
        self._queue: deque[Message | Resync] = deque()
        self._count = self._size = 0
        self._changed = asyncio.Event()

    def put(self, frames: Frames) -> None:
        for message in frames.messages:
            if self.closed:
                return
            if self._make_room():
                self._queue.append(message)
                self._count += 1
                self._size += len(message.data)
        self._changed.set()

    def tell(self, resync: Resync) -> None:
        if self._held is None and not self.closed:
            self._counters.resyncs += 1
            self._queue.append(resync)
            self._changed.set()

    def _make_room(self) -> bool:
        settings = self._settings
        while self._count >= settings.max_queue or self._size >= settings.max_queue_size:
            if settings.overflow == "close":
                self._counters.closed += 1
                self._queue.clear()
                self.close()
                return False
            self._counters.dropped += 1
            gap = Resync(self.group, "overflow")
            if settings.overflow == "drop_newest":
                if self._queue[-1] != gap:
                    self.tell(gap)
                return False
            gaps = []
            while isinstance(item := self._queue.popleft(), Resync):
                gaps.append(item)
            self._taken(item)
            if gap not in gaps:
                self._counters.resyncs += 1
                gaps.append(gap)
            self._queue.extendleft(reversed(gaps))
        return True

    def _taken(self, message: Message) -> None:
        self._count -= 1
        self._size -= len(message.data)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """
        End behind what waits.

        Args:
            code: Not used: a listener has no close code.
            reason: Not used.
        """
        if not self.closed:
            self.closed = True
            self._leave()
            self._changed.set()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Message | Resync:
        while not self._queue:
            if self.closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        item = self._queue.popleft()
        if isinstance(item, Message):
            self._taken(item)
            self._counters.delivered += 1
        return item

    async def aclose(self) -> None:
        """Leave the group, and drop what waits."""
        self.close()
        self._queue.clear()

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
