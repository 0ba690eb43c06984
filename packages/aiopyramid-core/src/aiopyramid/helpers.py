"""The bridge's verbs: run plain code so that it can wait, and make it wait."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, overload

from . import bridge, request_threads, threads
from .bridge import spawn_greenlet

__all__ = [
    "is_coroutine_function",
    "is_generator",
    "spawn_greenlet",
    "spawn_greenlet_on_scope_error",
    "synchronize",
    "use_executor",
    "use_request_thread",
]

P = ParamSpec("P")
T = TypeVar("T")


def is_generator(func: object) -> bool:
    """
    Tell whether an object is what ``yield from`` can wait for, or makes that.

    Args:
        func: Any object.

    Returns:
        True for a generator function, a generator or a future.
    """
    return (
        inspect.isgeneratorfunction(func)
        or inspect.isgenerator(func)
        or isinstance(func, asyncio.Future)
    )


def is_coroutine_function(func: object) -> bool:
    """
    Tell whether calling an object gives something to await.

    Args:
        func: Any object.

    Returns:
        True for coroutine and generator functions, for instances whose ``__call__`` is one, and for
        these behind `functools.partial` or a decorator that uses `functools.wraps`. A synchronized
        coroutine does not count: it waits by itself.
    """
    return _coroutine_function_in(func) is not None


def as_coroutine_function(func: Callable[P, Any]) -> Callable[P, Any]:
    """
    Let a generator function ``yield from`` coroutines, and be awaited.

    Marks the generator function itself with `types.coroutine`, where there is
    one inside ``func``, and returns ``func``.
    """
    inner = _coroutine_function_in(func)
    if inspect.isgeneratorfunction(inner):
        types.coroutine(inner)
    return func


def _coroutine_function_in(func: Any) -> Any:
    while func is not None:
        if isinstance(func, functools.partial):
            func = func.func
        elif inspect.iscoroutinefunction(func) or inspect.isgeneratorfunction(func):
            return getattr(func, "__func__", func)
        elif getattr(func, "__aiopyramid_synchronized__", False):
            return None
        elif hasattr(func, "__wrapped__"):
            func = func.__wrapped__
        elif inspect.isroutine(func) or inspect.isclass(func):
            return None
        else:
            func = getattr(type(func), "__call__", None)  # noqa: B004 - the function is needed
    return None


@overload
def synchronize(func: Callable[P, Awaitable[T]], /, *, strict: bool = True) -> Callable[P, T]: ...
@overload
def synchronize(
    *, strict: bool = True
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, T]]: ...
def synchronize(func: Any = None, /, *, strict: bool = True) -> Any:
    """
    Turn a coroutine function into a plain function that waits for it.

    The event loop goes on while the plain function waits. In a worker thread,
    the coroutine runs on the loop and only that thread blocks.

    Args:
        func: A coroutine function, or a generator function to run as one.
        strict: With ``False``, any callable that returns an awaitable is
            accepted, and where waiting is impossible the result is the awaitable
            instead of a `ScopeError`.

    Returns:
        A plain function; without ``func``, a decorator.

    Raises:
        ScopeError: When called by a coroutine: await ``func`` there instead.
        pyramid.exceptions.ConfigurationError: If ``strict`` and ``func`` is not
            a coroutine function.
    """
    if func is None:
        return functools.partial(synchronize, strict=strict)
    if is_coroutine_function(func):
        as_coroutine_function(func)
    elif strict:
        from pyramid.exceptions import ConfigurationError  # the bridge needs no Pyramid

        raise ConfigurationError(f"cannot synchronize {func!r}: it is not a coroutine function")

    @functools.wraps(func)
    def synchronized(*args: Any, **kwargs: Any) -> Any:
        if bridge.can_wait():
            return bridge.await_(func(*args, **kwargs))
        if strict:
            raise bridge.scope_error(getattr(func, "__qualname__", repr(func)))
        return func(*args, **kwargs)

    synchronized.__aiopyramid_synchronized__ = True  # type: ignore[attr-defined]
    return synchronized


def spawn_greenlet_on_scope_error(func: Callable[P, T]) -> Callable[P, T | Coroutine[Any, Any, T]]:
    """
    Let one function serve plain code and coroutines.

    Args:
        func: A plain function that may wait for synchronized coroutines.

    Returns:
        A function that gives plain code the result, and a coroutine something
        to await for it.
    """

    @functools.wraps(func)
    def result_or_coroutine(*args: P.args, **kwargs: P.kwargs) -> T | Coroutine[Any, Any, T]:
        if bridge.can_wait() or bridge.in_worker_thread():
            return func(*args, **kwargs)
        return spawn_greenlet(func, *args, **kwargs)

    return result_or_coroutine


@overload
def use_executor(
    func: Callable[P, T], /, *, executor: Executor | None = None
) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def use_executor(
    *, executor: Executor | None = None
) -> Callable[[Callable[P, T]], Callable[P, Coroutine[Any, Any, T]]]: ...
def use_executor(func: Any = None, /, *, executor: Executor | None = None) -> Any:
    """
    Turn a plain function into a coroutine function that runs it in a thread.

    The thread sees the caller's context variables, and Pyramid's thread-locals
    with them, and may call synchronized coroutines.

    Args:
        func: A plain function, which may block.
        executor: The threads to use; by default the event loop's own.

    Returns:
        A coroutine function; without ``func``, a decorator.
    """
    if func is None:
        return functools.partial(use_executor, executor=executor)

    @functools.wraps(func)
    async def in_executor(*args: Any, **kwargs: Any) -> Any:
        return await threads.run_in_executor(executor, func, *args, **kwargs)

    return in_executor


@overload
def use_request_thread(func: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def use_request_thread() -> Callable[[Callable[P, T]], Callable[P, Coroutine[Any, Any, T]]]: ...
def use_request_thread(func: Any = None, /) -> Any:
    """
    Turn a plain function into a coroutine function that runs it in its request's own thread.

    That thread waits while a coroutine view, policy or synchronized function
    runs. Its thread-locals are the request's: a scoped database session, the
    transaction of ``pyramid_tm`` as installed. Calls of one request run one at
    a time. The function sees the caller's context variables and may call
    synchronized coroutines.

    Args:
        func: A plain function, which may block.

    Returns:
        A coroutine function, which raises `ScopeError` where no request's
        thread waits: in WebSocket views, background tasks and loop requests.
        Without ``func``, a decorator.
    """
    if func is None:
        return use_request_thread

    @functools.wraps(func)
    async def in_request_thread(*args: Any, **kwargs: Any) -> Any:
        return await request_threads.run_in_request_thread(func, *args, **kwargs)

    return in_request_thread
