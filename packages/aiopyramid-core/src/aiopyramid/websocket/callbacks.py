"""Callbacks of views, whatever kind of function they are."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ..helpers import as_coroutine_function, is_coroutine_function, use_executor


def awaitable(callback: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """
    Make a callback one to await.

    Coroutine and generator functions are returned as they are; plain functions
    will run in a worker thread, as plain views do.
    """
    return callback if is_coroutine_function(callback) else use_executor(callback)


def mark_generators(cls: type) -> None:
    """Let all generator methods of a class ``yield from`` coroutines."""
    for base in cls.__mro__:
        for value in vars(base).values():
            if inspect.isgeneratorfunction(value):
                as_coroutine_function(value)
