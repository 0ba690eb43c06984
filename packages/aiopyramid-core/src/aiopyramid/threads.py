"""
Plain code in threads, and the event loop that it works with.

A coroutine hands plain code to a thread (:class:`ThreadCall`); plain code hands
a coroutine to the loop (:class:`Wait`). Both may happen inside of each other::

    event loop                                     request thread
    ----------                                     --------------
    run_request(app) -------- ThreadCall --------> app(environ, ...)
                                                     tween, policy, renderer ...
    task: view(request) <------- Wait ------------   waits for the view
      await use_request_thread(query)()
      (suspended) ----------- ThreadCall --------->  query(), among the request's thread-locals
      goes on <--------------------------------------  its result
    the task ends ---------------------------------> its result
    response <-------------------------------------- returns

Five rules:

1. *All bookkeeping happens on the loop.* Threads only put functions into the
   loop's queue (:class:`~aiopyramid.homes.Home`), one wake-up for all that are ready, so nothing
   here needs a lock.
2. *A thread that waits is woken once its coroutine has ended*, ``finally``
   blocks included, so that neither gives back what the other still uses.
3. *Cancelling interrupts plain code where it waits*, now or next, once for each
   cancellation. Coroutines get `asyncio.CancelledError`; the code of a request
   gets an `Exception`, because that is what Pyramid's add-ons clean up after.
4. *Nothing here touches greenlets.* A thread that has used greenlet's functions,
   and ends while another one collects garbage, crashes the process (greenlet 3.5,
   found by a stress test), and request threads come and go.
5. *Context is copied in, and changed values are copied back*, on every way out.
   A context that a thread is inside of cannot be entered by a task, so tokens
   (`contextvars.Token`) do not cross.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import logging
import os
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, Generic, ParamSpec, TypeVar

from . import homes
from .exceptions import ClientDisconnected
from .homes import Home, LoopClosed, home_here

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("aiopyramid")

_call: ContextVar[ThreadCall[Any] | None] = ContextVar("thread_call", default=None)
_pool_waits: ContextVar[bool] = ContextVar("pool_waits", default=False)


# How often a thread looks whether somebody else's loop is closed, in seconds.
LOOK = 0.5

INTERRUPTIONS = (
    ClientDisconnected,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)
"""What plain code raises that was interrupted."""


# Exceptions that are being handled


def call_handling(exc: BaseException, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call plain code as in the ``except`` block of an exception (`sys.exc_info`)."""
    traceback, context = exc.__traceback__, exc.__context__
    try:
        raise exc
    except BaseException:
        exc.__traceback__, exc.__context__ = traceback, context
        return func(*args, **kwargs)


async def await_handling(exc: BaseException, awaitable: Awaitable[T]) -> T:
    """Await as in the ``except`` block of an exception (`sys.exc_info`)."""
    traceback, context = exc.__traceback__, exc.__context__
    try:
        raise exc
    except BaseException:
        exc.__traceback__, exc.__context__ = traceback, context
        return await awaitable


# From plain code to a coroutine


