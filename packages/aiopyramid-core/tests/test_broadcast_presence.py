from __future__ import annotations

import asyncio
import socket

import pytest

from aiopyramid.broadcast import presence
from aiopyramid.broadcast.backends.memory import MemoryBackend
from aiopyramid.broadcast.groups import Groups
from aiopyramid.broadcast.presence import MAX_ANSWER_SIZE, _parts
from aiopyramid.broadcast.settings import BroadcastSettings, from_values
from aiopyramid.websocket.sessions import sessions


class Shared(MemoryBackend):
    """Memory that several workers of one process share."""

    backends: list[MemoryBackend] = []  # noqa: RUF012 - cleared by the fixture

    async def start(self, receiver):
        await super().start(receiver)
        self.backends.append(self)

    async def stop(self):
        if self in self.backends:
            self.backends.remove(self)

    async def publish(self, batch):
        for backend in tuple(self.backends):
            await MemoryBackend.publish(backend, batch)
        return [None] * len(batch)


@pytest.fixture
async def new_worker(monkeypatch):
    monkeypatch.setattr("aiopyramid.broadcast.groups.make_backend", Shared)
    monkeypatch.setattr(presence, "NEW", 0)
    Shared.backends.clear()
    running = []

    async def new(settings=BroadcastSettings()):  # noqa: B008 - immutable
        groups = Groups(None, settings)
        manager = groups.running()
        await manager.__aenter__()
        running.append(manager)
        groups.manager = manager
        return groups

    async def end(groups):
        running.remove(groups.manager)
        await groups.manager.__aexit__(None, None, None)

    new.end = end
    yield new
    for manager in running:
        await manager.__aexit__(None, None, None)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def know_each_other(*workers):
    names = {each._presence.worker for each in workers}
    await until(lambda: all(each._presence._workers() == names for each in workers))


async def test_all_workers_are_asked(new_worker):
    one, two, three = [await new_worker() for _ in range(3)]
    await know_each_other(one, two, three)
    for number, groups in enumerate((one, two, two)):
        await groups.listen("a", info=number)
    assert [await each.count("a") for each in (one, two, three)] == [3, 3, 3]
    assert sorted(await three.members("a")) == [0, 1, 2]
    assert await one.count("b") == 0
    found = await one.workers()
    assert len({worker.id for worker in found}) == 3
    assert {worker.host for worker in found} == {socket.gethostname()}


async def test_a_worker_that_ends_does_not_count(new_worker):
    one, two = [await new_worker() for _ in range(2)]
    await know_each_other(one, two)
    await two.listen("a")
    assert await one.count("a") == 1
    await new_worker.end(two)
    await know_each_other(one)
    assert await one.count("a") == 0


async def test_a_worker_that_was_killed_does_not_count(new_worker, monkeypatch, caplog):
    monkeypatch.setattr(presence, "PATIENCE", 0.1)
    one, two = [await new_worker() for _ in range(2)]
    await know_each_other(one, two)
    await two.listen("a")
    Shared.backends.remove(two._backend)  # hears nothing, says nothing
    assert await one.count("a") == 0
    assert "does not answer" in caplog.text
    assert one._presence._workers() == {one._presence.worker}
    Shared.backends.append(two._backend)
    two._presence._tell(two._presence._all, {"hello": two._presence.worker})
    await know_each_other(one, two)
    assert await one.count("a") == 1


async def test_a_worker_tells_that_it_is_there(new_worker, monkeypatch):
    monkeypatch.setattr(presence, "HEARTBEAT", 0.01)
    one, two = [await new_worker() for _ in range(2)]
    one._presence._heard.clear()
    await know_each_other(one, two)
    monkeypatch.setattr(presence, "GONE", -1)
    assert one._presence._workers() == {one._presence.worker}


async def test_a_new_worker_waits_for_those_that_it_may_not_know(new_worker, monkeypatch):
    monkeypatch.setattr(presence, "NEW", 0.1)
    settings = from_values({"url": "redis://nowhere"})
    one = await new_worker(settings)
    two = await new_worker(settings)
    await one.listen("a")
    two._presence._heard.clear()
    two._presence.received({"answer": 99, "by": "x", "value": 1, "of": 1})  # too late
    assert await two.count("a") == 1


async def test_who_comes_while_others_are_asked_is_not_waited_for(new_worker, monkeypatch, caplog):
    one, two = [await new_worker() for _ in range(2)]
    await know_each_other(one, two)
    ask = one._presence._tell

    def tell(channel, values):
        if "ask" in values:
            one._presence.received({"hello": "new"})  # it has not heard the question
        return ask(channel, values)

    monkeypatch.setattr(one._presence, "_tell", tell)
    assert await one.count("a") == 0
    assert "new" in one._presence._workers()
    assert "does not answer" not in caplog.text


async def test_who_ends_while_others_are_asked_is_not_waited_for(new_worker, caplog):
    one = await new_worker()
    one._presence._heard["going"] = one._presence._began + 1e9
    asking = asyncio.ensure_future(one.count("a"))
    await until(lambda: one._presence._asked)
    one._presence.received({"bye": "going"})
    assert await asking == 0
    assert "does not answer" not in caplog.text


async def test_many_members_come_in_parts(new_worker):
    one, two = [await new_worker() for _ in range(2)]
    await know_each_other(one, two)
    infos = [{"name": f"{n:03d}" + "x" * 500} for n in range(50)]
    for info in infos:
        await one.listen("a", info=info)
    assert sorted(await two.members("a"), key=str) == infos


def test_parts_are_small():
    assert _parts([]) == [[]]
    parts = _parts(["x" * (MAX_ANSWER_SIZE // 2)] * 3)
    assert [len(part) for part in parts] == [1, 1, 1]
    assert _parts([1, 2, 3]) == [[1, 2, 3]]


async def test_in_memory_a_worker_is_alone(monkeypatch):
    drained = []

    async def drain(over):
        drained.append(over)

    monkeypatch.setattr(sessions, "drain", drain)
    groups = Groups(None, BroadcastSettings())
    await groups.listen("a", info=1)
    assert (await groups.count("a"), await groups.members("a")) == (1, [1])
    (worker,) = await groups.workers()
    assert worker.host == socket.gethostname()
    await groups.drain(1, host="another")
    await groups.drain(2, host=socket.gethostname())
    await until(lambda: drained == [2])


async def test_workers_are_drained(new_worker, monkeypatch):
    drained = []

    async def drain(over):
        drained.append(over)
        await asyncio.sleep(60)

    monkeypatch.setattr(sessions, "drain", drain)
    one, two = [await new_worker() for _ in range(2)]
    await one.drain(5)
    await one.drain(6)  # goes on as it has begun
    await until(lambda: drained == [5])
    await two.drain(7, host="another")
    await two.drain(8, host=socket.gethostname())
    await until(lambda: drained == [5, 8])
