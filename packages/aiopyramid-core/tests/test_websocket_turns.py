from __future__ import annotations

import asyncio

import pytest

from aiopyramid.websocket.turns import BUDGET, turns_of


class Member:
    """Has work for some turns, and takes up to so much of the budget for each."""

    def __init__(self, turns, name, log, *, work, cost):
        self.turns, self.name, self.log = turns, name, log
        self.work, self.cost = work, cost

    def take_turn(self, budget):
        self.log.append((self.name, budget))
        self.work -= 1
        if self.work:
            self.turns.join(self)
        return budget - min(self.cost, budget)


async def next_turn():
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_all_share_one_budget_and_take_turns():
    turns, log = turns_of(asyncio.get_running_loop()), []
    for name in "abc":
        turns.join(Member(turns, name, log, work=2, cost=BUDGET // 2))
    assert log == []
    await asyncio.sleep(0)
    assert log == [("a", BUDGET), ("b", BUDGET // 2)]
    while len(log) < 6:
        await asyncio.sleep(0)
    assert [name for name, _ in log] == ["a", "b", "c", "a", "b", "c"]
    await next_turn()
    assert len(log) == 6


async def test_a_member_that_joins_again_waits_for_the_next_turn_of_the_loop():
    turns, log = turns_of(asyncio.get_running_loop()), []
    turns.join(Member(turns, "a", log, work=3, cost=1))
    for n in range(1, 4):
        await asyncio.sleep(0)
        assert log == [("a", BUDGET)] * n
    await next_turn()
    assert len(log) == 3


async def test_a_member_that_fails_does_not_stop_the_others(caplog):
    turns, log = turns_of(asyncio.get_running_loop()), []

    class Failing:
        def take_turn(self, budget):
            raise RuntimeError("failing")

    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    turns.join(Failing())
    turns.join(Member(turns, "b", log, work=1, cost=1))
    await next_turn()
    assert [name for name, _ in log] == ["b"]
    assert len(errors) == 1


def test_each_loop_has_its_own():
    async def turns():
        return turns_of(asyncio.get_running_loop())

    first, second = asyncio.run(turns()), asyncio.run(turns())
    assert first is not second


@pytest.mark.both_loops
async def test_the_queue_of_a_loop_is_one():
    loop = asyncio.get_running_loop()
    assert turns_of(loop) is turns_of(loop)