class Wait(Generic[T]):
    """A thread that waits for an awaitable, and works for it meanwhile."""

    __slots__ = (
        "awaitable",
        "begun",
        "call",
        "context",
        "done",
        "exception",
        "home",
        "how",
        "inbox",
        "passed_on",
        "result",
        "task",
    )

    def __init__(
        self,
        home: Home,
        awaitable: Awaitable[T],
        how: Callable[[Awaitable[T]], Awaitable[T]],
        call: ThreadCall[Any] | None,
    ) -> None:
        self.home = home
        self.awaitable = awaitable
        self.how = how
        self.call = call
        self.context = copy_context()
        self.inbox: queue.SimpleQueue[ThreadCall[Any] | None] = queue.SimpleQueue()
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.passed_on = False  # its place, to another call
        self.done = False
        self.result: T | None = None
        self.exception: BaseException | None = None

    # On the loop.

    def start(self) -> None:
        """Begin to await in a task, unless the thread is to be interrupted."""
        call = self.call
        if call is not None:
            if not self.passed_on:
                call.leave()
            if call.interrupted:
                call.interrupted = False
                self.exception = asyncio.CancelledError()
                close(self.awaitable)
                self.finish()
                return
            call.wait = self
        self.task = self.home.loop.create_task(self._run(), context=self.context)

    async def _run(self) -> None:
        self.begun = True
        try:
            self.result = await self.how(self.awaitable)
        except BaseException as exc:
            # Also what would end the loop: it ends the plain code.
            self.exception = exc
        self._ended()

    def _cancelled(self, task: asyncio.Task[None]) -> None:
        if not self.begun:
            self.exception = asyncio.CancelledError()
            close(self.awaitable)
            self._ended()

    def _ended(self) -> None:
        self.task = None  # whose context knows this object
        if self.call is not None:
            self.call.wait = None
        self.finish()

    def finish(self) -> None:
        """Let the thread go on."""
        self.done = True
        if self.call is None:
            self.inbox.put(None)
        else:
            self.call.go_on(self.inbox)

    def cancel(self) -> bool:
        """Cancel what the thread waits for. Return False if it has ended already."""
        if self.task is None:
            return False
        if not self.begun:
            self.task.add_done_callback(self._cancelled, context=self.home.context)
        return self.task.cancel()

    # In the thread.

    def outcome(self) -> T:
        """
        Run the calls that coroutines hand to this thread, until the awaitable has a result.

        Raises:
            LoopClosed: If the loop is closed before.
            BaseException: What the awaitable raises; or what a signal raises here, when what
                it has cancelled has ended. For a second signal, nothing is waited for.
        """
        try:
            self._work()
        except LoopClosed:
            raise
        except BaseException:  # such as KeyboardInterrupt
            with contextlib.suppress(LoopClosed):  # then there is nothing to wait for
                self.home.call(self.cancel)
                if not self.done:
                    self._work()
            raise
        take_over(self.context)
        del self.context  # which knows this object
        if self.exception is None:
            return self.result  # type: ignore[return-value]
        try:
            if self.call is not None and isinstance(self.exception, asyncio.CancelledError):
                error = self.call.interruption(self.exception)
                if error is not self.exception:
                    raise error from self.exception
            raise self.exception
        finally:
            del self.exception  # whose traceback knows this frame

    def _work(self) -> None:
        # Somebody else's loop may be closed while this waits, and say nothing.
        timeout = None if self.home is homes.process_home else LOOK
        while True:
            try:
                work = self.inbox.get(timeout=timeout)
            except queue.Empty:
                if self.home.loop.is_closed():
                    raise LoopClosed from None
                continue
            if work is None:
                return
            work.run()


def wait_in_thread(
    home: Home, awaitable: Awaitable[T], how: Callable[[Awaitable[T]], Awaitable[T]]
) -> T:
    """
    Let the loop await for this thread, and block it until the result is there.

    Args:
        home: The loop.
        awaitable: What to await.
        how: Makes of it what is really awaited, on the loop.

    Raises:
        LoopClosed: If the loop is closed.
        BaseException: What the awaitable raises.
    """
    call = call_here()
    wait = Wait(home, awaitable, how, call)
    if call is not None:
        call.prepare(wait)
        wait.passed_on = call.pass_on()
    try:
        home.call(wait.start)
        return wait.outcome()
    except LoopClosed:
        if not wait.begun:
            close(awaitable)
        raise


def run_while_waiting(
    home: Home, awaitable: Awaitable[T], how: Callable[[Awaitable[T]], Awaitable[T]]
) -> T:
    """Run a loop in this thread until an awaitable has a result; see `Home.can_be_run`."""
    contexts: list[contextvars.Context] = []
    home.lent = True
    try:
        return home.loop.run_until_complete(keep_context(how(awaitable), contexts))
    finally:
        home.lent = False
        for context in contexts:
            take_over(context)


