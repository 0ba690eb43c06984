from __future__ import annotations

import threading

import pytest
from debug_log import PATIENCE

from aiopyramid.debug import watch
from aiopyramid.debug.watch import Watch


class Counting(Watch):
    """Counts its looks."""

    def __init__(self, delay=0.001):
        super().__init__("aiopyramid-debug-test")
        self.delay = delay
        self.looks = 0
        self.looked = threading.Semaphore(0)

    def look(self):
        self.looks += 1
        self.looked.release()
        return self.delay


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "aiopyramid-debug-test"]


def test_it_looks_again_and_again_until_it_is_stopped():
    counting = Counting()
    counting.start()
    for _ in range(3):
        assert counting.looked.acquire(timeout=PATIENCE)
    (thread,) = threads()
    assert thread.daemon
    counting.stop()
    assert threads() == []


def test_its_end_waits_for_no_delay_and_comes_after_a_last_look():
    counting = Counting(delay=threading.TIMEOUT_MAX)
    counting.start()
    assert counting.looked.acquire(timeout=PATIENCE)
    counting.stop()
    assert threads() == []
    assert counting.looks == 2


def test_it_can_be_woken():
    counting = Counting(delay=threading.TIMEOUT_MAX)
    counting.start()
    assert counting.looked.acquire(timeout=PATIENCE)
    counting.wake()
    assert counting.looked.acquire(timeout=PATIENCE)
    counting.stop()


def test_a_look_that_fails_is_logged_and_the_next_one_follows(monkeypatch, caplog):
    monkeypatch.setattr(watch, "AFTER_ERROR", 0)

    class Failing(Counting):
        def look(self):
            super().look()
            if self.looks == 1:
                raise ValueError("a repr")
            return self.delay

    failing = Failing()
    failing.start()
    for _ in range(2):
        assert failing.looked.acquire(timeout=PATIENCE)
    failing.stop()
    (record,) = caplog.records
    assert record.getMessage() == "aiopyramid-debug-test could not look"
    assert "a repr" in str(record.exc_info[1])


def test_what_it_looks_at_is_not_its_own():
    with pytest.raises(NotImplementedError):
        Watch("nothing").look()
