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
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uwsgi
from websockets.frames import CloseCode

from aiopyramid import bridge, fitness, homes, lifespan
from aiopyramid.garbage import collect_less
from aiopyramid.homes import Home, let_the_loop_in, run_in_thread
from aiopyramid.sse import streams
from aiopyramid.transactions import refuse_on_loop
from aiopyramid.websocket.sessions import sessions

from . import options, stream
from .signals import HeldSignals

logger = logging.getLogger("aiopyramid.uwsgi")

# How long the views of WebSockets have to end when the worker does, and lifespans after
# them, in seconds.
END_TIMEOUT = 10.0

# What uWSGI exits with if an application cannot be loaded.
FAILED_APP_CODE = 22

LOADED_BY_THE_MASTER = """\
{what} cannot be waited for here: uWSGI loads the application before it forks its workers, \
in a process that has no event loop.
Put what needs one at the start into `config.add_lifespan(factory)`, \
which each worker enters on its own; or set `lazy-apps = true`."""

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
    """The event loop of a worker process, and how mules and spoolers get theirs."""

    mode: str

    def __init__(self) -> None:
        self.new_loop = options.loop_factory()
        self.threads = options.executor_threads()
        self.home: Home | None = None
        self.signals: HeldSignals | None = None
        self.ending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Create the loop; called in the main thread of each new process."""
        homes.forget_forked()  # uWSGI forks without a word to Python
        homes.new_home = self._new_home
        if not uwsgi.worker_id():
            return  # a mule or spooler, which gets a loop if it needs one
        self.home = homes.process_home = self._make_home()
        self.home.stop = self._stop
        let_the_loop_in()
        loop = self.home.loop
        self.signals = HeldSignals(CODES, loop, self._signalled)
        collect_less()
        uwsgi.log(
            f"aiopyramid: worker {uwsgi.worker_id()} runs coroutines on "
            f"{type(loop).__module__.partition('.')[0]} "
            f"{self.mode}, with up to {uwsgi.cores} requests at a time"
        )
        if options.may_recycle():
            loop.call_later(1, self._watch)
        self._run(self.home)
        self.enter_lifespans()

    def enter_lifespans(self) -> None:
        """Enter what the applications have added that are loaded by now, or stop uWSGI."""
        first = lifespan.entering()
        if first is None:
            return
        try:
            bridge.await_(first)
        except BaseException:
            logger.exception("a lifespan could not be entered")
            if uwsgi.masterpid() and not options.needs_app():
                os.kill(uwsgi.masterpid(), signal.SIGINT)
            os._exit(FAILED_APP_CODE)

    def _stop(self, reason: BaseException) -> None:
        assert self.signals is not None
        uwsgi.log(f"aiopyramid: worker {uwsgi.worker_id()} ends because of {reason!r}")
        signal.pthread_kill(self.signals.main_thread, signal.SIGHUP)

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

    def _new_home(self) -> Home:
        home = self._make_home()
        home.loop.call_soon(self._thread_started)
        return home

    def _thread_started(self) -> None:
        """Prepare a thread that was started here."""

    def _run(self, home: Home) -> None:
        raise NotImplementedError

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        assert self.home is not None
        return self.home.loop

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
            await self._leave()
        finally:
            self.signals.release(signum)

    async def _close(self, code: int) -> None:
        streams.end()
        timeout = min(END_TIMEOUT, options.mercy() / 3)
        await sessions.end(code, timeout)
        if stream.tasks:
            await asyncio.wait(stream.tasks, timeout=timeout)

    async def _leave(self) -> None:
        assert self.home is not None
        await self.home.end(min(END_TIMEOUT, options.mercy() / 3))


class ThreadModeWorker(Worker):
    """A loop in a thread of its own, for requests in other threads."""

    mode = "in a thread of its own"

    def _run(self, home: Home) -> None:
        assert self.signals is not None
        self.signals.listen()
        uwsgi.atexit = self._at_exit  # type: ignore[attr-defined]
        run_in_thread(home)

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
        for ending in self._close(code), self._leave():
            asyncio.run_coroutine_threadsafe(ending, self.loop()).result(END_TIMEOUT + 1)


class LoopModeWorker(Worker):
    """The loop that uWSGI's asyncio plugin runs."""

    mode = "in the main thread"

    def _run(self, home: Home) -> None:
        asyncio.set_event_loop(home.loop)  # the plugin asks asyncio for it
        home.loader = threading.get_ident()
        # uWSGI's own handlers would drop requests as well as connections.
        home.loop.call_soon(self._hold_when_served)

    def _hold_when_served(self) -> None:
        if self.home is not None and self.home.lent:
            # Applications are being loaded; uWSGI sets its handlers after that.
            self.loop().call_later(0.1, self._hold_when_served)
        else:
            self.hold_signals()

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
        fitness.required = isinstance(worker, LoopModeWorker)
        if uwsgi.worker_id():
            worker.start()  # uWSGI loads its applications after the fork
        else:
            homes.obstacle = LOADED_BY_THE_MASTER  # until the fork
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
