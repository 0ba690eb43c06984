"""A group in this worker: its members, and the way from the broker to them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from time import perf_counter

from websockets.frames import CloseCode

from .backends import START, History, Position
from .forms import Frames
from .members import Counters, Member
from .messages import Closing, Envelope, Message, Reason, Resync, Seen

logger = logging.getLogger("aiopyramid.broadcast")

# How long members are served before the loop's other callbacks have their turn, in seconds, and
# after how many of them to look at the clock.
TURN = 0.001
LOOK = 16

# Messages that go out to a member by one write, and their bytes.
MAX_BATCH = 64
MAX_BATCH_SIZE = 65536

# What may wait for the members of a group: messages, and their bytes.
MAX_BACKLOG = 1000
MAX_BACKLOG_SIZE = 2**24

# What has arrived while the history is asked for.
MAX_STASH = 10_000


class Group:
    """
    A group that has members in this worker.

    Args:
        name: Its name.
        counters: Where to count.
    """

    __slots__ = (
        "_backlog",
        "_counters",
        "_members",
        "_rest",
        "_sending",
        "_size",
        "_stash",
        "fill_again",
        "is_subscribed",
        "latest",
        "members",
        "name",
        "seen",
        "subscription",
        "wanted",
    )

    def __init__(self, name: str, counters: Counters) -> None:
        self.name = name
        self.members: dict[Member, None] = {}
        #: The position of the last message, in a group with history.
        self.latest: Position | None = None
        self.seen = Seen()
        #: Whether it is and should be subscribed to, and the task that sees to that.
        self.is_subscribed = False
        self.wanted = True
        self.subscription: asyncio.Task[None] | None = None
        self._counters = counters
        self._backlog: deque[Message | Resync | Closing] = deque()
        self._size = 0  # of the messages in it
        self._sending: Frames | Resync | Closing | None = None
        self._rest: Iterator[Member] = iter(())
        self._stash: list[tuple[Envelope, Position]] | None = None
        #: Whether more may be missing than what is asked for now.
        self.fill_again = False

    def forget(self) -> None:
        """Forget where it was: it is not subscribed to any more."""
        self.is_subscribed = False
        self.latest = None
        self.seen.clear()

    # What arrives.

    def is_next(self, envelope: Envelope, position: Position | None) -> bool | None:
        """
        Judge a message by its number.

        Returns:
            False if messages are missing before it, ``None`` if it has been here before.
        """
        if position is None:
            return self.seen.is_next(envelope)
        latest = self.latest
        if latest is None:
            return True
        if latest.epoch != position.epoch:
            return latest == START and position.number == 1
        if position.number <= latest.number:
            return None
        return position.number == latest.number + 1

    def add(self, envelope: Envelope, position: Position | None) -> bool:
        """
        Let a message wait for the members.

        Returns:
            False if it was dropped, because too many wait.
        """
        if position is not None:
            self.latest = position
        if len(self._backlog) >= MAX_BACKLOG or self._size >= MAX_BACKLOG_SIZE:
            self._counters.dropped += len(self.members)
            self.add_gap("overflow")
            return False
        message = to_message(self.name, envelope, position)
        self._backlog.append(message)
        self._size += len(message.data)
        return True

    def add_gap(self, reason: Reason) -> None:
        """Let the news of a gap wait for the members."""
        gap = Resync(self.name, reason)
        if not self._backlog or self._backlog[-1] != gap:
            self._backlog.append(gap)

    def add_closing(self, closing: Closing) -> None:
        """Let the members be closed behind what waits for them."""
        self._backlog.append(closing)

    # While the history is asked for.

    @property
    def is_filling(self) -> bool:
        """Whether what arrives is put aside, until what is missing is there."""
        return self._stash is not None

    def begin_to_fill(self) -> None:
        """Put aside what arrives."""
        self._stash = []

    def put_aside(self, envelope: Envelope, position: Position) -> None:
        """Put a message aside."""
        assert self._stash is not None
        if len(self._stash) < MAX_STASH:  # or it is missing, and found to be
            self._stash.append((envelope, position))

    def end_filling(self) -> list[tuple[Envelope, Position]]:
        """Return what was put aside."""
        stash, self._stash = self._stash or [], None
        return stash

    # To the members.

    def serve(self, until: float) -> bool:
        """
        Deliver what waits.

        Args:
            until: When to stop, by `time.perf_counter`.

        Returns:
            False if there is more to deliver.
        """
        count = 0
        while True:
            sending, members = self._sending, self.members
            for member in self._rest:
                if member not in members:
                    continue  # it has left
                try:
                    if isinstance(sending, Frames):
                        member.take(sending)
                    elif isinstance(sending, Resync):
                        member.tell(sending)
                    elif sending is not None:
                        member.close(*sending)
                except Exception:  # such as of an application's own form
                    logger.exception("a member of group %r cannot be served", self.name)
                    member.close(CloseCode.INTERNAL_ERROR, "")
                count += 1
                if count % LOOK == 0 and perf_counter() > until:
                    return False
            if not self._backlog:
                self._sending = None
                return True
            self._sending = self._next()
            self._rest = iter(tuple(self.members))
            count += 1
            if perf_counter() > until:
                return False

    def _next(self) -> Frames | Resync | Closing:
        backlog = self._backlog
        first = backlog.popleft()
        if not isinstance(first, Message):
            return first
        messages, size = [first], len(first.data)
        while (
            backlog
            and len(messages) < MAX_BATCH
            and isinstance(following := backlog[0], Message)
            and size + len(following.data) <= MAX_BATCH_SIZE
        ):
            messages.append(following)
            size += len(following.data)
            backlog.popleft()
        self._size -= size
        return Frames(messages)


def to_message(group: str, envelope: Envelope, position: Position | None) -> Message:
    """Make the message that members get."""
    data = envelope.payload.decode() if envelope.kind == "text" else envelope.payload
    id_ = None if position is None else str(position)
    return Message(group, data, id_, envelope.exclude)


def gap_in(history: History, after: Position) -> bool:
    """Return True if a history does not reach back to a position."""
    latest = history.latest
    if latest is None:
        return after != START
    if latest.epoch != after.epoch:
        return after != START or not history.kept or history.kept[0][0].number != 1
    first = history.kept[0][0].number if history.kept else latest.number + 1
    return first != after.number + 1 and (after.number, first) != history.jump


class FanOut:
    """Serves groups in turn, so that a large one holds up neither the loop nor the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._groups: deque[Group] = deque()
        self._waiting: set[Group] = set()
        self._scheduled = False

    def add(self, group: Group) -> None:
        """Serve a group soon."""
        if group not in self._waiting:
            self._waiting.add(group)
            self._groups.append(group)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        until = perf_counter() + TURN
        groups = self._groups
        try:
            while groups:
                group = groups.popleft()
                self._waiting.discard(group)
                if not group.serve(until):
                    self._waiting.add(group)
                    groups.append(group)
                if perf_counter() > until:
                    break
        finally:
            if groups:
                self._schedule()