async def keep_context(awaitable: Awaitable[T], contexts: list[contextvars.Context]) -> T:
    """Await in a task of its own, and leave the task's context for :func:`take_over`."""
    try:
        return await awaitable
    finally:
        contexts.append(copy_context())


def call_here() -> ThreadCall[Any] | None:
    """Return the call that runs in this thread, if one does."""
    call = _call.get()
    # Other threads and the loop may have copies of that call's context.
    return call if call is not None and call.ident == threading.get_ident() else None


def _forget_call() -> None:
    _call.set(None)


if hasattr(os, "register_at_fork"):
    # The loop that such a call is for stays in the process that was forked.
    os.register_at_fork(after_in_child=_forget_call)


def close(awaitable: Awaitable[Any]) -> None:
    """Close a coroutine that is not going to be awaited, or Python warns of it."""
    if isinstance(awaitable, Coroutine | Generator):
        awaitable.close()


# From a coroutine to plain code


class ThreadCall(Generic[T]):
    """
    Plain code that runs in a thread, in a copy of its caller's context.

    Args:
        func: The plain code.
        home: The loop that asks for it; ``None`` if this thread does.
    """

    home: Home

    def __init__(self, func: Callable[[], T], home: Home | None) -> None:
        self.func = func
        if home is not None:
            self.home = home
        self.context = copy_context()
        self.context.run(_call.set, self)
        self.ident = 0
        self.wait: Wait[Any] | None = None  # while the thread waits
        self.interrupted = False  # the next wait raises
        self._ticket = threading.Lock()

    # On the loop.

    def begin(self) -> bool:
        """Return True to the first caller: the thread, or the coroutine that cancels the call."""
        return self._ticket.acquire(blocking=False)

    def interrupt(self) -> None:
        """Raise an exception in the plain code where it waits, now or next."""
        if self.wait is None or not self.wait.cancel():
            self.interrupted = True

    def leave(self) -> None:
        """Called when the thread begins to wait."""

    def go_on(self, inbox: queue.SimpleQueue[Any]) -> None:
        """Let the thread go on, which waits at its inbox."""
        inbox.put(None)

    def settle(self) -> None:
        """Copy the context variables that the plain code has set, after it has ended."""
        take_over(self.context)
        del self.context  # which knows this object

    async def end(self, ended: asyncio.Future[Any]) -> None:
        """Interrupt the plain code, and wait until it has ended or the loop gives up."""
        self.interrupt()
        while not ended.done() and not self.home.given_up.done():
            try:
                await _wait_for_one(ended, self.home.given_up)
            except asyncio.CancelledError:
                self.interrupt()

    # In the thread.

    def pass_on(self) -> bool:
        """Called before the thread waits: return True if another call goes on in its place."""
        return False

    def prepare(self, wait: Wait[Any]) -> None:
        """Called before the thread waits: set context variables for the coroutine."""
        wait.context.run(_pool_waits.set, True)

    def interruption(self, exc: asyncio.CancelledError) -> BaseException:
        """Return what the plain code gets when what it waits for was cancelled."""
        return exc

    def run(self) -> Any:
        """Run the plain code in this thread."""
        self.ident = threading.get_ident()
        try:
            return self.context.run(self.func)
        except StopIteration as exc:
            # As for coroutines (PEP 479): a future cannot carry it.
            raise RuntimeError(f"{self.func!r} raised StopIteration") from exc
        finally:
            self.ident = 0  # the system gives it to another thread one day


