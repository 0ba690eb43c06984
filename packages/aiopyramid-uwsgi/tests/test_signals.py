from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
from types import SimpleNamespace

import pytest

SIGNUM = signal.SIGUSR1
IGNORE = ctypes.c_void_p(1)

pytestmark = pytest.mark.usefixtures("signals_as_found")


@pytest.fixture
def signals(load):
    return load("signals")


@pytest.fixture
def loop():
    """A loop that runs what comes from signals at once, and other things never."""
    loop = SimpleNamespace(later=[], call_soon_threadsafe=lambda function, *args: function(*args))
    loop.call_later = lambda *args: loop.later.append(args)
    return loop


def uwsgi_sets_its_handlers():
    """As in C: Python does not learn of it. What they do is nothing."""
    for signum in (SIGNUM, signal.SIGPIPE):
        ctypes.CDLL(None).signal(signum, IGNORE)


def test_a_signal_comes_to_the_loop(signals, loop):
    came = []
    held = signals.HeldSignals([SIGNUM], loop, came.append)
    signal.raise_signal(SIGNUM)
    assert came == [SIGNUM]
    assert not held.held


def test_uwsgis_handlers_are_replaced_until_signals_are_released(signals, loop):
    came = []
    held = signals.HeldSignals([SIGNUM], loop, came.append)
    uwsgi_sets_its_handlers()
    signal.raise_signal(SIGNUM)
    assert came == []
    held.hold()
    held.hold()  # with each request
    assert held.held
    signal.raise_signal(SIGNUM)
    assert came == [SIGNUM]
    held.release(SIGNUM)
    signal.raise_signal(SIGNUM)
    assert came == [SIGNUM]
    assert loop.later == [(0, signal.pthread_kill, threading.main_thread().ident, SIGNUM)]


def test_a_signal_before_uwsgi_has_handlers_comes_again(signals, loop):
    held = signals.HeldSignals([SIGNUM], loop, pytest.fail)
    held.release(SIGNUM)
    assert loop.later == [(0.1, signal.pthread_kill, threading.main_thread().ident, SIGNUM)]


def test_writing_to_a_closed_connection_runs_no_handler_of_uwsgis(signals, loop):
    held = signals.HeldSignals([SIGNUM], loop, pytest.fail)
    came = []
    signal.signal(signal.SIGPIPE, lambda signum, frame: came.append(signum))
    signal.raise_signal(signal.SIGPIPE)
    assert came == [signal.SIGPIPE]
    held.hold()
    signal.raise_signal(signal.SIGPIPE)
    assert came == [signal.SIGPIPE]


async def test_a_signal_comes_to_the_loop_without_pythons_handler(signals, pairs):
    came = asyncio.Queue()
    loop = asyncio.get_running_loop()
    held = signals.HeldSignals([SIGNUM], loop, came.put_nowait)
    signal.signal(SIGNUM, lambda signum, frame: None)  # as if it could not run
    held.listen()
    os.kill(os.getpid(), SIGNUM)
    assert await came.get() == SIGNUM
    receiver, sender = pairs[-2:]  # the loop has its own
    assert held.sender is sender
    assert loop.remove_reader(receiver)


def test_a_signal_that_does_not_exist_is_an_error(signals):
    with pytest.raises(OSError, match="sigaction for signal 9999"):
        signals.Action(9999)
