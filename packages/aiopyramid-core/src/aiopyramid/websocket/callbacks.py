"""Calls the callbacks of views: coroutines, generators and plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .. import bridge
from ..app_iter import run
from ..helpers import as_coroutine_function, is_coroutine_function
from ..threads import run_callback


async def call_on_loop(callback: Callable[..., Any], grace: float, *args: Any) -> Any:
    """
    Call a callback of an open connection, once and whatever happens.

    Coroutine and generator functions are awaited; plain functions run in a thread. A
    callback that has to wait for a free thread is not skipped when the view is
    cancelled meanwhile.

    Args:
        callback: The callback.
        grace: Time that such a callback has, in seconds.
        args: Its arguments.
    """
    if is_coroutine_function(callback):
        return await callback(*args)
    return await run_callback(callback, grace, *args)


def call_in_request(callback: Callable[..., Any], *args: Any) -> Any:
    """
    Call a callback of a request, from plain code.

    Coroutine and generator functions are waited for; plain functions run in the
    request's thread, as plain views do.
    """
    if is_coroutine_function(callback):
        return bridge.run_coroutine(callback(*args))
    return run(callback, *args)


def mark_generators(cls: type) -> None:
    """Let all generator methods of a class ``yield from`` coroutines."""
    for base in cls.__mro__:
        for value in vars(base).values():
            if inspect.isgeneratorfunction(value):
                as_coroutine_function(value)
