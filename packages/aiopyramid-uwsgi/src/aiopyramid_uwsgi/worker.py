"""
An event loop for each of uWSGI's worker processes.

uWSGI runs requests in one of two ways, and the loop runs accordingly:

thread mode (``threads``)
    The loop runs in a thread of its own. Requests run in uWSGI's threads and
    wait for coroutines through the bridge.
loop mode (``asyncio`` and ``greenlet``)
    uWSGI itself runs the loop, in the main thread, and each request in a
    greenlet. Plain views run in the loop's executor.

In both, WebSockets live on the loop and hold no thread or greenlet of uWSGI's.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import uwsgi
from websockets.frames import CloseCode

from aiopyramid import fitness, threads
from aiopyramid.garbage import collect_less
from aiopyramid.request_threads import run_as_request
from aiopyramid.threads import Home, let_the_loop_in
from aiopyramid.transactions import refuse_on_loop
from aiopyramid.websocket.sessions import sessions

from . import options
from .signals import HeldSignals

logger = logging.getLogger("aiopyramid.uwsgi")

P = ParamSpec("P")
T = TypeVar("T")

# How long the views of WebSockets have to end when the worker does, in seconds.
END_TIMEOUT = 10.0

CODES = {
    signal.SIGHUP: CloseCode.SERVICE_RESTART,  # a graceful reload
    signal.SIGTERM: CloseCode.SERVICE_RESTART,  # a brutal one
    signal.SIGINT: CloseCode.GOING_AWAY,
}


def code_for(signum: int) -> int:
    """Return the close code for when a signal ends this worker."""
    if not uwsgi.masterpid():
        return CloseCode.GOING_AWAY  # nobody starts the worker again
    return CODES[signal.Signals(signum)]


class Worker:
    """The event loop of a process: a worker, or a mule or spooler that waits for coroutines."""

    mode: str

    def __init__(self) -> None:
        self.new_loop = options.loop_factory()
        self.threads = options.executor_threads()
        self.lock = threading.Lock()
        self.pid = 0
        self.running: Home | None = None
        self.signals: HeldSignals | None = None
        self.ending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Create the loop; called in the main thread of each new process."""
        if not uwsgi.worker_id():
            return  # a mule or spooler: `home` creates its loop if it needs one
        self.pid = os.getpid()
        self.running = self._make_home()
        let_the_loop_in()
        loop = self.running.loop
        self.signals = HeldSignals(CODES, loop, self._signalled)
        collect_less()
        uwsgi.log(
            f"aiopyramid: worker {uwsgi.worker_id()} runs coroutines on "
            f"{type(loop).__module__.partition('.')[0]} "
            f"{self.mode}, with up to {uwsgi.cores} requests at a time"
        )
        if options.may_recycle():
            loop.call_later(1, self._watch)
        self._run(loop)

    def run_request(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the plain code of a request, in a context of its own."""
        raise NotImplementedError

    def _make_home(self) -> Home:
        loop = self.new_loop()
        executor = ThreadPoolExecutor(self.threads, "aiopyramid", self._thread_started)
        loop.set_default_executor(executor)
        loop.call_soon(refuse_on_loop)
        home = Home(loop)
        home.callbacks = ThreadPoolExecutor(
            self.threads, "aiopyramid-callback", self._thread_started
        )
        return home

    def _thread_started(self) -> None:
        """Prepare a thread that was started here."""

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        raise NotImplementedError

    def home(self) -> Home:
        """Return the home of the loop; in a process that is not a worker, start the loop first."""
        if self.pid != os.getpid():
            with self.lock:
                if self.pid != os.getpid():
                    self.running = self._make_home()
                    self.running.loop.call_soon(self._thread_started)
                    run_in_thread(self.running.loop)
                    self.pid = os.getpid()
        assert self.running is not None
        return self.running

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        return self.home().loop

    def hold_signals(self) -> None:
        """Hold signals from now on, because there may be connections to close first."""
        if self.signals is not None:
            self.signals.hold()

    def _signalled(self, signum: int) -> None:
        assert self.signals is not None
        # A second time if uWSGI had no handler when the signal was sent again.
        if self.ending is None or (self.ending.done() and not self.signals.held):
            self.ending = self.loop().create_task(self._end(signum))

    def _watch(self) -> None:
        # uWSGI notices that a worker is to be recycled after a request only. With idle threads,
        # or in its asyncio plugin, it never does.
        assert self.signals is not None
        if options.is_recycled():
            signal.pthread_kill(self.signals.main_thread, signal.SIGHUP)
        else:
            self.loop().call_later(1, self._watch)

    async def _end(self, signum: int) -> None:
        assert self.signals is not None
        try:
            await self._close(code_for(signum))
        finally:
            self.signals.release(signum)

    async def _close(self, code: int) -> None:
        await sessions.end(code, min(END_TIMEOUT, options.mercy() / 3))


class ThreadModeWorker(Worker):
    """A loop in a thread of its own, for requests in other threads."""

    mode = "in a thread of its own"

    def run_request(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the plain code of a request in this thread of uWSGI's, which is the request's."""
        return run_as_request(self.home(), func, *args, **kwargs)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.signals is not None
        self.signals.listen()
        uwsgi.atexit = self._at_exit  # type: ignore[attr-defined]
        run_in_thread(loop)

    async def _end(self, signum: int) -> None:
        if signum == signal.SIGHUP:
            # uWSGI accepts no more, and exits when its threads have finished.
            assert self.signals is not None
            self.signals.release(signum)
            await self._close(code_for(signum))
        else:
            await super()._end(signum)

    def _at_exit(self) -> None:
        # uWSGI recycles a worker without a signal.
        code = code_for(signal.SIGHUP)
        closing = asyncio.run_coroutine_threadsafe(self._close(code), self.loop())
        closing.result(END_TIMEOUT + 1)


class LoopModeWorker(Worker):
    """The loop that uWSGI's asyncio plugin runs."""

    mode = "in the main thread"

    def run_request(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the plain code of a request in this greenlet of uWSGI's."""
        return contextvars.copy_context().run(func, *args, **kwargs)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)  # the plugin asks asyncio for it
        # uWSGI's own handlers would drop requests as well as connections.
        loop.call_soon(self.hold_signals)

    def _thread_started(self) -> None:
        # With the greenlet plugin, uWSGI's functions release the GIL by
        # PyGILState_Release. Without a balancing call here, that frees the thread's state.
        ctypes.pythonapi.PyGILState_Ensure()

    async def _close(self, code: int) -> None:
        for fd in uwsgi.sockets:
            self.loop().remove_reader(fd)  # others accept, from now on
        await super()._close(code)
        if code == CloseCode.SERVICE_RESTART:
            await self._finish_requests()
            await super()._close(code)  # WebSockets that have been opened in the meantime

    async def _finish_requests(self) -> None:
        try:
            async with asyncio.timeout(options.mercy() / 4):
                while options.this_worker()["status"] == b"busy":  # noqa: ASYNC110 - only uWSGI knows
                    await asyncio.sleep(0.05)
        except TimeoutError:
            uwsgi.log(f"aiopyramid: worker {uwsgi.worker_id()} drops requests that do not end")


def run_in_thread(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop in a new thread, until the process ends."""
    started = threading.Event()
    loop.call_soon(started.set)
    threading.Thread(target=_run_forever, args=[loop], name="aiopyramid-loop", daemon=True).start()
    started.wait()


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except BaseException:
            # sys.exit() in a coroutine ends that coroutine; in a thread it ends no process.
            logger.exception("a coroutine tried to end the process")
        else:
            return


worker: Worker | None = None
"""The loop of this process, and of those that are forked from it."""


def install() -> Worker:
    """
    Let this process and its workers wait for coroutines.

    Raises:
        pyramid.exceptions.ConfigurationError: If uWSGI's options forbid it, or
            one of ours has no such value.
    """
    global worker
    if worker is None:
        worker = LoopModeWorker() if options.is_loop_mode() else ThreadModeWorker()
        threads.thread_home = worker.home
        fitness.required = isinstance(worker, LoopModeWorker)
        if uwsgi.worker_id():
            worker.start()  # uWSGI loads its applications after the fork
        else:
            _after_fork(worker.start)
    return worker


def _after_fork(function: Callable[[], None]) -> None:
    # uWSGI has one hook only, and uwsgidecorators takes it when it is imported.
    try:
        from uwsgidecorators import postfork
    except Exception:  # without a master process, it raises just that
        uwsgi.post_fork_hook = function
    else:
        postfork(function)
