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

A child that is done waits for the next function, because a new greenlet is expensive.

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
    hands the awaitable to the loop that the thread works for, and blocks: see
    :mod:`aiopyramid.threads`, and :mod:`aiopyramid.homes` for which loop that is.
anywhere else
    is the event loop itself: waiting would stop it. The coroutine is closed,
    so that no "never awaited" warning follows, and `ScopeError` is raised.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
import types
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, NoReturn, ParamSpec, TypeVar

import greenlet

from . import homes, threads
from .exceptions import ScopeError
from .homes import Home
from .request_threads import RequestCall

__all__ = [
    "await_",
    "can_wait",
    "in_worker_thread",
    "run_coroutine",
    "scope_error",
    "spawn_greenlet",
]

P = ParamSpec("P")
T = TypeVar("T")

ON_THE_LOOP = """\
{what} cannot be waited for here: this code was called by a coroutine and runs \
on the event loop itself, which would stop.
Await the coroutine directly; or, if plain code must wait for it, \
call that plain code with `await aiopyramid.helpers.spawn_greenlet(function, ...)`.
In a test that is a coroutine, call the application \
with `async with aiopyramid.testing.client(app) as c: await c.get("/path")`."""

CLOSED = """\
{what} cannot be waited for here: the coroutine that waited for this code was closed, \
so this code must end without waiting.
To let its `finally` blocks wait, cancel the task instead, and await that."""

NO_LOOP = """\
{what} cannot be waited for here: the event loop that thread {thread!r} works for \
does not run, yet or any more.
Start and end such a thread in a lifespan, `config.add_lifespan(factory)`, \
which is entered when the loop runs and left before it ends."""


class Child(greenlet.greenlet):
    """
    A greenlet that can wait: it knows the driver to switch awaitables to.

    It runs one function after another, until one raises an exception: a new greenlet costs
    several times as much as what most functions do.
    """

    driver: greenlet.greenlet | None
    in_coroutine: bool
    #: Makes the exception that plain code here gets instead of CancelledError.
    interruption: Callable[[asyncio.CancelledError], BaseException] | None
    #: Whether the function has returned, and `result` is there.
    idle: bool
    result: Any

    def __init__(self) -> None:
        super().__init__(_run_functions)

    def begin(self, driver: greenlet.greenlet) -> None:
        """Run the function that is switched here next, for this driver."""
        self.driver = self.parent = driver
        self.gr_context = driver.gr_context
        self.in_coroutine = self.idle = False
        self.interruption = None

    def take_result(self) -> Any:
        """Return what the function has returned."""
        result = self.result
        self.gr_context = self.result = None
        return result


# References from a greenlet's own frames would keep one alive that is forgotten while it waits.


def _run_functions() -> None:
    # It is begun without arguments, which greenlet would keep until it ends.
    result = None
    while (driver := _become_idle(result)) is not None:
        result = None
        func, args, kwargs = driver.switch()
        result = func(*args, **kwargs)
        del func, args, kwargs


def _become_idle(result: Any) -> greenlet.greenlet | None:
    child = greenlet.getcurrent()
    assert isinstance(child, Child)
    child.result, child.idle = result, child.driver is not None
    return child.driver  # None if it is being ended


class _Idle(threading.local):
    """The idle greenlets of a thread."""

    def __init__(self) -> None:
        self.children: list[Child] = []


# Each keeps 16 KiB for its next function.
MAX_IDLE = 64

_idle = _Idle()


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
    homes.home_here()
    children = _idle.children
    child = children.pop() if children else _new_child()
    child.begin(greenlet.getcurrent())
    try:
        result = child.switch(func, args, kwargs)
        while not (child.idle or child.dead):
            # The child waits: `result` is what it waits for.
            try:
                value = await result
            except GeneratorExit:
                # This coroutine is being closed and may not await any more,
                # and neither may the child, which `_end` ends.
                raise
            except BaseException as exc:
                _adopt(child)
                # With all three, or the traceback would lose its frames.
                result = child.throw(type(exc), exc, exc.__traceback__)
            else:
                _adopt(child)
                result = child.switch(value)
        if child.idle:  # or GreenletExit has ended it, which is a result to greenlet
            result = child.take_result()
            if len(children) < MAX_IDLE:
                children.append(child)
        return result  # type: ignore[no-any-return]
    finally:
        if not child.idle:
            _end(child)


def _new_child() -> Child:
    child = Child()
    child.begin(greenlet.getcurrent())
    child.switch()
    return child


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
    if _is_in_thread():
        return _wait_in_thread(awaitable, _handling())
    current = greenlet.getcurrent()
    if isinstance(current, Child):
        driver = current.driver
        if driver is not None:
            # A reference from its own frame would keep a forgotten greenlet alive.
            del current
            try:
                return driver.switch(_handling()(awaitable))  # type: ignore[no-any-return]
            except asyncio.CancelledError as exc:
                _raise_in_plain_code(exc)
    elif _loop_is_parent_of(current):
        return _wait_for_task(current, _handling()(awaitable))
    raise _refuse(awaitable)


def _is_in_thread() -> bool:
    # Without a look at greenlets: a thread that has used them must not end (see
    # :mod:`aiopyramid.threads`), and servers end theirs.
    return _get_running_loop() is None


def cancel_as(interruption: Callable[[asyncio.CancelledError], BaseException]) -> None:
    """
    Choose the exception that plain code in this greenlet gets when it is cancelled.

    Coroutines that it waits for get `asyncio.CancelledError` all the same.

    Args:
        interruption: Makes that exception.
    """
    child = greenlet.getcurrent()
    assert isinstance(child, Child)
    child.interruption = interruption


