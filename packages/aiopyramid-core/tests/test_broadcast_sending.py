from __future__ import annotations

import asyncio

import pytest

from aiopyramid.bridge import spawn_greenlet
from aiopyramid.broadcast.backends import Outgoing
from aiopyramid.broadcast.exceptions import BroadcastError, BrokerUnavailable
from aiopyramid.broadcast.members import Counters
from aiopyramid.broadcast.sending import MAX_BATCH, MAX_BATCH_SIZE, Publication, Sender
from aiopyramid.broadcast.settings import from_values


class Broker:
    """A backend that does what a test says."""

    def __init__(self):
        self.batches = []
        self.answer = lambda batch: [None] * len(batch)
        self.taking = asyncio.Event()
        self.taking.set()

    async def publish(self, batch):
        self.batches.append([item.data.decode() for item in batch])
        await self.taking.wait()
        return self.answer(batch)


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
async def new_sender(broker):
    made = []

    def new(**settings):
        made.append(Sender(broker, from_values({"timeout": 20, **settings}), Counters()))
        return made[-1]

    yield new
    for sender in made:
        await sender.stop()


def add(sender, *texts):
    publications = [Publication() for _ in texts]
    for text, publication in zip(texts, publications, strict=True):
        sender.add(Outgoing("c", text.encode()), publication)
    return publications


async def test_messages_go_out_in_order_and_together(broker, new_sender):
    sender = new_sender()
    one, two = add(sender, "a", "b")
    await one
    assert two.done
    await two
    broker.taking.clear()
    waiting = add(sender, "c")
    await asyncio.sleep(0)
    more = add(sender, *map(str, range(MAX_BATCH + 1)))
    broker.taking.set()
    await more[-1]
    await waiting[0]
    assert [len(batch) for batch in broker.batches] == [2, 1, MAX_BATCH, 1]


async def test_large_messages_go_out_one_by_one(broker, new_sender):
    sender = new_sender()
    big = "x" * (MAX_BATCH_SIZE // 2 + 1)
    await add(sender, big, big)[1]
    assert len(broker.batches) == 2


async def test_plain_code_waits(new_sender):
    sender = new_sender()
    (publication,) = add(sender, "a")
    await spawn_greenlet(publication.wait)
    assert publication.done


async def test_what_fails_is_told_and_logged_once(broker, new_sender, caplog):
    sender = new_sender()
    broker.answer = lambda batch: [BroadcastError("refused")] * len(batch)
    for _ in range(3):
        with pytest.raises(BroadcastError, match="refused"):
            await add(sender, "a")[0]
    broker.answer = lambda batch: [None] * len(batch)
    await add(sender, "b")[0]
    assert sender._counters.failed == 3
    assert caplog.text.count("do not reach the broker: refused") == 1
    assert caplog.text.count("reach the broker again") == 1


async def test_a_fault_of_a_backend_ends_nothing(broker, new_sender):
    sender = new_sender()

    def fail(batch):
        raise LookupError("a fault")

    broker.answer = fail
    with pytest.raises(BroadcastError, match="a fault"):
        await add(sender, "a")[0]
    broker.answer = lambda batch: [None] * len(batch)
    await add(sender, "b")[0]


async def test_what_was_not_sent_is_sent_when_the_broker_is_back(broker, new_sender):
    sender = new_sender()
    gone = 3

    def answer(batch):
        nonlocal gone
        gone -= 1
        if gone > 0:
            raise BrokerUnavailable("gone")
        return [None] * len(batch)

    broker.answer = answer
    one, two = add(sender, "a", "b")
    await two
    await one
    assert broker.batches == [["a", "b"]] * 3


async def test_what_has_waited_too_long_has_failed(broker, new_sender):
    sender = new_sender(timeout=0.05)

    def answer(batch):
        raise BrokerUnavailable("gone")

    broker.answer = answer
    with pytest.raises(BroadcastError, match="gone"):
        await add(sender, "a")[0]
    assert not sender._items
    assert sender._size == 0
    broker.answer = lambda batch: [None] * len(batch)
    await add(sender, "b")[0]


@pytest.mark.parametrize("bound", [{"max_outgoing": 2}, {"max_outgoing_size": 2}])
async def test_what_waits_for_the_broker_is_bounded(broker, new_sender, bound):
    sender = new_sender(**bound)
    broker.taking.clear()
    publications = add(sender, "a", "b", "c")
    assert publications[2].done
    with pytest.raises(BroadcastError, match="too many messages wait"):
        await publications[2]
    broker.taking.set()
    await publications[1]


async def test_what_waits_at_the_end_is_sent(broker):
    sender = Sender(broker, from_values({"timeout": 20}), Counters())
    publications = add(sender, "a", "b")
    await sender.stop()
    for publication in publications:
        await publication


async def test_what_cannot_be_sent_by_the_end_has_failed(broker, caplog):
    sender = Sender(broker, from_values({"timeout": 0.05}), Counters())
    broker.taking.clear()
    (publication,) = add(sender, "a")
    await sender.stop()
    with pytest.raises(BroadcastError, match="the worker ends"):
        await publication
    assert "1 messages did not reach the broker before the end" in caplog.text


async def test_who_does_not_wait_any_more_does_not_matter():
    publication = Publication()
    waiting = asyncio.ensure_future(publication._until_done())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    publication.finish(None)
    await publication
