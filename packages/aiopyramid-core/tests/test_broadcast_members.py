from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from aiopyramid.broadcast.backends import Position
from aiopyramid.broadcast.forms import RAW, TAGGED, Frames
from aiopyramid.broadcast.members import (
    MAX_HELD,
    ConnectionMember,
    Counters,
    Listener,
    Outbox,
)
from aiopyramid.broadcast.messages import Message, Resync
from aiopyramid.broadcast.settings import from_values
from aiopyramid.websocket.protocol import CLOSING, OPEN


class Writer:
    """A writer whose transport takes what a test lets it take."""

    def __init__(self):
        self.written = []
        self.writable = None
        self.resumed = None
        self.room = 10**9

    def write_shared(self, frames):
        self.written.append(frames[2:].decode())
        self.room -= 1
        if not self.room:
            self.writable = "a future"

    def resume(self, room=10**9):
        self.room = room
        self.writable = None
        self.resumed()


class Ws:
    def __init__(self):
        self.writer = Writer()
        self.protocol = SimpleNamespace(
            writer=self.writer,
            state=OPEN,
            messages_sent=0,
            judge=SimpleNamespace(forget_context=lambda: 0),
        )
        self.closed_with = None

    def close_nowait(self, code, reason=""):
        self.protocol.state = CLOSING
        self.closed_with = int(code), reason


def outbox(**settings):
    ws = Ws()
    counters = Counters()
    return Outbox(ws, "p.1", from_values(settings), counters), ws, counters


def texts(*given, group="g"):
    return Frames([Message(group, text) for text in given])


def shown(written):
    """Shorten gaps, so that they can be compared."""
    return [f"<{json.loads(text)['resync']}>" if "resync" in text else text for text in written]


class Form:
    """Text as it is, and gaps so that they can be told."""

    def message(self, message):
        return message.data

    def resync(self, resync):
        return TAGGED.resync(resync)

    def joined(self, group, id_):
        return f"at {id_}"


FORM = Form()


def member(box, *, group="g", form=FORM, on_resync=None):
    return ConnectionMember(group, box, form, on_resync, None)


def test_a_member_that_reads_is_written_to_at_once():
    box, ws, counters = outbox()
    one = member(box)
    one.take(texts("a"))
    one.take(texts("b"))
    one.joined("g", "e.1")
    assert ws.writer.written == ["a", "b", "at e.1"]
    assert ws.protocol.messages_sent == 3
    assert counters.delivered == 3
    member(box, form=RAW).joined("g", "e.1")
    assert len(ws.writer.written) == 3


def test_what_a_slow_member_has_no_room_for_waits():
    box, ws, counters = outbox()
    one = member(box)
    ws.writer.room = 1
    for text in "abcd":
        one.take(texts(text))
    assert ws.writer.written == ["a"]
    ws.writer.resume(2)
    assert ws.writer.written == ["a", "b", "c"]
    one.take(texts("e"))
    ws.writer.resume()
    one.take(texts("f"))
    assert ws.writer.written == ["a", "b", "c", "d", "e", "f"]
    assert counters.as_dict() == {
        "published": 0,
        "failed": 0,
        "delivered": 6,
        "dropped": 0,
        "closed": 0,
        "resyncs": 0,
    }


@pytest.mark.parametrize("bound", [{"max_queue": 2}, {"max_queue_size": 6}])
@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ("drop_oldest", ["a", "<overflow>", "d", "e", "f"]),
        ("drop_newest", ["a", "b", "c", "<overflow>", "f"]),
    ],
)
def test_what_is_too_much_is_dropped_and_the_gap_told_where_it_is(bound, overflow, expected):
    box, ws, counters = outbox(overflow=overflow, **bound)
    one = member(box)
    ws.writer.room = 1
    for text in "abcde":
        one.take(texts(text))
    ws.writer.resume()
    one.take(texts("f"))
    assert shown(ws.writer.written) == expected
    assert counters.dropped == 2
    assert counters.resyncs == 1


def test_gaps_of_several_groups_are_told_apart():
    box, ws, counters = outbox(overflow="drop_oldest", max_queue=2)
    one, two = member(box, group="one"), member(box, group="two")
    ws.writer.room = 1
    for each, text in ((one, "a"), (one, "b"), (two, "c"), (one, "d"), (two, "e"), (two, "f")):
        each.take(texts(text))
    ws.writer.resume()
    gaps = [json.loads(text)["group"] for text in ws.writer.written if "resync" in text]
    assert gaps == ["one", "two"]
    assert ws.writer.written[-2:] == ["e", "f"]
    assert counters.dropped == 3


def test_gaps_are_told_again_after_messages_in_between():
    box, ws, _ = outbox(overflow="drop_newest", max_queue=1)
    one = member(box)
    ws.writer.room = 1
    for text in "abc":
        one.take(texts(text))
    ws.writer.resume(1)
    assert shown(ws.writer.written) == ["a", "b"]
    one.take(texts("d"))
    one.take(texts("e"))
    ws.writer.resume()
    assert shown(ws.writer.written) == ["a", "b", "<overflow>", "d", "<overflow>"]


def test_a_connection_that_is_too_slow_is_closed():
    box, ws, counters = outbox(max_queue=1)
    one = member(box)
    ws.writer.room = 1
    for text in "abcde":
        one.take(texts(text))
    assert ws.closed_with == (1013, "messages are read too slowly")
    assert counters.closed == 1
    box.clear()
    assert ws.writer.resumed is None


