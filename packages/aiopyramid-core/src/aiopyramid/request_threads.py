"""
Request threads: all plain code of a request runs in one thread.

The loop gives requests to threads (:class:`RequestThreads`); see
:mod:`aiopyramid.threads` for how threads and loop wait for each other.

A request has a *place* while its plain code runs. There is a bounded number of
them, for which new requests wait in a queue. A request that waits for a
coroutine gives its place back, and goes on at once when it may, above the bound
if need be: were it to queue, requests that have places and want a lock, a row or
a pooled connection which that one holds would wait forever.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import queue
import sys
import threading
import time
import traceback
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from . import threads
from .exceptions import ClientDisconnected, ScopeError
from .homes import Home, LoopClosed
from .threads import ThreadCall, Wait, bound

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("aiopyramid")

NO_REQUEST_THREAD = """\
{what} cannot run in the request's thread: no request's thread waits for this code. \
WebSocket views, background tasks and loop requests have none.
Use aiopyramid.helpers.use_executor, which runs it in a thread of a pool."""


_waiting: ContextVar[Wait[Any] | None] = ContextVar("waiting", default=None)
threads.OWN.add(_waiting)


class RequestCall(ThreadCall[T]):
    """
    Plain code of a request, in the thread that all of its plain code runs in.

    Args:
        func: The plain code.
        home: The loop that asks for it; ``None`` if this thread does.
    """

    #: Returns True if the client has left. None where the server cannot know.
    has_left: Callable[[], bool] | None = None

    def __init__(self, func: Callable[[], T], home: Home | None) -> None:
        super().__init__(func, home)
        self.request: RequestCall[Any] = self  # the outermost call of the request

    def enter(self) -> None:
        """Called before the thread that waits runs other plain code."""

    def prepare(self, wait: Wait[Any]) -> None:
        wait.context.run(_waiting.set, wait)

    def interruption(self, exc: asyncio.CancelledError) -> BaseException:
        has_left = self.request.has_left
        return request_interruption(client_left=has_left is not None and has_left())


def request_interruption(*, client_left: bool) -> Exception:
    """
    Make what the plain code of a request gets when what it waits for was cancelled.

    `asyncio.CancelledError` is for coroutines: add-ons clean up after `Exception`.
    """
    if client_left:
        return ClientDisconnected("the client has left")
    return concurrent.futures.CancelledError("what this waits for was cancelled")


def run_as_request(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run a request's plain code in this thread, which the server has for it, in a new context.

    Args:
        func: The plain code.
        args: Positional arguments for ``func``.
        kwargs: Keyword arguments for ``func``.

    Returns:
        What ``func`` returns.

    Raises:
        BaseException: What ``func`` raises.
    """
    call = RequestCall(bound(func, *args, **kwargs), None)
    try:
        return call.run()  # type: ignore[no-any-return]
    finally:
        del call.context  # which knows the call


class DeliveredCall(RequestCall[T]):
    """A request's plain code in a thread that delivers its outcome to a coroutine."""

    def __init__(self, func: Callable[[], T], home: Home) -> None:
        super().__init__(func, home)
        self.future: asyncio.Future[Any] | None = None
        self.ended: asyncio.Future[None] | None = None
        self.delivered = False

    # On the loop.

    async def result(self) -> T:
        """
        Let the thread run the plain code, and wait for its result.

        When cancelled, interrupt the plain code and wait for its end.
        """
        future = self.future = self.home.loop.create_future()
        self.submit()
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if future.cancelled():
                if self.begin():
                    self.withdraw()
                elif not self.delivered:
                    self.ended = self.home.loop.create_future()
                    await self.end(self.ended)
            raise
        finally:
            del future  # an exception in it knows this frame
            self.future = None
            self.settle()

    def submit(self) -> None:
        """Give the call to its thread."""
        raise NotImplementedError

    def withdraw(self) -> None:
        """Called instead of `deliver` when the call was cancelled before it began."""
        raise NotImplementedError

    def deliver(self, result: T | None, exception: BaseException | None) -> None:
        """Receive the outcome from the thread."""
        self.delivered = True
        if self.future is None or self.future.cancelled():
            if exception is not None and not isinstance(exception, threads.INTERRUPTIONS):
                threads.log_late(exception)
            if self.ended is not None and not self.ended.done():
                self.ended.set_result(None)
        elif exception is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(exception)

    # In the thread.

    def run(self) -> None:
        """Run the plain code in this thread, if it is still wanted, and deliver the outcome."""
        if not self.begin():
            return
        result, exception = None, None
        try:
            result = super().run()
        except BaseException as exc:
            exception = exc
        with contextlib.suppress(LoopClosed):  # then nobody waits
            self.home.call(self.deliver, result, exception)
        del exception  # its traceback knows this frame


