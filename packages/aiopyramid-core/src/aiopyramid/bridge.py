"""
Plain code that waits for coroutines, without blocking the event loop.

The trick
---------

A coroutine can only be suspended by ``await``, and only in functions marked
``async``. A greenlet can be suspended anywhere: it has a C stack of its own,
which greenlet swaps out and in. So plain code runs in a greenlet, and when it
must wait, the whole greenlet is put aside until the result is there::

    event loop              driver (a coroutine)           child greenlet
    ----------              --------------------           --------------
    steps the task -------> spawn_greenlet(func)
                            child.switch() --------------> func()
                                                           await_(awaitable)
                            awaitable <------------------- driver.switch(awaitable)
    runs other tasks <----- await awaitable
    the result is there --> value
                            child.switch(value) ---------> value = await_(...)
                            result <---------------------- return
    task is done <--------- return result

Three rules make this safe.

1. *The driver awaits in the caller's own task.* No task is made, so
   ``asyncio.current_task()``, ``asyncio.timeout()`` and cancellation are the
   caller's. Whatever the awaitable raises, ``CancelledError`` included, is
   thrown into the child where it waits, so its ``finally`` blocks run before
   the driver goes on.
2. *The child shares the driver's context*, the same object and not a copy:
   a context variable that one side sets is seen by the other.
3. *Only a greenlet made here may switch to a driver*, and it switches to the
   driver that resumed it last. Its ``parent`` alone proves nothing, because
   other libraries make greenlets as well.

A coroutine may also be stepped inside the child (:func:`run_coroutine`): plain
code which that coroutine calls is then still in a greenlet that can wait. This
is how a coroutine view can read ``request.body``. ``Child.in_coroutine`` tells
such a moment from really plain code, and :func:`can_wait` goes by it.

Where plain code can wait
-------------------------

:func:`await_` decides, in this order:

a child greenlet of this module
    switches the awaitable to its driver.
a greenlet whose parent runs an event loop that is not ours
    has no driver, so the awaitable becomes a task, the greenlet switches to
    the loop, and the task's callback switches back.
a thread without a running event loop
    hands the awaitable to the loop that the thread works for, and blocks. That
    loop is known from the context (:func:`run_in_executor` puts it there),
    else from :data:`thread_loop`, else it is the one running loop in use here.
anywhere else
    is the event loop itself: waiting would stop it. The coroutine is closed,
    so that no "never awaited" warning follows, and `ScopeError` is raised.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import greenlet

from .exceptions import ScopeError

__all__ = [
    "await_",
    "can_wait",
    "in_worker_thread",
    "run_coroutine",
    "run_in_executor",
    "scope_error",
    "spawn_greenlet",
]

P = ParamSpec("P")
T = TypeVar("T")

ON_THE_LOOP = """\
{what} cannot be waited for here: this code was called by a coroutine and runs \
on the event loop itself, which would stop.
Await the coroutine directly; or, if plain code must wait for it, \
call that plain code with `await aiopyramid.helpers.spawn_greenlet(function, ...)`."""

NO_LOOP = """\
{what} cannot be waited for here: thread {thread!r} works for no running event loop.
Start the thread's work with aiopyramid.helpers.use_executor, \
or run this code on an event loop \
with `await aiopyramid.helpers.spawn_greenlet(function, ...)`."""

thread_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
"""Gives the loop for threads that were not started by :func:`run_in_executor`;
set by a server whose requests run in threads."""

_loop: contextvars.ContextVar[asyncio.AbstractEventLoop] = contextvars.ContextVar("loop")
_thread_call: contextvars.ContextVar[ThreadCall | None] = contextvars.ContextVar(
    "thread_call", default=None
)
_thread_waits: contextvars.ContextVar[bool] = contextvars.ContextVar("thread_waits", default=False)
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


OWN = {_thread_call, _thread_waits}


class Child(greenlet.greenlet):
    """A greenlet that can wait: it knows the driver to switch awaitables to."""

    driver: greenlet.greenlet | None
    in_coroutine: bool

    def __init__(self, func: Callable[..., Any], driver: greenlet.greenlet) -> None:
        super().__init__(func, driver)
        self.gr_context = driver.gr_context
        self.driver = driver
        self.in_coroutine = False


def _remember_loop() -> None:
    loop = asyncio.get_running_loop()
    if _loop.get(None) is not loop:
        _loop.set(loop)
        _loops.add(loop)


