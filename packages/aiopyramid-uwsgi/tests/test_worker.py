from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import ctypes
import os
import signal
import socket
import sys
import threading
from types import SimpleNamespace

import pytest
from websockets.frames import CloseCode

from aiopyramid import fitness, threads
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
    for home in [worker.running for worker in made if worker.running is not None]:
        for thread in threading.enumerate():
            if thread.name == "aiopyramid-loop":
                home.loop.call_soon_threadsafe(home.loop.stop)
                thread.join()
        home.loop.run_until_complete(home.loop.shutdown_default_executor())
        home.callbacks.shutdown()
        home.loop.close()


@pytest.fixture
async def here(module, uwsgi):
    """Make a worker whose loop is the running one."""
    uwsgi.opt = {"aiopyramid-loop": b"asyncio"}

    def here(mode="ThreadModeWorker"):
        worker = getattr(module, mode)()
        worker.running, worker.pid = threads.home_here(), os.getpid()
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
    assert worker.run_request(lambda: await_(thread_name())) == "aiopyramid-loop"
    assert uwsgi.logged == [
        "aiopyramid: worker 2 runs coroutines on asyncio in a thread of its own, "
        "with up to 8 requests at a time"
    ]
    assert uwsgi.atexit == worker._at_exit


def test_in_thread_mode_a_request_has_a_context_of_its_own(make):
    worker, variable = make(), contextvars.ContextVar("variable", default=0)
    worker.start()
    worker.run_request(variable.set, 1)
    assert worker.run_request(variable.get) == variable.get() == 0


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


def test_a_process_that_is_no_worker_has_a_loop_when_it_needs_one(make, uwsgi):
    uwsgi.worker_id = lambda: 0
    worker = make()
    worker.start()
    worker.hold_signals()  # none are
    assert worker.running is None
    loop = worker.loop()
    assert asyncio.run_coroutine_threadsafe(thread_name(), loop).result() == "aiopyramid-loop"
    assert worker.loop() is loop


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
    worker.running = SimpleNamespace(
        loop=SimpleNamespace(call_later=lambda *args: later.append(args))
    )
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


def test_a_coroutine_cannot_end_the_loop(module, caplog):
    runs = []

    def run_forever():
        runs.append(1)
        if len(runs) == 1:
            raise SystemExit

    module._run_forever(SimpleNamespace(run_forever=run_forever))
    assert len(runs) == 2
    assert "a coroutine tried to end the process" in caplog.text


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


def test_in_loop_mode_a_request_has_a_context_of_its_own(make):
    variable = contextvars.ContextVar("variable", default=0)
    worker = make("LoopModeWorker")
    worker.run_request(variable.set, 1)
    assert worker.run_request(variable.get) == variable.get() == 0


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
    assert threads.thread_home == worker.home
    assert fitness.required is loop_mode
    assert module.install() is worker
    assert started == [worker]


def test_before_the_fork_a_worker_starts_after_it(module, uwsgi, started):
    uwsgi.worker_id = lambda: 0
    worker = module.install()
    assert started == []
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
    callbacks = worker.home().callbacks
    assert isinstance(callbacks, concurrent.futures.ThreadPoolExecutor)
    name = callbacks.submit(lambda: threading.current_thread().name).result()
    assert name.startswith("aiopyramid-callback")
