from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from websockets.frames import CloseCode

from aiopyramid import fitness, homes
from aiopyramid.bridge import await_

GOING_AWAY, RESTART = CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART
LOOP_MODE = {"asyncio": b"50", "greenlet": True, "aiopyramid-loop": b"asyncio"}


class Sessions:
    """Remembers how its end was asked for."""

    def __init__(self):
        self.ends = []
        self.go_on = None

    async def end(self, code, timeout):
        self.ends.append((code, timeout))
        if self.go_on is not None:
            await self.go_on.wait()


class Signals:
    """Remembers what it was told, and when the sessions had ended."""

    main_thread = 17

    def __init__(self, sessions):
        self.sessions = sessions
        self.released = []
        self.held = False

    def hold(self):
        self.held = True

    def release(self, signum):
        self.released.append((signum, len(self.sessions.ends)))


@pytest.fixture
def module(load, monkeypatch):
    module = load("worker")
    monkeypatch.setattr(module, "let_the_loop_in", lambda: None)
    monkeypatch.setattr(module, "collect_less", lambda: None)
    monkeypatch.setattr(module, "refuse_on_loop", lambda: None)
    monkeypatch.setattr(module, "sessions", Sessions())
    return module


@pytest.fixture
def make(module, uwsgi, pairs, signals_as_found, monkeypatch):
    """Make workers; end their loops and threads in the end."""
    uwsgi.opt = {"aiopyramid-loop": b"asyncio"}
    made = []

    def make(mode="ThreadModeWorker"):
        made.append(getattr(module, mode)())
        return made[-1]

    yield make
    for home in [worker.home for worker in made if worker.home is not None]:
        if home.loop.is_running():
            home.loop.call_soon_threadsafe(home.loop.stop)
        while home.loop.is_running():
            time.sleep(0.001)
        home.loop.run_until_complete(home.loop.shutdown_default_executor())
        home.callbacks.shutdown()
        home.loop.close()


@pytest.fixture
async def here(module, uwsgi):
    """Make a worker whose loop is the running one."""
    uwsgi.opt = {"aiopyramid-loop": b"asyncio"}

    def here(mode="ThreadModeWorker"):
        worker = getattr(module, mode)()
        worker.home = homes.home_here()
        worker.signals = Signals(module.sessions)
        return worker

    return here


@pytest.mark.parametrize(
    ("signum", "master", "code"),
    [
        (signal.SIGHUP, 1, RESTART),
        (signal.SIGTERM, 1, RESTART),
        (signal.SIGINT, 1, GOING_AWAY),
        (signal.SIGHUP, 0, GOING_AWAY),  # nobody starts it again
    ],
)
def test_the_closing_code_tells_a_stop_from_a_restart(module, uwsgi, signum, master, code):
    uwsgi.masterpid = lambda: master
    assert module.code_for(signum) == code


# Thread mode.


async def thread_name():
    return threading.current_thread().name


def test_in_thread_mode_requests_wait_for_a_loop_in_another_thread(make, uwsgi):
    worker = make()
    worker.start()
    assert await_(thread_name()) == "aiopyramid-loop"
    assert uwsgi.logged == [
        "aiopyramid: worker 2 runs coroutines on asyncio in a thread of its own, "
        "with up to 8 requests at a time"
    ]
    assert uwsgi.atexit == worker._at_exit


def test_a_signal_closes_the_sessions_before_uwsgi_gets_it(make, module, monkeypatch):
    came = threading.Event()
    killed = []

    def pthread_kill(thread, signum):
        killed.append((thread, signum, list(module.sessions.ends)))
        came.set()

    monkeypatch.setattr(signal, "pthread_kill", pthread_kill)
    worker = make()
    worker.start()
    worker.hold_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    came.wait()
    assert killed == [(threading.get_ident(), signal.SIGTERM, [(RESTART, 10.0)])]


def test_a_worker_that_uwsgi_recycles_closes_its_sessions_when_it_exits(make, module, uwsgi):
    worker = make()
    worker.start()
    uwsgi.atexit()
    assert module.sessions.ends == [(RESTART, 10.0)]


def test_a_process_that_is_no_worker_has_a_loop_when_it_needs_one(
    make, module, uwsgi, gil, monkeypatch
):
    uwsgi.worker_id = lambda: 0
    worker = make("LoopModeWorker")
    monkeypatch.setattr(module, "worker", worker)
    worker.start()
    worker.hold_signals()  # none are
    assert homes.process_home is None
    assert await_(thread_name()) == "aiopyramid-loop"
    assert gil == ["aiopyramid-loop"]
    homes.own_loop.end()


def test_a_worker_enters_lifespans_before_it_serves(make, monkeypatch, module):
    worker = make()

    async def enter():
        return entered.append(await thread_name())

    entered = []
    monkeypatch.setattr(module.lifespan, "entering", enter)
    worker.start()
    assert entered == ["aiopyramid-loop"]


