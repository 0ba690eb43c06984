from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from types import SimpleNamespace

import pytest
from debug_log import PATIENCE, Log

from aiopyramid.bridge import run_coroutine, spawn_greenlet
from aiopyramid.debug import blocks
from aiopyramid.debug.blocks import LoopWatch, watching
from aiopyramid.homes import Home, home_here

LIMIT = 0.05

pytestmark = pytest.mark.both_loops


@pytest.fixture
def log():
    log = Log()
    logger = logging.getLogger("aiopyramid.debug")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)


@pytest.fixture
def hold(log):
    """Hold this thread until something is logged: so it is logged meanwhile, or never."""
    logged = threading.Event()
    log.listeners.append(lambda message: logged.set())

    def hold():
        assert logged.wait(PATIENCE)

    return hold


def watches():
    return [each for each in threading.enumerate() if each.name == "aiopyramid-debug-blocks"]


async def test_what_holds_the_loop_is_logged_while_it_does_and_once(log, hold):
    async def view():
        hold()

    with watching(home_here(), LIMIT):
        await asyncio.create_task(view(), name="the task")
        report, end = [await asyncio.to_thread(log.next) for _ in range(2)]
    assert report.startswith("The event loop has been held for 0.")
    (first, *stack) = report.splitlines()
    assert f"{__file__}:" in first
    assert "in hold.<locals>.hold (coroutine " in first
    assert "<locals>.view, task 'the task'):" in first
    assert "    assert logged.wait(PATIENCE)" in stack
    assert end.startswith("The event loop goes on, after ")
    assert log.is_empty()


async def test_each_block_is_logged(log):
    with watching(home_here(), LIMIT):
        for _ in range(2):
            logged = threading.Event()
            log.listeners[:] = [lambda message, logged=logged: logged.set()]
            assert logged.wait(PATIENCE)
            report, end = [await asyncio.to_thread(log.next) for _ in range(2)]
            assert report.startswith("The event loop has been held")
            assert end.startswith("The event loop goes on")
    assert log.is_empty()


async def test_a_coroutine_that_is_stepped_in_a_greenlet_is_named(log, hold):
    """As those of views are."""

    async def view():
        plain()

    def plain():
        hold()

    with watching(home_here(), LIMIT):
        await spawn_greenlet(run_coroutine, view())
        report = log.next()
    assert "<locals>.view, task " in report
    assert "in plain\n" in report
    assert "bridge.py" not in report


async def test_a_websocket_is_named(log, hold, monkeypatch):
    async def view():
        hold()

    task = asyncio.create_task(view())
    others = SimpleNamespace(task=None, request=SimpleNamespace(path="/other"))
    session = SimpleNamespace(task=task, request=SimpleNamespace(path="/chat"))
    monkeypatch.setattr(blocks, "sessions", SimpleNamespace(open=[session, others]))
    with watching(home_here(), LIMIT):
        await task
        report = log.next()
    assert ", WebSocket /chat):" in report
    assert "/other" not in report


async def test_a_callback_belongs_to_no_task(log, hold):
    called = asyncio.Event()

    def callback():
        hold()
        called.set()

    with watching(home_here(), LIMIT):
        asyncio.get_running_loop().call_soon(callback)
        await called.wait()
        report = log.next()
    assert "in hold.<locals>.hold:\n" in report


async def test_a_c_function_is_logged_as_well(log):
    lock = threading.Lock()
    lock.acquire()
    log.listeners.append(lambda message: lock.release() if lock.locked() else None)
    with watching(home_here(), LIMIT):
        await asyncio.sleep(LIMIT)
        asyncio.get_running_loop().call_soon(functools.partial(lock.acquire, timeout=PATIENCE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        report = log.next()
    assert "by a function that is not Python's:\n" in report


async def test_an_idle_loop_is_left_alone(log, monkeypatch):
    looks, notes = [], []
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Counting(LoopWatch):
        def look(self):
            looks.append(time.monotonic())
            if len(looks) == 10:
                loop.call_soon_threadsafe(looked.set)
            return super().look()

        def _note(self):
            notes.append(time.monotonic())
            super()._note()

    monkeypatch.setattr(blocks, "LoopWatch", Counting)
    begin = time.monotonic()
    with watching(home_here(), LIMIT):
        async with asyncio.timeout(PATIENCE):
            await looked.wait()
    limits = (time.monotonic() - begin) / LIMIT
    assert log.is_empty()
    assert len(notes) <= 2.2 * limits + 1
    assert len(looks) <= 2.2 * limits + 3


async def test_two_applications_share_a_watch_which_ends_with_the_last(log):
    home = home_here()
    with watching(home, LIMIT):
        (thread,) = watches()
        with watching(home, LIMIT):
            assert watches() == [thread]
        assert watches() == [thread]
    assert watches() == []
    assert home not in blocks._watches


async def test_a_block_that_ends_with_the_watch_ends_in_the_log(log, hold):
    with watching(home_here(), LIMIT):
        hold()
    assert log.next().startswith("The event loop has been held")
    assert log.next().startswith("The event loop goes on")
    assert log.is_empty()


async def test_the_timer_ends_with_the_watch(monkeypatch):
    notes = []
    with watching(home_here(), LIMIT):
        (watch,) = blocks._watches.values()
        monkeypatch.setattr(watch, "_ended", notes.append)
    before = len(notes)
    await asyncio.sleep(LIMIT * 2)
    assert len(notes) == before


def test_a_loop_that_does_not_run_is_not_held(log):
    loop = asyncio.new_event_loop()
    watch = LoopWatch(Home(loop), LIMIT)
    watch.due = time.monotonic() - 10
    watch.ident = threading.get_ident()
    assert watch.look() == LIMIT
    assert log.is_empty()
    assert watch.look() <= LIMIT  # it may run by now, but has had no time for a note
    assert log.is_empty()
    loop.close()


def test_a_process_that_did_not_run_is_given_time(log, monkeypatch):
    """After a suspension, the thread may look before the loop has written a note."""
    loop = asyncio.new_event_loop()
    watch = LoopWatch(Home(loop), LIMIT)
    monkeypatch.setattr(LoopWatch, "_is_idle", lambda self, frame: True)
    monkeypatch.setattr(Home, "is_running", lambda self: True)
    watch.due = time.monotonic() - 10
    watch.look()
    watch.look()
    assert log.is_empty()
    watch._since = 0  # the limit later
    watch.look()
    assert "by a function that is not Python's" in log.next()
    loop.close()


def test_a_thread_without_frames_is_idle():
    loop = asyncio.new_event_loop()
    assert LoopWatch(Home(loop), LIMIT)._is_idle(None)
    loop.close()
