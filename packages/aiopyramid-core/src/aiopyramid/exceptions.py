"""Errors of the bridge between plain code and coroutines."""

from __future__ import annotations

import asyncio


class ScopeError(Exception):
    """Plain code was asked to wait for a coroutine where waiting is impossible."""


class ClientDisconnected(ConnectionResetError):
    """
    The client has left: what its request waited for was cancelled.

    Raised in plain code, as a socket would; coroutines get `asyncio.CancelledError`.
    """


def is_cancellation(exc: BaseException) -> bool:
    """
    Tell whether the current task is being cancelled, and not one that it waited for.

    Args:
        exc: What was caught.

    Returns:
        True if it is the cancellation of the current task.
    """
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling() > 0