def _raise_in_plain_code(exc: asyncio.CancelledError) -> NoReturn:
    child = greenlet.getcurrent()
    assert isinstance(child, Child)
    if child.interruption is None or child.in_coroutine:
        raise exc
    raise child.interruption(exc) from exc


def _handling() -> Callable[[Awaitable[T]], Awaitable[T]]:
    """Let coroutines see the exception that plain code handles here (`sys.exc_info`)."""
    exc = sys.exception()
    return _as_it_is if exc is None else functools.partial(threads.await_handling, exc)


def _as_it_is(awaitable: Awaitable[T]) -> Awaitable[T]:
    return awaitable


def can_wait() -> bool:
    """Return True if this is plain code that can wait, not called by a coroutine."""
    if _is_in_thread():
        return homes.has_home()
    current = greenlet.getcurrent()
    if isinstance(current, Child):
        return current.driver is not None and not current.in_coroutine
    return _loop_is_parent_of(current)


def is_stepped() -> bool:
    """Return True if this is called by a coroutine whose steps `run_coroutine` makes here."""
    if _is_in_thread():
        return False
    current = greenlet.getcurrent()
    return isinstance(current, Child) and current.driver is not None and current.in_coroutine


def in_worker_thread() -> bool:
    """Return True if this code may block, because no event loop runs in this thread."""
    return _get_running_loop() is None


def scope_error(what: str) -> ScopeError:
    """
    Make the error for code that waits where it cannot.

    Args:
        what: The name of what it waits for.

    Returns:
        The error, whose message says what to do instead.
    """
    if _is_in_thread():
        message = homes.obstacle or NO_LOOP
    else:
        current = greenlet.getcurrent()
        is_closed = isinstance(current, Child) and current.driver is None
        message = CLOSED if is_closed else ON_THE_LOOP
    return ScopeError(message.format(what=what, thread=threading.current_thread().name))


def _refuse(awaitable: Awaitable[Any]) -> ScopeError:
    if isinstance(awaitable, Coroutine | Generator):
        awaitable.close()  # or Python warns that it was never awaited
    return scope_error(_name(awaitable))


def _name(awaitable: Awaitable[Any]) -> str:
    return getattr(awaitable, "__qualname__", None) or repr(awaitable)


def run_coroutine(coroutine: Awaitable[T]) -> T:
    """
    Wait for a coroutine, and let plain code that it calls wait as well.

    Like :func:`await_`, except that the coroutine's steps run in this greenlet
    and not in its driver. A step that does not suspend costs no switch.

    Args:
        coroutine: The coroutine.

    Returns:
        Its result.

    Raises:
        ScopeError: Where waiting is impossible.
        BaseException: What the coroutine raises.
    """
    step: Callable[[Awaitable[T]], T] = threads.bound(_step)

    def stepped(coroutine: Awaitable[T]) -> Coroutine[Any, Any, T]:
        return spawn_greenlet(step, coroutine)

    if _is_in_thread():
        return _wait_in_thread(coroutine, stepped)
    current = greenlet.getcurrent()
    if isinstance(current, Child) and current.driver is not None:
        del current  # as in `await_`
        try:
            return _step(coroutine)
        except asyncio.CancelledError as exc:
            _raise_in_plain_code(exc)
    if not can_wait():
        raise _refuse(coroutine)
    return _wait_for_task(current, stepped(coroutine))


def _step(awaitable: Awaitable[T]) -> T:
    steps: Any = awaitable if hasattr(awaitable, "send") else awaitable.__await__()
    if not hasattr(steps, "send"):  # a plain iterator, which is legal (PEP 492)
        steps = _awaiting(awaitable)
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
            _suspend_child(future)
        except BaseException as exc:
            exception = exc
        else:
            exception = None


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _suspend_child(future: Any) -> None:
    child = greenlet.getcurrent()
    assert isinstance(child, Child)
    driver = child.driver
    del child  # as in `await_`
    if driver is None:
        raise _refuse(future)
    driver.switch(_suspend(future))


def _mark_in_coroutine(value: bool) -> bool:
    child = greenlet.getcurrent()
    assert isinstance(child, Child)
    before, child.in_coroutine = child.in_coroutine, value
    return before


@types.coroutine
def _suspend(future: Any) -> Generator[Any, None, None]:
    # What a coroutine yields to its task, passed on as it is.
    yield future


def _loop_is_parent_of(current: greenlet.greenlet) -> bool:
    parent = current.parent
    return parent is not None and parent.parent is None


def _wait_for_task(current: greenlet.greenlet, awaitable: Awaitable[T]) -> T:
    parent = current.parent
    assert parent is not None
    contexts: list[contextvars.Context] = []
    task = asyncio.ensure_future(threads.keep_context(awaitable, contexts))

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
        threads.take_over(context)
    return task.result()


def _wait_in_thread(awaitable: Awaitable[T], how: Callable[[Any], Awaitable[T]]) -> T:
    wait = threads.wait_in_thread if threads.call_here() is not None else _wait_in_call
    try:
        home = homes.home_of_thread()
        if home is not None and wait is _wait_in_call and (first := homes.what_comes_first(home)):
            _wait_in_call(home, first, _as_it_is)
    except BaseException:
        threads.close(awaitable)
        raise
    if home is None:
        raise _refuse(awaitable)
    if home.can_be_run():
        return threads.run_while_waiting(home, awaitable, how)
    try:
        return wait(home, awaitable, how)
    except homes.LoopClosed:
        raise scope_error(_name(awaitable)) from None


def _wait_in_call(home: Home, awaitable: Awaitable[T], how: Callable[[Any], Awaitable[T]]) -> T:
    # So that the coroutine can use this thread, as that of a request.
    call = RequestCall(functools.partial(threads.wait_in_thread, home, awaitable, how), None)
    try:
        return call.run()  # type: ignore[no-any-return]
    finally:
        call.settle()
