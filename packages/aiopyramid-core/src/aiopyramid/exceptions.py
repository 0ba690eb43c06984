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
    """Return True if the current task is being cancelled, not one that it waited for."""
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling() > 0