def test_in_loop_mode_it_runs_the_loop_for_that_and_holds_signals_later(
    make, monkeypatch, module, gil
):
    worker = make("LoopModeWorker")

    async def enter():
        for _ in range(3):
            await asyncio.sleep(0)
        entered.append((threading.get_ident(), worker.signals.held))

    entered = []
    monkeypatch.setattr(asyncio, "set_event_loop", lambda loop: None)
    monkeypatch.setattr(module.lifespan, "entering", enter)
    worker.start()
    assert entered == [(threading.get_ident(), False)]
    assert not worker.signals.held
    worker.loop().run_until_complete(asyncio.sleep(0.2))
    assert worker.signals.held


@pytest.mark.parametrize(
    ("master", "opt", "killed"),
    [
        (17, {}, [(17, signal.SIGINT)]),
        (17, {"lazy-apps": True, "need-app": True}, []),  # then uWSGI itself ends
        (0, {}, []),
    ],
)
def test_a_lifespan_that_cannot_be_entered_stops_uwsgi(
    here, module, uwsgi, monkeypatch, caplog, master, opt, killed
):
    async def enter():
        raise ValueError("no database")

    kills, exits = [], []
    monkeypatch.setattr(module.os, "kill", lambda *args: kills.append(args))
    monkeypatch.setattr(module.os, "_exit", exits.append)
    monkeypatch.setattr(module.lifespan, "entering", enter)
    uwsgi.opt, uwsgi.masterpid = opt, lambda: master
    module.ThreadModeWorker().enter_lifespans()
    assert (kills, exits) == (killed, [22])
    [record] = caplog.records
    assert record.getMessage() == "a lifespan could not be entered"
    assert str(record.exc_info[1]) == "no database"
    homes.own_loop.end()


async def test_lifespans_are_left_when_sessions_have_ended(here, module):
    worker = here()

    async def leave():
        left.append(list(module.sessions.ends))

    left = []
    worker.home.endings.append(leave)
    await worker._end(signal.SIGTERM)
    assert left == [[(RESTART, 10.0)]]
    assert worker.signals.released == [(signal.SIGTERM, 1)]


async def test_what_sends_events_has_ended_before_lifespans_are_left(here, module):
    ended = []

    async def send():
        await asyncio.sleep(0.01)
        ended.append("events")

    async def leave():
        ended.append("lifespan")

    worker = here()
    module.stream.tasks.add(asyncio.ensure_future(send()))
    worker.home.endings.append(leave)
    await worker._end(signal.SIGTERM)
    assert ended == ["events", "lifespan"]


async def test_a_worker_that_should_not_go_on_is_reloaded(here, uwsgi, monkeypatch):
    killed = []
    monkeypatch.setattr(signal, "pthread_kill", lambda *args: killed.append(args))
    here()._stop(ValueError("the reason"))
    assert killed == [(17, signal.SIGHUP)]
    assert uwsgi.logged == ["aiopyramid: worker 2 ends because of ValueError('the reason')"]


async def test_a_reload_lets_uwsgi_finish_requests_while_sessions_close(here, module):
    worker = here()
    await worker._end(signal.SIGHUP)
    assert worker.signals.released == [(signal.SIGHUP, 0)]
    assert module.sessions.ends == [(RESTART, 10.0)]


async def test_uwsgi_gets_its_signal_even_if_closing_fails(here, module):
    async def end(code, timeout):
        raise ValueError("the reason")

    module.sessions.end = end
    worker = here()
    with pytest.raises(ValueError, match="the reason"):
        await worker._end(signal.SIGTERM)
    assert worker.signals.released == [(signal.SIGTERM, 0)]


async def test_closing_takes_a_third_of_uwsgis_mercy_at_most(here, module, uwsgi):
    uwsgi.opt = {"worker-reload-mercy": b"6"}
    await here()._close(RESTART)
    assert module.sessions.ends == [(RESTART, 2.0)]


@pytest.mark.parametrize(("held", "times"), [(True, 1), (False, 2)])
async def test_a_signal_that_comes_again_ends_the_worker_once(here, module, held, times):
    worker = here()
    module.sessions.go_on = asyncio.Event()
    worker._signalled(signal.SIGTERM)
    first = worker.ending
    worker._signalled(signal.SIGTERM)
    assert worker.ending is first
    module.sessions.go_on.set()
    await first
    worker.signals.held = held
    worker._signalled(signal.SIGTERM)
    await worker.ending
    # Again if uWSGI had no handler for it yet.
    assert len(worker.signals.released) == times


@pytest.mark.parametrize("recycled", [True, False])
async def test_a_worker_that_uwsgi_wants_to_recycle_is_reloaded(
    here, module, monkeypatch, recycled
):
    killed, later = [], []
    monkeypatch.setattr(module.options, "is_recycled", lambda: recycled)
    monkeypatch.setattr(signal, "pthread_kill", lambda *args: killed.append(args))
    worker = here()
    worker.home = SimpleNamespace(loop=SimpleNamespace(call_later=lambda *args: later.append(args)))
    worker._watch()
    assert killed == ([(17, signal.SIGHUP)] if recycled else [])
    assert later == ([] if recycled else [(1, worker._watch)])


