from __future__ import annotations

import time

import pytest
from brokers import Received

from aiopyramid.broadcast.backends import History, HistoryBackend, Outgoing, Position
from aiopyramid.broadcast.backends.memory import MemoryBackend
from aiopyramid.broadcast.settings import from_values


@pytest.fixture
async def backend():
    made = MemoryBackend(from_values({"history_age": 60}))
    await made.start(Received())
    yield made
    await made.stop()


async def test_what_is_published_arrives(backend):
    await backend.subscribe("a")
    assert await backend.publish([Outgoing("a", b"1"), Outgoing("b", b"2")]) == [None, None]
    await backend.unsubscribe("a")
    await backend.publish([Outgoing("a", b"3")])
    assert backend._receiver.messages == [("a", b"1")]


async def test_what_is_kept_is_numbered_and_bounded(backend):
    assert isinstance(backend, HistoryBackend)
    await backend.subscribe("a")
    assert await backend.history("a", None, 9) == History((), None)
    await backend.publish([Outgoing("a", b"%d" % n, 2) for n in (1, 2, 3)])
    epoch = backend._receiver.positions[0].epoch
    assert backend._receiver.positions == [Position(epoch, n) for n in (1, 2, 3)]
    kept = [(Position(epoch, 2), b"2"), (Position(epoch, 3), b"3")]
    latest = Position(epoch, 3)
    assert await backend.history("a", None, 9) == History(kept, latest)
    assert await backend.history("a", None, 1) == History(kept[1:], latest)
    assert await backend.history("a", None, 0) == History((), latest)
    assert await backend.history("a", Position(epoch, 2), 0) == History(kept[1:], latest)
    assert await backend.history("a", Position("x", 2), 0) == History(kept, latest)


async def test_what_is_old_is_forgotten(backend, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    await backend.publish([Outgoing("a", b"1", 2), Outgoing("b", b"1", 2)])
    first = (await backend.history("a", None, 1)).latest
    now += 59
    await backend.publish([Outgoing("b", b"2", 2)])
    now += 2
    await backend.publish([Outgoing("c", b"1", 2)])
    assert await backend.history("a", None, 1) == History((), None)
    assert (await backend.history("b", None, 1)).latest.number == 2
    await backend.publish([Outgoing("a", b"2", 2)])
    again = (await backend.history("a", None, 1)).latest
    assert again.number == 1
    assert again.epoch != first.epoch
