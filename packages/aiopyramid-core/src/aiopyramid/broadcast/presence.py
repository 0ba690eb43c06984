"""
Who is there: each worker knows its own members, and asks the others for theirs.

Nothing is stored at the broker, so nothing is left there by a worker that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..websocket.sessions import sessions
from . import messages
from .backends import Backend, Outgoing
from .messages import NOBODY, Envelope
from .sending import Publication, Sender

if TYPE_CHECKING:
    from .groups import Groups

logger = logging.getLogger("aiopyramid.broadcast")

Question = Literal["count", "members", "worker"]

# How often a worker tells that it is there, and after how long it is taken for gone, in seconds.
HEARTBEAT = 5.0
GONE = 16.0

# How long answers may take, in seconds; and how long after its start a worker waits for answers of
# those that it may not know yet.
PATIENCE = 1.0
NEW = 0.5

MAX_INFO_SIZE = 1024

# Bytes of infos in one answer, where the broker takes small messages only.
MAX_ANSWER_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Worker:
    """
    A worker process.

    Attributes:
        id: Its name among workers.
        host: The name of its host.
        pid: Its process.
        connections: How many WebSocket connections it has.
        draining: Whether it refuses new ones.
    """

    id: str
    host: str
    pid: int
    connections: int
    draining: bool


class Asked:
    """
    A question, and the answers so far.

    Args:
        workers: Those that are known. Others may answer as well.
    """

    def __init__(self, workers: set[str]) -> None:
        self.workers = workers
        self.parts: dict[str, list[Any]] = {}
        self.complete: set[str] = set()
        self.changed = asyncio.Event()

    def add(self, worker: str, part: Any, of: int) -> None:
        """Take an answer, or a part of it."""
        parts = self.parts.setdefault(worker, [])
        parts.append(part)
        if len(parts) == of:
            self.complete.add(worker)
            self.changed.set()


class Presence:
    """
    This worker among all that use the same broker.

    Args:
        groups: The groups of this worker.
        worker: Its name.
        sender: What sends to the others.
    """

    def __init__(self, groups: Groups, worker: str, sender: Sender) -> None:
        self.worker = worker
        self._groups = groups
        self._sender = sender
        prefix = groups.settings.prefix
        self._all = messages.workers_channel(prefix)
        self._own = messages.worker_channel(prefix, worker)
        self._prefix = prefix
        self._heard: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._draining: asyncio.Task[None] | None = None
        self._began = time.monotonic()

    async def start(self, backend: Backend) -> None:
        """Listen to the others, and tell them that this worker is there."""
        await backend.subscribe(self._all)
        await backend.subscribe(self._own)
        self._tell(self._all, {"hello": self.worker, "new": True})
        self._tasks.append(asyncio.create_task(self._beat(), name="aiopyramid broadcast presence"))

    async def stop(self) -> None:
        """Tell the others that this worker ends."""
        if self._tasks:
            self._tell(self._all, {"bye": self.worker})
        tasks = [*self._tasks, *([self._draining] if self._draining else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            self._tell(self._all, {"hello": self.worker})

    def _tell(self, channel: str, values: dict[str, Any]) -> Publication:
        publication = Publication()
        envelope = Envelope("control", messages.to_control(values), self.worker, 0, NOBODY)
        self._sender.add(Outgoing(channel, envelope.encode()), publication)
        return publication

    def received(self, values: dict[str, Any]) -> None:
        """Take what another worker tells, or this one has told."""
        if "hello" in values:
            worker = values["hello"]
            self._heard[worker] = time.monotonic()
            if values.get("new") and worker != self.worker:
                self._tell(self._channel(worker), {"hello": self.worker})
        elif "bye" in values:
            self._heard.pop(values["bye"], None)
            for each in self._asked.values():
                each.workers.discard(values["bye"])
                each.changed.set()
        elif "answer" in values:
            self._heard[values["by"]] = time.monotonic()
            asked = self._asked.get(values["answer"])
            if asked is not None:
                asked.add(values["by"], values["value"], values["of"])
        elif "ask" in values:
            self._answer(values)
        elif "drain" in values and values["host"] == socket.gethostname():
            self._drain(values["drain"])

    def _channel(self, worker: str) -> str:
        return messages.worker_channel(self._prefix, worker)

    # Questions.

    async def ask(self, group: str, what: Question) -> list[Any]:
        """
        Ask all workers.

        Returns:
            What each has answered.

        Raises:
            BroadcastError: If the broker cannot be reached.
        """
        if not self._tasks:  # groups in memory: there are no others
            return self._parts(group, what)
        number, asked = next(self._numbers), Asked(self._workers())
        self._asked[number] = asked
        try:
            await self._tell(
                self._all, {"ask": number, "by": self.worker, "group": group, "what": what}
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._until_answered(asked)
            for worker in asked.workers - asked.complete:
                logger.warning("worker %s does not answer", worker)
                self._heard.pop(worker, None)  # until it is heard again
        finally:
            del self._asked[number]
        return [part for worker in asked.complete for part in asked.parts[worker]]

    async def _until_answered(self, asked: Asked) -> None:
        while not asked.workers <= asked.complete:
            asked.changed.clear()
            await asked.changed.wait()
        young = NEW - (time.monotonic() - self._began)
        if young > 0:
            await asyncio.sleep(young)

    def _workers(self) -> set[str]:
        since = time.monotonic() - GONE
        self._heard = {worker: when for worker, when in self._heard.items() if when > since}
        return {*self._heard, self.worker}

    def _answer(self, question: dict[str, Any]) -> None:
        parts = self._parts(question["group"], question["what"])
        answer = {"answer": question["ask"], "by": self.worker, "of": len(parts)}
        for part in parts:
            if question["by"] == self.worker:
                self.received(answer | {"value": part})
            else:
                self._tell(self._channel(question["by"]), answer | {"value": part})

    def _parts(self, group: str, what: Question) -> list[Any]:
        """Return the answer of this worker, in parts that are small enough for every broker."""
        if what == "count":
            return [self._groups.local_count(group)]
        if what == "members":
            return _parts(self._groups.local_members(group))
        return [
            {
                "id": self.worker,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "connections": len(sessions.open),
                "draining": sessions.draining,
            }
        ]

    # Draining.

    async def drain(self, over: float, host: str | None) -> None:
        """Drain this worker, or those of a host."""
        if host is None or (not self._tasks and host == socket.gethostname()):
            self._drain(over)
        elif self._tasks:
            await self._tell(self._all, {"drain": over, "host": host})

    def _drain(self, over: float) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(sessions.drain(over))


def _parts(infos: list[Any]) -> list[list[Any]]:
    """Split infos into lists that are small enough for every broker."""
    parts: list[list[Any]] = [[]]
    size = 0
    for info in infos:
        length = len(json.dumps(info))
        if size + length > MAX_ANSWER_SIZE and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(info)
        size += length + 1
    return parts
