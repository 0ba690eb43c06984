"""
The event loops that threads work with, and the loop of a process that has no other.

A :class:`Home` is a loop that threads can hand functions to. A thread finds the one that
it works for by :func:`home_of_thread`:

1. the one that its context knows: that of the coroutine which handed it its work;
2. ``process_home``, the loop of this process: a server's, or one that was started here;
3. the one running loop in use here, in a program that runs a loop of its own;
4. a new one, which runs in a daemon thread until the process ends.

So coroutines can be waited for under any server, in scripts and in tests. A loop does not
survive a fork: the child process starts anew, and begins with 4.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context, ContextVar
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

logger = logging.getLogger("aiopyramid")

# How long what runs on this process's own loop has to end when the process does, in seconds.
END_TIMEOUT = 10.0

# The threads of its executor.
THREADS = 16


class LoopClosed(RuntimeError):
    """The loop that a thread works for is closed."""


class Home:
    """
    An event loop that threads can hand functions to.

    Args:
        loop: The loop.
    """

    __slots__ = (
        "__weakref__",
        "callbacks",
        "context",
        "endings",
        "forked",
        "given_up",
        "lent",
        "loader",
        "loop",
        "ready",
        "stop",
        "woken",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.woken = False
        # An empty context, not that of the request that happens to come first.
        self.context = Context()
        self.given_up: asyncio.Future[None] = loop.create_future()
        #: The threads of `run_callback`, which need not wait for other work; ``None`` for
        #: the loop's default executor.
        self.callbacks: Executor | None = None
        #: The thread that runs the loop for as long as it waits, while the loop does not run.
        self.loader = 0
        #: Whether the loop runs only until what that thread waits for is there.
        self.lent = False
        #: Whether the loop is one of the process that this one was forked from.
        self.forked = False
        #: What `end` awaits, the last one first.
        self.endings: list[Callable[[], Awaitable[None]]] = []
        #: Called when the process should not go on, with what has failed.
        self.stop: Callable[[BaseException], None] = interrupt_process
        _homes.add(self)

    def is_running(self) -> bool:
        """Return True if the loop runs, and in this process."""
        return not self.forked and self.loop.is_running()

    def can_be_run(self) -> bool:
        """Return True if this thread can run the loop while it waits."""
        return (
            self.loader == threading.get_ident()
            and not self.forked
            and not self.loop.is_running()
            and not self.loop.is_closed()
        )

    def give_up(self) -> None:
        """Stop waiting for interrupted threads, because the loop is about to end."""
        if not self.given_up.done():
            self.given_up.set_result(None)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """
        Let the loop call a function soon. May be called in any thread.

        Args:
            function: A plain function that does not block.
            args: Positional arguments for it.

        Raises:
            LoopClosed: If the loop is closed.
        """
        item = (function, args)
        self.ready.append(item)
        if not self.woken:
            self.woken = True
            try:
                self.loop.call_soon_threadsafe(self._run, context=self.context)
            except RuntimeError as exc:
                self.woken = False
                with contextlib.suppress(ValueError):
                    self.ready.remove(item)
                raise LoopClosed from exc

    def _run(self) -> None:
        self.woken = False  # first: what comes from now on wakes the loop again
        try:
            for _ in range(len(self.ready)):
                function, args = self.ready.popleft()
                function(*args)
        except BaseException:
            self.loop.call_soon(self._run, context=self.context)  # the others
            raise

    async def end(self, timeout: float) -> None:
        """
        Await the endings, the last one first. What one raises is logged.

        Those that have not ended after three quarters of the time are cancelled; the last
        quarter is for what they do then.

        Args:
            timeout: Time for all of them, in seconds.
        """
        until = self.loop.time() + timeout
        while self.endings:
            ending = self.endings.pop()
            task = asyncio.ensure_future(ending())
            await asyncio.wait([task], timeout=until - timeout / 4 - self.loop.time())
            if not task.done():
                logger.error("%s did not end within %.1f s", _subject(ending), timeout * 0.75)
                task.cancel()
                await asyncio.wait([task], timeout=until - self.loop.time())
            if task.done() and not task.cancelled() and (exception := task.exception()) is not None:
                logger.error("%s failed to end", _subject(ending), exc_info=exception)


def _subject(ending: Callable[[], Awaitable[None]]) -> object:
    return getattr(ending, "__self__", ending)


def interrupt_process(reason: BaseException) -> None:
    """
    Interrupt this process's main thread, as Ctrl-C does. Servers stop, as for that.

    Where that is ignored, as in what shells run in the background, terminate the process.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)