def test_an_end_that_somebody_asks_for():
    box, ws, _ = outbox()
    member(box).close(4001, "logged out")
    assert ws.closed_with == (4001, "logged out")


def test_a_gap_that_cannot_be_told_closes_the_connection():
    box, ws, _ = outbox()
    member(box, form=RAW).tell(Resync("g", "reconnect"))
    assert ws.closed_with == (1012, "messages are missing: reconnect")


async def test_a_gap_is_told_to_the_application(caplog):
    box, ws, counters = outbox()
    seen = []

    async def wait(resync):
        await asyncio.sleep(0)
        seen.append(("async", resync.reason))
        raise ArithmeticError("later")

    def fail(resync):
        raise LookupError("at once")

    for on_resync in (seen.append, wait, fail):
        member(box, form=RAW, on_resync=on_resync).tell(Resync("g", "lost"))
    while len(seen) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == [Resync("g", "lost"), ("async", "lost")]
    assert ws.closed_with is None
    assert "ArithmeticError: later" in caplog.text
    assert "LookupError: at once" in caplog.text
    assert counters.resyncs == 3


def test_a_gap_waits_for_its_turn():
    box, ws, _ = outbox()
    one = member(box)
    ws.writer.room = 1
    one.take(texts("a"))
    one.take(texts("b"))
    one.tell(Resync("g", "reconnect"))
    one.take(texts("c"))
    assert ws.writer.written == ["a"]
    ws.writer.resume()
    assert shown(ws.writer.written) == ["a", "b", "<reconnect>", "c"]


def test_who_has_published_can_be_left_out():
    box, ws, _ = outbox()
    one = member(box)
    one.take(Frames([Message("g", "a", None, "p.1"), Message("g", "b", None, "p.2")]))
    one.take(Frames([Message("g", "c", None, "p.1")]))
    assert ws.writer.written == ["b"]


def test_a_form_that_fails_is_a_gap(caplog):
    class Fails(Form):
        def message(self, message):
            raise ArithmeticError

    box, ws, _ = outbox()
    member(box, form=Fails()).take(texts("a"))
    assert shown(ws.writer.written) == ["<lost>"]


def numbered(*numbers, epoch="e"):
    return Frames([Message("g", str(n), f"{epoch}.{n}") for n in numbers])


def test_a_history_comes_before_what_has_arrived_meanwhile():
    box, ws, _ = outbox()
    one = member(box)
    one.hold()
    one.take(numbered(3, 4))
    one.take(numbered(5))
    one.tell(Resync("g", "reconnect"))  # the history is read after it
    assert ws.writer.written == []
    one.release("g", numbered(2, 3, 4).messages, Resync("g", "history"), Position("e", 4))
    one.take(numbered(6))
    assert shown(ws.writer.written) == ["<history>", "2", "3", "4", "at e.4", "5", "6"]


def test_what_the_history_had_is_not_taken_when_it_arrives_late():
    box, ws, _ = outbox()
    one = member(box)
    one.hold()
    one.release("g", numbered(1, 2, 3).messages, None, Position("e", 3))
    one.take(numbered(2, 3, 4))
    one.take(numbered(5))
    one.take(numbered(1, epoch="f"))
    assert ws.writer.written == ["1", "2", "3", "at e.3", "4", "5", "1"]


def test_too_much_during_the_history_is_a_gap():
    box, ws, _ = outbox()
    one = member(box)
    one.hold()
    one.take(numbered(*range(MAX_HELD)))
    one.take(numbered(MAX_HELD, MAX_HELD + 1))
    one.release("g", [], None, Position("f", 0))
    assert len(ws.writer.written) == MAX_HELD + 2
    assert shown(ws.writer.written)[-1] == "<overflow>"


def listener(**settings):
    left = []
    counters = Counters()
    made = Listener("g", "p.1", from_values(settings), counters, None, lambda: left.append(1))
    return made, left, counters


async def test_a_listener_gets_messages_and_gaps_in_order():
    one, left, counters = listener()
    one.take(texts("a", "b"))
    one.tell(Resync("g", "lost"))
    one.take(texts("c"))
    waiting = asyncio.create_task(anext(one))
    assert (await waiting).data == "a"
    assert [await anext(one) for _ in range(3)] == [
        Message("g", "b"),
        Resync("g", "lost"),
        Message("g", "c"),
    ]
    waiting = asyncio.create_task(anext(one))
    await asyncio.sleep(0)
    one.take(texts("d"))
    assert (await waiting).data == "d"
    waiting = asyncio.create_task(anext(one))
    await asyncio.sleep(0)
    one.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert left == [1]
    one.take(texts("e"))
    one.tell(Resync("g", "lost"))
    assert [item async for item in one] == []
    assert counters.delivered == 4


async def test_a_listener_leaves_at_the_end():
    one, left, _ = listener()
    async with one as found:
        one.take(texts("a"))
        assert found is one
    assert left == [1]
    assert [item async for item in one] == []


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ("drop_oldest", ["<overflow>", "d", "e"]),
        ("drop_newest", ["a", "b", "<overflow>"]),
        ("close", []),
    ],
)
async def test_a_slow_listener(overflow, expected):
    one, left, counters = listener(overflow=overflow, max_queue=2)
    for text in "abcde":
        one.take(texts(text))
    assert bool(left) is (overflow == "close")
    one.close()
    found = [f"<{item.reason}>" if isinstance(item, Resync) else item.data async for item in one]
    assert found == expected
    assert counters.dropped == (0 if overflow == "close" else 3)
    assert counters.closed == (overflow == "close")
    assert left == [1]