async def run_in_executor(
    executor: Executor | None, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    Run plain code in a thread of a pool, where it can wait for coroutines.

    The thread works in a copy of the caller's context; context variables that
    it sets are set for the caller when it has finished. Cancelling the caller
    raises `asyncio.CancelledError` in the thread where it waits for a
    coroutine, now or next; the caller goes on when the thread has finished, so
    that the two never run side by side. The caller stays cancelled even if the
    thread catches that exception: what the thread returns is dropped then, and
    an exception that it raises is logged.

    Args:
        executor: The threads to use; ``None`` for the loop's default executor.
        func: A plain function.
        args: Positional arguments for ``func``.
        kwargs: Keyword arguments for ``func``.

    Returns:
        What ``func`` returns.

    Raises:
        BaseException: What ``func`` raises.
    """
    call = ThreadCall(bound(func, *args, **kwargs), home_here())
    # A thread of the executor waits for this call: with all of them waiting for
    # one of them, nothing would go on. So the call gets a thread of its own.
    own = ThreadPoolExecutor(1, "aiopyramid-nested") if _pool_waits.get() else None
    call.context.run(_pool_waits.set, False)
    future: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(
        own if executor is None else executor, lambda: call.run() if call.begin() else None
    )
    try:
        result: Any = await asyncio.shield(future)
    except asyncio.CancelledError:
        if call.begin():
            future.cancel()
        await call.end(future)
        log_dropped(future)
        raise
    finally:
        del future  # an exception in it knows this frame
        call.settle()
        if own is not None:
            own.shutdown(wait=False)
    return result  # type: ignore[no-any-return]


async def run_callback(func: Callable[P, T], grace: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run plain code in a thread for callbacks, and run it even if the caller is cancelled.

    Like `run_in_executor`, except for a caller that is cancelled before a thread was
    free: the plain code is run all the same, and interrupted some time after it began.

    Args:
        func: A plain function.
        grace: That time, in seconds.
        args: Positional arguments for ``func``.
        kwargs: Keyword arguments for ``func``.

    Returns:
        What ``func`` returns.

    Raises:
        BaseException: What ``func`` raises.
    """
    home = home_here()
    call = ThreadCall(bound(func, *args, **kwargs), home)
    begun: asyncio.Future[None] = home.loop.create_future()

    def run() -> Any:
        if not call.begin():  # the caller was cancelled, and waits for this
            home.call(begun.set_result, None)
        return call.run()

    future: asyncio.Future[Any] = home.loop.run_in_executor(home.callbacks, run)
    try:
        result: Any = await asyncio.shield(future)
    except asyncio.CancelledError:
        if call.begin():
            while not (begun.done() or future.done() or home.given_up.done()):
                with contextlib.suppress(asyncio.CancelledError):
                    await _wait_for_one(begun, future, home.given_up)
            with contextlib.suppress(asyncio.CancelledError):
                await _wait_for_one(future, home.given_up, timeout=grace)
        await call.end(future)
        log_dropped(future)
        raise
    finally:
        del future  # an exception in it knows this frame
        call.settle()
    return result  # type: ignore[no-any-return]


async def _wait_for_one(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def log_dropped(future: asyncio.Future[Any]) -> None:
    """Log the exception of plain code whose caller was cancelled: nobody else will see it."""
    if future.done() and not future.cancelled():
        exception = future.exception()
        if exception is not None and not isinstance(exception, INTERRUPTIONS):
            log_late(exception)


def log_late(exception: BaseException) -> None:
    """Log an exception that plain code has raised after it was cancelled."""
    logger.error("Plain code failed after it was cancelled", exc_info=exception)


def bound(func: Callable[..., T], *args: Any, **kwargs: Any) -> Callable[..., T]:
    """Bind arguments, and the exception that the caller is handling, if there is one."""
    exc = sys.exception()
    if exc is None:
        return functools.partial(func, *args, **kwargs)
    return functools.partial(call_handling, exc, func, *args, **kwargs)


OWN: set[ContextVar[Any]] = {_call, _pool_waits}
"""Variables that describe the code they were set for, and are never copied back."""


def take_over(context: contextvars.Context) -> None:
    """Set the variables of the current context that were changed in a copy of it."""
    for variable, value in context.items():
        if variable not in OWN and variable.get(context) is not value:
            variable.set(value)