process_home: Home | None = None
"""The loop of this process, once there is one."""

obstacle = ""
"""Why there can be none here, and what to do instead. A server sets this where it loads an
application in a process that has no loop."""


prepare: Callable[[], Coroutine[Any, Any, None] | None] | None = None
"""Returns what is to be awaited before code outside of requests waits for this process's own
loop, if there is something."""

works_for_loop: ContextVar[bool] = ContextVar("works_for_loop", default=False)
"""Whether this code belongs to what `prepare` begins."""

_searched = False
_homes: WeakSet[Home] = WeakSet()
_forked: list[Home] = []  # kept, because a loop that is collected closes what its parent uses
_home: ContextVar[Home] = ContextVar("home")


def home_here() -> Home:
    """Return the home of the running loop, and remember it for threads that start from here."""
    loop = asyncio.get_running_loop()
    home = _home.get(None)
    if home is None or home.loop is not loop:
        home = _home_of(loop)
        _home.set(home)
    return home


def _home_of(loop: asyncio.AbstractEventLoop) -> Home:
    # Some server of ours keeps one for good.
    return next((home for home in tuple(_homes) if home.loop is loop), None) or Home(loop)


def home_of_thread() -> Home | None:
    """
    Find the loop that this thread works for, and start one if there is none.

    Returns:
        The loop's home; ``None`` where no loop may be started, such as in a process that loads
        an application for others.
    """
    home = _home.get(None)
    if home is not None and home.is_running():
        return home
    home = _home_of_process()
    if home is None:
        return None if obstacle else own_loop.start()
    return home if home.is_running() or home.can_be_run() else None


def has_home() -> bool:
    """Return True if this thread works for a loop, or one can be started."""
    home = _home.get(None)
    if home is not None and home.is_running():
        return True
    home = _home_of_process()
    return not obstacle if home is None else home.is_running() or home.can_be_run()


def what_comes_first(home: Home) -> Coroutine[Any, Any, None] | None:
    """Return what `prepare` returns, where code outside of requests waits for a loop."""
    if prepare is None or home is not own_loop.home or own_loop.is_ending:
        return None
    # Threads of the loop's executor work for coroutines, which may be part of it.
    if works_for_loop.get() or getattr(_local, "is_executor", False):
        return None
    return prepare()


_local = threading.local()


def _is_executor() -> None:
    _local.is_executor = True


def _home_of_process() -> Home | None:
    global _searched
    if process_home is None and not _searched:
        _searched = True
        if in_uwsgi():
            # Its workers have a loop, though the application has not included us yet.
            importlib.import_module("aiopyramid_uwsgi.worker").install()
    if process_home is not None:
        return process_home
    running = [home for home in tuple(_homes) if home.is_running()]
    return running[0] if len(running) == 1 else None


def in_uwsgi() -> bool:
    """Return True in uWSGI's own processes: only they have the module ``uwsgi``."""
    return sys.modules.get("uwsgi") is not None


def forget_forked() -> None:
    """In a process that was forked: forget the loops of its parent, which it must not touch."""
    global process_home, obstacle, own_loop
    process_home, obstacle = None, ""
    for home in tuple(_homes):
        home.forked = True
        _forked.append(home)
    own_loop = OwnLoop()  # the lock of the other may be held for ever
    _parked.clear()


# A process's own loop


DEFAULT_SWITCH_INTERVAL = 0.005
SWITCH_INTERVAL = 0.0005


def let_the_loop_in() -> None:
    """
    Let threads that compute give way to the loop's thread sooner, for this whole process.

    Python's default of 5 ms is what the loop waits for each of them at each of
    its turns. An interval that the application has chosen is left alone.
    """
    if sys.getswitchinterval() == DEFAULT_SWITCH_INTERVAL:
        sys.setswitchinterval(SWITCH_INTERVAL)


