from __future__ import annotations

import asyncio

import pytest

from aiopyramid.broadcast import group as group_module
from aiopyramid.broadcast.backends import START, History, Jump, Position
from aiopyramid.broadcast.group import (
    MAX_BACKLOG,
    MAX_BATCH,
    MAX_BATCH_SIZE,
    FanOut,
    Group,
    gap_in,
    to_message,
)
from aiopyramid.broadcast.members import Counters, Member
from aiopyramid.broadcast.messages import Closing, Envelope, Message, Resync

NEVER = float("inf")


class Notes(Member):
    """Notes what it is given."""

    def __init__(self, name="m"):
        super().__init__(name)
        self.taken = []

    def put(self, frames):
        self.taken.append([message.data for message in frames.messages])

    def tell(self, resync):
        self.taken.append(resync.reason)

    def close(self, code, reason):
        self.taken.append((code, reason))


def text(data, sequence=1):
    return Envelope("text", data.encode(), "p", sequence, "-")


@pytest.fixture
def group():
    made = Group("g", Counters())
    for name in ("one", "two"):
        made.members[Notes(name)] = None
    return made


def taken(group):
    first, *others = [member.taken for member in group.members]
    assert all(other == first for other in others)
    return first


def test_what_waits_goes_out_together_and_in_order(group):
    group.add(text("a"), None)
    group.add(text("b"), None)
    group.add_gap("lost")
    group.add_gap("lost")
    group.add(text("c"), None)
    group.add_closing(Closing(4000, "x"))
    assert group.serve(NEVER)
    assert taken(group) == [["a", "b"], "lost", ["c"], (4000, "x")]
    assert group.serve(NEVER)


def test_what_goes_out_together_is_bounded(group):
    for n in range(MAX_BATCH + 1):
        group.add(text(str(n)), None)
    big = "x" * (MAX_BATCH_SIZE // 2 + 1)
    for _ in range(2):
        group.add(text(big), None)
    group.serve(NEVER)
    assert [len(batch) for batch in taken(group)] == [MAX_BATCH, 2, 1]


def test_what_waits_is_bounded_and_the_gap_told(group):
    for n in range(MAX_BACKLOG):
        assert group.add(text(str(n)), None)
    assert not group.add(text("too much"), None)
    assert not group.add(text("too much"), None)
    group.serve(NEVER)
    assert taken(group)[-1] == "overflow"
    assert sum(len(batch) for batch in taken(group)[:-1]) == MAX_BACKLOG
    assert group._counters.dropped == 4
    assert group.add(text("again"), None)


def test_members_are_served_a_turn_at_a_time(group):
    for n in range(100):
        group.members[Notes(str(n))] = None
    group.add(text("a"), None)
    group.add(text("b"), None)
    turns = 1
    while not group.serve(0):
        left = list(group.members)[-1]
        group.members.pop(left)
        turns += 1
    assert turns > 100 / group_module.LOOK
    assert taken(group) == [["a", "b"]]
    assert left.taken in ([], [["a", "b"]])


def test_messages_are_judged_by_their_numbers(group):
    assert group.is_next(text("a", 1), None)
    assert group.is_next(text("a", 3), None) is False
    group.latest = START
    assert group.is_next(text("a"), Position("e", 1))
    assert group.is_next(text("a"), Position("e", 2)) is False
    group.latest = None
    assert group.is_next(text("a"), Position("e", 7))
    group.add(text("a"), Position("e", 7))
    assert group.is_next(text("a"), Position("e", 8))
    assert group.is_next(text("a"), Position("e", 9)) is False
    assert group.is_next(text("a"), Position("e", 7)) is None
    assert group.is_next(text("a"), Position("f", 8)) is False


def test_what_arrives_while_the_history_is_asked_for_is_put_aside(group, monkeypatch):
    monkeypatch.setattr(group_module, "MAX_STASH", 2)
    assert not group.is_filling
    group.begin_to_fill()
    for n in range(3):
        group.put_aside(text(str(n)), Position("e", n))
    assert group.is_filling
    assert [position.number for _, position in group.end_filling()] == [0, 1]
    assert not group.is_filling


@pytest.mark.parametrize(
    ("kept", "latest", "after", "gap"),
    [
        ([], None, START, False),
        ([], None, Position("e", 1), True),
        ([3, 4], 4, Position("e", 2), False),
        ([4], 4, Position("e", 2), True),
        ([], 4, Position("e", 4), False),
        ([], 4, Position("e", 5), True),
        ([3, 4], 4, Position("other", 2), True),
        ([1, 2], 2, START, False),
        ([2], 2, START, True),
        ([], 2, START, True),
    ],
)
def test_a_history_reaches_back_or_not(kept, latest, after, gap):
    position = None if latest is None else Position("e", latest)
    history = History([(Position("e", n), b"") for n in kept], position)
    assert gap_in(history, after) is gap


@pytest.mark.parametrize(("number", "gap"), [(6, True), (7, False), (8, True), (100, False)])
def test_a_jump_is_no_gap_for_who_was_at_its_begin(number, gap):
    kept = [(Position("e", n), b"") for n in (101, 102)]
    history = History(kept, Position("e", 102), Jump(7, 101))
    assert gap_in(history, Position("e", number)) is gap


def test_messages_are_made_of_envelopes():
    assert to_message("g", text("a"), None) == Message("g", "a")
    binary = Envelope("binary", b"\xff", "p", 1, "p.1")
    assert to_message("g", binary, Position("e", 1)) == Message("g", b"\xff", "e.1")


async def test_groups_are_served_in_turn():
    fan_out = FanOut(asyncio.get_running_loop())
    groups = [Group(name, Counters()) for name in "ab"]
    for each in groups:
        for n in range(2000):
            each.members[Notes(str(n))] = None
        each.add(text("x"), None)
        fan_out.add(each)
        fan_out.add(each)
    others = 0
    while not all(list(each.members)[-1].taken for each in groups):
        await asyncio.sleep(0)
        others += 1
    for each in groups:
        assert taken(each) == [["x"]]
    assert not fan_out._waiting
    assert Resync("a", "lost").reason == "lost"


def test_a_member_that_cannot_be_served_ends_alone(group, caplog):
    class Bad(Notes):
        def put(self, frames):
            raise ArithmeticError("bad")

    bad = Bad("bad")
    group.members = {bad: None, **group.members}
    group.add(text("a"), None)
    group.serve(NEVER)
    assert bad.taken == [(1011, "")]
    group.members.pop(bad)
    assert taken(group) == [["a"]]
    assert caplog.text.count("ArithmeticError: bad") == 1