@pytest.mark.parametrize("opt", [{}, {"max-requests": b"10"}])
def test_only_a_worker_that_may_be_recycled_is_watched(make, uwsgi, monkeypatch, opt):
    watched = threading.Event()
    worker = make()
    uwsgi.opt = opt
    loop = worker.new_loop()
    worker.new_loop = lambda: loop
    monkeypatch.setattr(loop, "call_later", lambda delay, function: watched.set())
    worker.start()
    assert watched.is_set() is bool(opt)


# Loop mode.


@pytest.fixture
def gil(monkeypatch):
    """The threads that have prepared themselves for uWSGI's functions."""
    prepared = []
    monkeypatch.setattr(
        ctypes.pythonapi,
        "PyGILState_Ensure",
        lambda: prepared.append(threading.current_thread().name),
        raising=False,
    )
    return prepared


def test_in_loop_mode_the_loop_is_for_uwsgi_to_run(make, uwsgi, module, gil, monkeypatch):
    loops = []
    monkeypatch.setattr(asyncio, "set_event_loop", loops.append)
    worker = make("LoopModeWorker")
    worker.start()
    assert loops == [worker.loop()]
    assert " in the main thread, " in uwsgi.logged[0]
    assert not worker.signals.held
    loops[0].run_until_complete(loops[0].run_in_executor(None, int))
    assert worker.signals.held
    assert [name.rpartition("_")[0] for name in gil] == ["aiopyramid"]


@pytest.mark.parametrize(("code", "ends"), [(RESTART, 2), (GOING_AWAY, 1)])
async def test_a_worker_in_loop_mode_accepts_no_more_while_it_ends(
    here, module, uwsgi, pairs, code, ends
):
    listener, _ = socket.socketpair()
    loop = asyncio.get_running_loop()
    loop.add_reader(listener, pytest.fail)
    uwsgi.sockets = [listener.fileno()]
    await here("LoopModeWorker")._close(code)
    assert not loop.remove_reader(listener)
    # Handshakes may have been under way.
    assert module.sessions.ends == [(code, 10.0)] * ends


async def test_a_reload_in_loop_mode_waits_for_requests(here, module, uwsgi):
    states = [b"busy", b"idle"]
    uwsgi.workers = lambda: ({}, {"status": states.pop(0)})
    await here("LoopModeWorker")._close(RESTART)
    assert states == []
    assert uwsgi.logged == []


async def test_a_reload_in_loop_mode_drops_requests_that_do_not_end(here, uwsgi):
    uwsgi.opt = {"worker-reload-mercy": b"0"}
    uwsgi.workers = lambda: ({}, {"status": b"busy"})
    await here("LoopModeWorker")._finish_requests()
    assert uwsgi.logged == ["aiopyramid: worker 2 drops requests that do not end"]


# Installation.


@pytest.fixture
def started(module, monkeypatch):
    """The workers that were started."""
    started = []
    monkeypatch.setattr(module.Worker, "start", lambda self: started.append(self))
    return started


@pytest.mark.parametrize("loop_mode", [True, False])
def test_the_worker_is_of_the_mode_that_uwsgi_runs_in(module, uwsgi, started, loop_mode):
    if loop_mode:
        uwsgi.loop, uwsgi.opt = b"asyncio", LOOP_MODE
    worker = module.install()
    mode = module.LoopModeWorker if loop_mode else module.ThreadModeWorker
    assert type(worker) is mode
    assert started == [worker]
    assert homes.obstacle == ""
    assert fitness.required is loop_mode
    assert module.install() is worker
    assert started == [worker]


def test_before_the_fork_a_worker_starts_after_it(module, uwsgi, started):
    uwsgi.worker_id = lambda: 0
    worker = module.install()
    assert started == []
    assert "set `lazy-apps = true`" in homes.obstacle
    uwsgi.post_fork_hook()
    assert started == [worker]


def test_the_hook_after_the_fork_is_shared_with_uwsgidecorators(
    module, uwsgi, started, monkeypatch
):
    hooks = []
    decorators = SimpleNamespace(postfork=hooks.append)
    monkeypatch.setitem(sys.modules, "uwsgidecorators", decorators)
    uwsgi.worker_id = lambda: 0
    worker = module.install()
    assert hooks == [worker.start]
    assert not hasattr(uwsgi, "post_fork_hook")


def test_callbacks_have_threads_of_their_own(make):
    worker = make()
    worker.start()
    callbacks = worker.home.callbacks
    assert isinstance(callbacks, concurrent.futures.ThreadPoolExecutor)
    name = callbacks.submit(lambda: threading.current_thread().name).result()
    assert name.startswith("aiopyramid-callback")