_parked: list[SimpleQueue[tuple[asyncio.AbstractEventLoop, threading.Event]]] = []


def run_in_thread(home: Home) -> threading.Event:
    """
    Run a loop in a daemon thread, until it is stopped.

    The thread does not end then: others may be collecting garbage, and where one ends that has
    used greenlets, that can hang or crash (greenlet 3.5). It runs the next loop.

    Returns:
        An event that is set when the loop has stopped.
    """
    try:
        inbox = _parked.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(
            target=_run_loops, args=[inbox], name="aiopyramid-loop", daemon=True
        ).start()
    started, ended = threading.Event(), threading.Event()
    home.loop.call_soon(started.set)
    inbox.put((home.loop, ended))
    started.wait()
    return ended


def _run_loops(inbox: SimpleQueue[tuple[asyncio.AbstractEventLoop, threading.Event]]) -> None:
    while True:
        loop, ended = inbox.get()
        _run_forever(loop)
        _parked.append(inbox)
        ended.set()
        del loop, ended


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except BaseException:
            # sys.exit() in a coroutine ends that coroutine; in a thread it ends no process.
            logger.exception("a coroutine tried to end the process")
        else:
            return


def _new_home() -> Home:
    home = Home(asyncio.new_event_loop())
    home.loop.set_default_executor(ThreadPoolExecutor(THREADS, "aiopyramid-executor", _is_executor))
    return home


new_home: Callable[[], Home] = _new_home
"""Makes the loop of a process that has none. A server may have a way of its own."""


class OwnLoop:
    """The loop of a process in which no server runs one."""

    def __init__(self) -> None:
        self.home: Home | None = None
        self.ended: threading.Event | None = None
        #: Whether the process ends: nothing new is entered.
        self.is_ending = False
        self._is_stuck = False
        self._lock = threading.Lock()

    def start(self) -> Home:
        """Start the loop in a thread of its own, if it does not run."""
        global process_home
        with self._lock:
            if process_home is None:
                home = new_home()
                self.ended = run_in_thread(home)
                let_the_loop_in()
                process_home = self.home = home
            return process_home

    def leave(self) -> None:
        """End what lives with the loop, which goes on."""
        self.is_ending = True
        if self.home is not None:
            self._await(self.home.end(END_TIMEOUT), END_TIMEOUT)

    def end(self) -> None:
        """Cancel what runs on the loop, and end it."""
        global process_home, own_loop
        home, ended = self.home, self.ended
        if home is None or ended is None:
            return
        self.leave()
        self._await(_cancel_tasks(home), END_TIMEOUT)
        home.loop.call_soon_threadsafe(home.loop.stop)
        if ended.wait(0 if self._is_stuck else END_TIMEOUT):
            home.loop.close()
        if process_home is home:
            process_home, own_loop = None, OwnLoop()

    def _await(self, coroutine: Coroutine[Any, Any, None], timeout: float) -> None:
        assert self.home is not None
        if self._is_stuck:
            coroutine.close()
            return
        ending = asyncio.run_coroutine_threadsafe(coroutine, self.home.loop)
        try:
            ending.result(timeout + 1)
        except concurrent.futures.TimeoutError:
            # Each of them is bounded: something blocks the loop.
            self._is_stuck = True
            ending.cancel()
            logger.error("The event loop is blocked, and cannot end what runs there")


async def _cancel_tasks(home: Home) -> None:
    home.give_up()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_TIMEOUT / 2)
    await home.loop.shutdown_asyncgens()


own_loop = OwnLoop()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_forked)


def _leave_at_exit() -> None:
    own_loop.leave()


def _end_at_exit() -> None:
    own_loop.end()


# Python first waits for threads that are no daemons, and they may still wait for the loop. What
# lives with it ends before: later, no executor takes work, and a thread that it uses may be one
# of those. Python has no public way to be called then.
getattr(threading, "_register_atexit", atexit.register)(_leave_at_exit)
atexit.register(_end_at_exit)
