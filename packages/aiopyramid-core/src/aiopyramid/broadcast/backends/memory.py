"""In the memory of one process: for one worker, and for tests."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Sequence

from ..settings import BroadcastSettings
from . import History, Outgoing, Position, Receiver


class Log:
    """The history of a channel."""

    def __init__(self) -> None:
        # Numbers that begin anew must not be taken for those that were forgotten.
        self.epoch = secrets.token_hex(4)
        self.number = 0
        self.kept: deque[tuple[Position, bytes]] = deque()
        self.until = 0.0


class MemoryBackend:
    """Publishes to this process alone."""

    max_size: int | None = None

    def __init__(self, settings: BroadcastSettings) -> None:
        self._age = settings.history_age
        self._receiver: Receiver | None = None
        self._channels: set[str] = set()
        # The one that was published to last is the last one.
        self._logs: OrderedDict[str, Log] = OrderedDict()

    def attach(self, receiver: Receiver) -> None:
        """Begin to receive, without waiting."""
        self._receiver = receiver

    async def start(self, receiver: Receiver) -> None:
        """Begin to receive."""
        self.attach(receiver)

    async def stop(self) -> None:
        """Forget everything."""
        self._receiver = None
        self._channels.clear()
        self._logs.clear()

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[BaseException | None]:
        """Deliver messages at once."""
        assert self._receiver is not None
        for channel, data, keep in batch:
            position = self._keep(channel, data, keep) if keep else None
            if channel in self._channels:
                self._receiver.received(channel, data, position)
        return [None] * len(batch)

    def _keep(self, channel: str, data: bytes, keep: int) -> Position:
        now = time.monotonic()
        while self._logs and next(iter(self._logs.values())).until <= now:
            self._logs.popitem(last=False)
        log = self._logs.setdefault(channel, Log())
        self._logs.move_to_end(channel)
        log.until = now + self._age
        log.number += 1
        position = Position(log.epoch, log.number)
        log.kept.append((position, data))
        while len(log.kept) > keep:
            log.kept.popleft()
        return position

    async def subscribe(self, channel: str) -> None:
        """Receive a channel's messages."""
        self._channels.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Receive them no more."""
        self._channels.discard(channel)

    async def history(self, channel: str, after: Position | None, last: int) -> History:
        """Return what a channel has kept."""
        log = self._logs.get(channel)
        if log is None or not log.kept:
            return History((), None)
        kept, latest = list(log.kept), log.kept[-1][0]
        if after is None:
            return History(kept[-last:] if last else (), latest)
        if after.epoch == latest.epoch:
            kept = [each for each in kept if each[0].number > after.number]
        return History(kept, latest)