class NestedCall(DeliveredCall[T]):
    """Plain code that a request's coroutine hands to the thread that waits for it."""

    def __init__(self, func: Callable[[], T], wait: Wait[Any]) -> None:
        assert isinstance(wait.call, RequestCall)
        super().__init__(func, wait.home)
        self.request = wait.call.request
        self.waiting = wait

    def submit(self) -> None:
        self.request.enter()
        self.waiting.inbox.put(self)

    def withdraw(self) -> None:
        self.request.leave()

    def deliver(self, result: T | None, exception: BaseException | None) -> None:
        self.request.leave()
        super().deliver(result, exception)

    def leave(self) -> None:
        self.request.leave()

    def go_on(self, inbox: Inbox) -> None:
        self.request.go_on(inbox)

    def pass_on(self) -> bool:
        return self.request.pass_on()


async def run_in_request_thread(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run plain code in the waiting thread of the request that this coroutine belongs to.

    The request's thread-locals are there: its transaction, its scoped session.
    Calls run one at a time, in the order in which they were made. Context and
    cancellation are as for :func:`run_in_executor`, except that the plain code
    gets an `OSError` if it was the client who left.

    Args:
        func: A plain function.
        args: Positional arguments for ``func``.
        kwargs: Keyword arguments for ``func``.

    Returns:
        What ``func`` returns.

    Raises:
        ScopeError: If no request's thread waits for this code.
        BaseException: What ``func`` raises.
    """
    wait = _waiting.get()
    if wait is None or wait.done or wait.home.loop is not _get_running_loop():
        what = getattr(func, "__qualname__", None) or repr(func)
        raise ScopeError(NO_REQUEST_THREAD.format(what=what))
    return await NestedCall(bound(func, *args, **kwargs), wait).result()


# More threads than these are woken only if it is of use: while this process has computed for
# most of the last SAMPLE seconds, only if none has begun or gone on for STUCK seconds.
EAGER = 2
BUSY = 0.7
SAMPLE = 0.002
STUCK = 0.001

Inbox = queue.SimpleQueue["PlacedCall[Any] | None"]


class PlacedCall(DeliveredCall[T]):
    """All plain code of a request, in one of the worker's request threads."""

    def __init__(self, func: Callable[[], T], pool: RequestThreads) -> None:
        super().__init__(func, pool.home)
        self.pool = pool

    def submit(self) -> None:
        self.pool.submit(self)

    def withdraw(self) -> None:
        self.pool.withdraw(self)

    def deliver(self, result: T | None, exception: BaseException | None) -> None:
        self.pool.ended()
        super().deliver(result, exception)

    def leave(self) -> None:
        self.pool.leave()

    def enter(self) -> None:
        self.pool.enter()

    def go_on(self, inbox: Inbox) -> None:
        self.pool.go_on(inbox)

    def pass_on(self) -> bool:
        return self.pool.pass_on()


class RequestThreads:
    """
    The threads of a worker's requests; to be used on its loop.

    Args:
        home: The loop.
        places: How many requests may begin to run plain code at a time.
        keep: Time after which a thread that has nothing to do ends, if there
            are more than ``places``, in seconds.
    """

    def __init__(self, home: Home, places: int, keep: float = 10.0) -> None:
        self.home = home
        self.loop = home.loop
        self.places = places
        self.keep = keep
        self.running = 0
        self.queue: deque[PlacedCall[Any]] = deque()
        self.ready: deque[Inbox] = deque()  # of threads that have waited, and may go on
        self.moved = 0.0  # when a place was last given back, or the queue began
        self.inboxes: set[Inbox] = set()  # of all threads
        self.idle: deque[tuple[float, Inbox]] = deque()  # used longest ago first
        self.closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._begun = 0  # calls
        self._begun_before: int | None = None
        self._busy = False
        self._sample = (0.0, 0.0)  # of the wall's clock, and of the processor's

    def call(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> PlacedCall[T]:
        """Make a call of a request's plain code; await its ``result()``."""
        return PlacedCall(bound(func, *args, **kwargs), self)

    def close(self) -> None:
        """Let each thread end when it becomes idle, from now on."""
        self.closed = True
        for inbox in self.inboxes:
            inbox.put(None)
        self.inboxes.clear()
        self.idle.clear()
        if self._timer is not None:
            self._timer.cancel()

    def stalled(self) -> float:
        """Return for how many seconds requests have queued without any place moving."""
        return self.loop.time() - self.moved if self.queue else 0.0

    # For calls.

    def submit(self, call: PlacedCall[Any]) -> None:
        """Give a call to a thread, or let it wait in the queue."""
        if not self.queue:
            self.moved = self.loop.time()
        self.queue.append(call)
        self._next()

    def withdraw(self, call: PlacedCall[Any]) -> None:
        """Remove a call that was cancelled while it queued."""
        with contextlib.suppress(ValueError):  # a thread has it, and drops it
            self.queue.remove(call)

    def ended(self) -> None:
        """Called when a call has ended. Its thread keeps the place for the next call."""
        self.moved = self.loop.time()

    def leave(self) -> None:
        """A request that waits gives its place back."""
        self.running -= 1
        self.moved = self.loop.time()
        self._next()

    def enter(self) -> None:
        """A request's thread runs something while the request waits."""
        self.running += 1

    def go_on(self, inbox: Inbox) -> None:
        """A request that has waited goes on, above the bound if need be."""
        self.ready.append(inbox)
        self._next()

    # For threads.

    def _next(self, stuck: bool = False) -> None:
        """
        Let threads go on or begin, as many as are of use.

        Args:
            stuck: None has begun for some time: let one more.
        """
        while self.ready or (self.queue and self.running < self.places):
            if self.running >= EAGER and self._is_busy():
                # More threads would only want the interpreter from each other.
                if not stuck:
                    if self._begun_before is None:
                        self._begun_before = self._begun
                        self.loop.call_later(
                            STUCK, self._look_whether_stuck, context=self.home.context
                        )
                    return
                stuck = False
            try:
                if self.ready:
                    inbox, call = self.ready.popleft(), None
                elif self.running >= self.places:  # a thread has let the last one go on
                    continue
                elif self.idle or self._start_thread():
                    inbox, call = self._pair()
                else:
                    return
            except IndexError:  # a thread was faster
                continue
            self.running += 1
            self._begun += 1
            inbox.put(call)
            if call is not None and self.closed:
                inbox.put(None)

    def _is_busy(self) -> bool:
        """Return True if this process computes nearly all of the time."""
        now, (before, used) = time.perf_counter(), self._sample
        if now - before > SAMPLE:
            cpu = time.process_time()
            self._busy = cpu - used > BUSY * (now - before)
            self._sample = (now, cpu)
        return self._busy

    def _look_whether_stuck(self) -> None:
        # If no thread has begun another call since, they compute for long, or wait.
        stuck = self._begun == self._begun_before
        self._begun_before = None
        self._next(stuck)

    def _start_thread(self) -> bool:
        inbox: Inbox = queue.SimpleQueue()
        self._number += 1
        name = f"aiopyramid-request-{self._number}"
        thread = threading.Thread(target=self._work, args=[inbox], name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            logger.warning(
                "%d requests queue: the system gives no thread beyond %d (%s)",
                len(self.queue),
                len(self.inboxes),
                exc,
            )
            self._look_again(0.1)
            return False
        self.inboxes.add(inbox)
        self.idle.append((self.loop.time(), inbox))
        if len(self.inboxes) > self.places:
            self._look_again(self.keep)
        return True

    def _look_again(self, delay: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(delay, self._look, context=self.home.context)

    def _look(self) -> None:
        self._timer = None
        self._next()
        before = self.loop.time() - self.keep
        with contextlib.suppress(IndexError):  # a thread was faster
            while len(self.inboxes) > self.places and self.idle[0][0] <= before:
                _, inbox = self.idle.popleft()
                self.inboxes.remove(inbox)
                inbox.put(None)
        if len(self.inboxes) > self.places:
            self._look_again(self.keep / 2)

    def _become_idle(self, inbox: Inbox, *, leave: bool) -> None:
        if not self.closed:
            self.idle.append((self.loop.time(), inbox))
        if leave:
            self.leave()

    def _work(self, inbox: Inbox) -> None:
        """Run calls; this is what the threads do."""
        call, took = inbox.get(), False
        while call is not None:
            call.run()
            # Where requests wait for their turn, the next one without a word to the loop; but
            # new ones do not keep those that have waited from going on.
            call = None if took and self.ready else self._take()
            took = call is not None
            if call is None:
                leave = not self.pass_on()
                try:
                    self.home.call(functools.partial(self._become_idle, inbox, leave=leave))
                except LoopClosed:
                    return
                call = inbox.get()

    def pass_on(self) -> bool:
        """
        Let another request have this thread's place, without a word to the loop.

        Returns:
            False if there is none whose turn it is.
        """
        try:
            inbox, call = self.ready.popleft(), None
        except IndexError:
            if self.running > self.places or not self.queue:
                return False
            try:
                inbox, call = self._pair()
            except IndexError:
                return False
        self._begun += 1
        inbox.put(call)
        return True

    def _pair(self) -> tuple[Inbox, PlacedCall[Any]]:
        """
        Take an idle thread's inbox and the next call that queues, both or neither.

        Raises:
            IndexError: If there are not both; other threads take of them at the same time.
        """
        idle = self.idle.pop()
        try:
            return idle[1], self.queue.popleft()
        except IndexError:
            self.idle.append(idle)
            raise

    def _take(self) -> PlacedCall[Any] | None:
        """Take the next call that queues, if this thread may."""
        if self.running > self.places:
            return None
        try:
            call = self.queue.popleft()
        except IndexError:
            return None
        self._begun += 1
        return call


def stacks() -> str:
    """Return the stacks of all threads of this process, as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