async def spawn_greenlet(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run plain code in a greenlet, where it can wait for coroutines.

    Args:
        func: A plain function. Synchronized coroutines may be called at any
            depth below it.
        args: Positional arguments for ``func``.
        kwargs: Keyword arguments for ``func``.

    Returns:
        What ``func`` returns.

    Raises:
        BaseException: What ``func`` raises. Cancelling the caller raises
            `asyncio.CancelledError` inside ``func``, where it waits.
    """
    _remember_loop()
    child = Child(func, greenlet.getcurrent())
    try:
        result = child.switch(*args, **kwargs)
        while not child.dead:
            # The child waits: `result` is what it waits for.
            try:
                value = await result
            except GeneratorExit:
                # This coroutine is being closed and may not await any more,
                # and neither may the child, which `_end` ends.
                raise
            except BaseException as exc:
                _adopt(child)
                result = child.throw(exc)
            else:
                _adopt(child)
                result = child.switch(value)
        return result  # type: ignore[no-any-return]
    finally:
        _end(child)


def _adopt(child: Child) -> None:
    # Usually the same greenlet as before. It differs when a coroutine that
    # began in one child is continued in another.
    current = greenlet.getcurrent()
    if child.driver is not current:
        child.driver = child.parent = current


def _end(child: Child) -> None:
    while not child.dead:
        child.driver = None
        try:
            child.parent = greenlet.getcurrent()
            child.throw(GeneratorExit)
        except GeneratorExit:
            pass
        except (greenlet.error, ValueError):
            # Collected by another thread, which cannot switch to it; greenlet
            # itself ends it in its own thread.
            break


def await_(awaitable: Awaitable[T]) -> T:
    """
    Wait for an awaitable in plain code.

    Args:
        awaitable: A coroutine, future or other awaitable.

    Returns:
        Its result.

    Raises:
        ScopeError: If waiting is impossible here; a coroutine is then closed.
    """
    current = greenlet.getcurrent()
    if isinstance(current, Child):
        driver = current.driver
        if driver is not None:
            # A reference from its own frame would keep a forgotten greenlet alive.
            del current
            return driver.switch(awaitable)  # type: ignore[no-any-return]
    elif _running_loop() is None:
        return _wait_in_thread(awaitable)
    elif _loop_is_parent_of(current):
        return _wait_for_task(current, awaitable)
    raise _refuse(awaitable)


def can_wait() -> bool:
    """Tell whether this code is plain code that can wait: not called by a coroutine."""
    current = greenlet.getcurrent()
    if isinstance(current, Child):
        return current.driver is not None and not current.in_coroutine
    if _running_loop() is None:
        return _loop_of_thread() is not None
    return _loop_is_parent_of(current)


def in_worker_thread() -> bool:
    """Tell whether this code may block: no event loop runs in this thread."""
    return _running_loop() is None


def scope_error(what: str) -> ScopeError:
    """Make the error for code that waits where it cannot."""
    message = NO_LOOP if _running_loop() is None else ON_THE_LOOP
    return ScopeError(message.format(what=what, thread=threading.current_thread().name))


def _refuse(awaitable: Awaitable[Any]) -> ScopeError:
    if isinstance(awaitable, Coroutine | Generator):
        awaitable.close()  # or Python warns that it was never awaited
    return scope_error(getattr(awaitable, "__qualname__", None) or repr(awaitable))


def run_coroutine(coroutine: Awaitable[T]) -> T:
    """
    Wait for a coroutine, and let plain code that it calls wait as well.

    Like :func:`await_`, except that the coroutine's steps run in this greenlet
    and not in its driver. A step that does not suspend costs no switch.
    """
    current = greenlet.getcurrent()
    if isinstance(current, Child) and current.driver is not None:
        del current  # as in `await_`
        return _step(coroutine)
    if not can_wait():
        raise _refuse(coroutine)
    stepped: Coroutine[Any, Any, T] = spawn_greenlet(run_coroutine, coroutine)
    return await_(stepped)


def _step(awaitable: Awaitable[T]) -> T:
    steps: Any = awaitable if hasattr(awaitable, "send") else awaitable.__await__()
    outer = _mark_in_coroutine(True)
    exception: BaseException | None = None
    while True:
        _mark_in_coroutine(True)
        try:
            future = steps.send(None) if exception is None else steps.throw(exception)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            _mark_in_coroutine(outer)
        try:
            await_(_suspend(future))
        except BaseException as exc:
            exception = exc
        else:
            exception = None


def _mark_in_coroutine(value: bool) -> bool:
    child = greenlet.getcurrent()
    assert isinstance(child, Child)
    before, child.in_coroutine = child.in_coroutine, value
    return before


@types.coroutine
def _suspend(future: Any) -> Generator[Any, None, None]:
    # What a coroutine yields to its task, passed on as it is.
    yield future


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _loop_is_parent_of(current: greenlet.greenlet) -> bool:
    parent = current.parent
    return parent is not None and parent.parent is None


def _wait_for_task(current: greenlet.greenlet, awaitable: Awaitable[T]) -> T:
    parent = current.parent
    assert parent is not None
    contexts: list[contextvars.Context] = []
    task = asyncio.ensure_future(_as_coroutine(awaitable, contexts))

    def resume(_: asyncio.Future[T]) -> None:
        current.switch()

    task.add_done_callback(resume)
    try:
        # Others may switch to this greenlet too, for reasons of their own.
        while not task.done():
            parent.switch()
    except BaseException:
        task.remove_done_callback(resume)
        task.cancel()
        raise
    for context in contexts:
        _take_over(context)
    return task.result()


class ThreadCall:
    """A call in an executor's thread, and what it waits for on the loop."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started = False
        self.interrupted = False
        self.waiting_for: concurrent.futures.Future[Any] | None = None

    def start(self) -> bool:
        """In the thread: tell whether the call is still wanted."""
        with self.lock:
            self.started = not self.interrupted
            return self.started

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """In the thread: wait for a future, unless interrupted."""
        with self.lock:
            self.waiting_for = future
            interrupted, self.interrupted = self.interrupted, False
        try:
            if interrupted:
                future.cancel()  # which may be too late
                raise concurrent.futures.CancelledError
            return future.result()
        finally:
            with self.lock:
                self.waiting_for = None

    def interrupt(self) -> None:
        """On the loop: cancel what the thread waits for, now or next."""
        with self.lock:
            # A future that is done cannot be cancelled: then the next one is.
            if self.waiting_for is None or not self.waiting_for.cancel():
                self.interrupted = True


def _wait_in_thread(awaitable: Awaitable[T]) -> T:
    loop = _loop_of_thread()
    if loop is None:
        raise _refuse(awaitable)
    contexts: list[contextvars.Context] = []
    coroutine = _as_coroutine(awaitable, contexts)
    try:
        # The task gets a copy of this thread's context.
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # the loop was closed just now
        coroutine.close()
        raise _refuse(awaitable) from None
    call = _thread_call.get()
    try:
        return future.result() if call is None else call.wait(future)
    except concurrent.futures.CancelledError:
        raise asyncio.CancelledError from None
    except BaseException:
        future.cancel()
        raise
    finally:
        for context in contexts:
            _take_over(context)


async def _as_coroutine(awaitable: Awaitable[T], contexts: list[contextvars.Context]) -> T:
    """Await in a task of its own, and leave the context for :func:`_take_over`."""
    if _thread_call.get() is not None:
        # What runs below is no part of the thread's call, and not to be interrupted.
        _thread_call.set(None)
        _thread_waits.set(True)
    try:
        return await awaitable
    finally:
        contexts.append(contextvars.copy_context())


def _loop_of_thread() -> asyncio.AbstractEventLoop | None:
    loop = _loop.get(None)
    if loop is not None and loop.is_running():
        return loop
    if thread_loop is not None:
        return thread_loop()
    running = [loop for loop in _loops if loop.is_running()]
    return running[0] if len(running) == 1 else None


async def run_in_executor(
    executor: Executor | None, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    Run plain code in a thread, where it can wait for coroutines.

    The thread works in a copy of the caller's context; context variables that
    it sets are set for the caller when it has finished. Cancelling the caller
    raises `asyncio.CancelledError` in the thread where it waits for a
    coroutine, now or next; the caller goes on when the thread has finished, so
    that the two never run side by side.

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
    _remember_loop()
    call = ThreadCall()
    context = contextvars.copy_context()
    context.run(_thread_call.set, call)
    context.run(_thread_waits.set, False)

    def in_thread() -> T | None:
        if not call.start():
            return None
        try:
            return context.run(func, *args, **kwargs)
        except StopIteration as exc:
            # As for coroutines (PEP 479): a future cannot carry it.
            raise RuntimeError(f"{func!r} raised StopIteration") from exc

    # A thread of the executor waits for this call: with all of them waiting for
    # one of them, nothing would go on. So the call gets a thread of its own.
    own = ThreadPoolExecutor(1, "aiopyramid-nested") if _thread_waits.get() else None
    future = asyncio.get_running_loop().run_in_executor(
        own if executor is None else executor, in_thread
    )
    try:
        result = await asyncio.shield(future)
    except asyncio.CancelledError:
        await _finish(call, future)
        raise
    finally:
        _take_over(context)
        if own is not None:
            own.shutdown(wait=False)
    return result  # type: ignore[return-value]


async def _finish(call: ThreadCall, future: asyncio.Future[Any]) -> None:
    call.interrupt()
    if not call.started:
        future.cancel()
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            call.interrupt()
    if not future.cancelled():
        future.exception()  # the caller was cancelled, nobody else asks for it


def _take_over(context: contextvars.Context) -> None:
    for variable, value in context.items():
        if variable not in OWN and variable.get(context) is not value:
            variable.set(value)
