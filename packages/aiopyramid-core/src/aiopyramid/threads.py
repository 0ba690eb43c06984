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
   loop's queue (:class:`Home`), one wake-up for all that are ready, so nothing
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
import queue
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakSet

from .exceptions import ClientDisconnected

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("aiopyramid")

thread_home: Callable[[], Home] | None = None
"""Returns the loop for threads that were not started here. A server whose requests
run in its own threads sets this."""

_homes: WeakSet[Home] = WeakSet()
_home: ContextVar[Home] = ContextVar("home")
_call: ContextVar[ThreadCall[Any] | None] = ContextVar("thread_call", default=None)
_pool_waits: ContextVar[bool] = ContextVar("pool_waits", default=False)


INTERRUPTIONS = (
    ClientDisconnected,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)
"""What plain code raises that was interrupted."""


class LoopClosed(RuntimeError):
    """The loop that a thread works for is closed."""


class Home:
    """An event loop that threads can hand functions to."""

    __slots__ = ("__weakref__", "callbacks", "context", "given_up", "loop", "ready", "woken")

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
        _homes.add(self)

    def give_up(self) -> None:
        """Stop waiting for interrupted threads, because the loop is about to end."""
        if not self.given_up.done():
            self.given_up.set_result(None)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """
        Let the loop call a function soon. May be called in any thread.

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
    Find the loop that this thread works for.

    It is known from the context, else from :data:`thread_home`, else it is the
    one running loop in use here.
    """
    home = _home.get(None)
    if home is not None and home.loop.is_running():
        return home
    if thread_home is not None:
        return thread_home()
    running = [home for home in tuple(_homes) if home.loop.is_running()]
    return running[0] if len(running) == 1 else None


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
        """Run the calls that coroutines hand to this thread, until the awaitable has a result."""
        try:
            while (work := self.inbox.get()) is not None:
                work.run()
        except BaseException:  # such as KeyboardInterrupt
            self.home.call(self.cancel)
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
    home.call(wait.start)
    return wait.outcome()


def call_here() -> ThreadCall[Any] | None:
    """Return the call that runs in this thread, if one does."""
    call = _call.get()
    # Other threads and the loop may have copies of that call's context.
    return call if call is not None and call.ident == threading.get_ident() else None


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
        home: The loop that asks for it.
    """

    def __init__(self, func: Callable[[], T], home: Home) -> None:
        self.func = func
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
