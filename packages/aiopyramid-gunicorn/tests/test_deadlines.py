from __future__ import annotations

from types import SimpleNamespace

import pytest

from aiopyramid_gunicorn.deadlines import Deadlines


class Clock:
    """A loop whose time passes when a test says so."""

    def __init__(self):
        self.now = 1000.0
        self.timers = []
        self.set = 0  # how many timers were

    def time(self):
        return self.now

    def call_later(self, delay, function, *args):
        return self.call_at(self.now + delay, function, *args)

    def call_at(self, when, function, *args):
        timer = SimpleNamespace(when=when, go_off=lambda: function(*args))
        timer.cancel = lambda: self.timers.remove(timer) if timer in self.timers else None
        self.timers.append(timer)
        self.set += 1
        return timer

    def pass_(self, seconds):
        """Let time pass, and the timers go off that are due meanwhile."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= end]:
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.go_off()
        self.now = end


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def overdue():
    return []


@pytest.fixture
def deadlines(clock, overdue):
    return Deadlines(clock, 10, lambda item: overdue.append((item, clock.now - 1000)))


def test_each_item_is_due_after_its_own_time(clock, deadlines, overdue):
    deadlines.add("first")
    clock.pass_(4)
    deadlines.add("second")
    clock.pass_(5)
    assert overdue == []
    clock.pass_(100)
    assert overdue == [("first", 10), ("second", 14)]


def test_an_item_is_removed_before_it_is_called_overdue(clock):
    seen = []
    deadlines = Deadlines(clock, 1, lambda item: seen.append((item, item in deadlines)))
    deadlines.add("first")
    deadlines.add("second")
    clock.pass_(0.5)
    deadlines.add("third")
    clock.pass_(0.5)
    assert seen == [("first", False), ("second", False)]
    assert len(deadlines) == 1


def test_what_was_discarded_is_not_due(clock, deadlines, overdue):
    for item in "abc":
        deadlines.add(item)
    deadlines.discard("b")
    deadlines.discard("unknown")
    assert len(deadlines) == 2
    assert "a" in deadlines
    assert "b" not in deadlines
    clock.pass_(100)
    assert [item for item, _ in overdue] == ["a", "c"]
    assert len(deadlines) == 0


def test_an_item_that_comes_back_waits_for_the_whole_time_behind_the_others(
    clock, deadlines, overdue
):
    deadlines.add("first")
    deadlines.add("second")
    clock.pass_(5)
    deadlines.discard("first")
    deadlines.add("first")
    clock.pass_(100)
    assert overdue == [("second", 10), ("first", 15)]


def test_there_is_one_timer_for_all(clock, deadlines):
    for number in range(100):
        deadlines.add(number)
        clock.pass_(0.01)
    assert len(clock.timers) == clock.set == 1


def test_a_request_that_is_in_time_sets_no_timer_of_its_own(clock, deadlines, overdue):
    for _ in range(1000):
        deadlines.add("connection")
        clock.pass_(0.01)
        deadlines.discard("connection")
    assert overdue == []
    assert clock.set <= 2
    clock.pass_(100)
    assert clock.timers == []


def test_without_a_time_items_wait_for_ever(clock, overdue):
    deadlines = Deadlines(clock, 0, overdue.append)
    deadlines.add("item")
    assert clock.timers == []
    assert "item" not in deadlines
    deadlines.discard("item")
    deadlines.close()
    assert overdue == []


def test_closing_forgets_everything(clock, deadlines, overdue):
    deadlines.add("item")
    deadlines.close()
    assert (len(deadlines), clock.timers) == (0, [])
    clock.pass_(100)
    assert overdue == []
    deadlines.close()  # again


def test_after_closing_it_can_be_used_again(clock, deadlines, overdue):
    deadlines.add("before")
    clock.pass_(5)
    deadlines.close()
    deadlines.add("after")
    clock.pass_(100)
    assert overdue == [("after", 15)]


def test_a_timer_that_is_early_waits_on(clock, deadlines, overdue):
    deadlines.add("item")
    (timer,) = clock.timers
    timer.cancel()
    clock.now += 9.9999  # as far as a loop's resolution allows
    timer.go_off()
    assert overdue == []
    assert [timer.when for timer in clock.timers] == [1010]
    clock.pass_(1)
    assert overdue == [("item", 10)]


def test_what_is_overdue_may_close_all(clock):
    seen = []

    def overdue(item):
        seen.append(item)
        deadlines.close()

    deadlines = Deadlines(clock, 1, overdue)
    deadlines.add("first")
    clock.pass_(0.5)
    deadlines.add("second")
    clock.pass_(100)
    assert seen == ["first"]
    assert clock.timers == []


def test_what_is_overdue_may_discard_itself_and_what_still_waits(clock):
    seen = []

    def overdue(item):
        seen.append(item)
        deadlines.discard(item)
        deadlines.discard("second")

    deadlines = Deadlines(clock, 1, overdue)
    for item in ("first", "second", "third"):
        deadlines.add(item)
        clock.pass_(0.1)
    clock.pass_(100)
    assert seen == ["first", "third"]


def test_what_is_overdue_may_wait_again(clock):
    seen = []

    def overdue(item):
        seen.append(clock.now - 1000)
        deadlines.add(item)

    deadlines = Deadlines(clock, 10, overdue)
    deadlines.add("item")
    clock.pass_(45)
    assert seen == [10, 20, 30, 40]


def test_what_waits_again_does_not_add_timers(clock):
    """Such as a client that reads slowly, but does."""
    deadlines = Deadlines(clock, 10, lambda item: deadlines.add(item))
    deadlines.add("first")
    clock.pass_(1)
    deadlines.add("second")
    for _ in range(20):
        clock.pass_(10)
        assert len(clock.timers) == 1
    deadlines.close()
    assert clock.timers == []


def test_an_error_of_one_does_not_keep_those_that_wait_from_being_due(clock):
    seen = []

    def overdue(item):
        seen.append(item)
        if item == "first":
            raise ValueError(item)

    deadlines = Deadlines(clock, 10, overdue)
    deadlines.add("first")
    clock.pass_(1)
    deadlines.add("second")
    with pytest.raises(ValueError, match="first"):
        clock.pass_(9)
    clock.pass_(100)
    assert seen == ["first", "second"]
