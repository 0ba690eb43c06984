"""
Pyramid's thread-locals, made context-local.

Pyramid keeps the current request and registry on a stack in a
`threading.local`. Requests that share a thread, as they do on an event loop,
would see each other's. Here the stack lives in a context variable, so that it
follows each request through greenlets, tasks and executor threads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.threadlocal import ThreadLocalManager, manager

# Immutable, because a task copies its creator's context but not the values in it.
_stack: ContextVar[tuple[dict[str, Any], ...] | None] = ContextVar("threadlocals", default=None)


class ContextLocalManager(ThreadLocalManager):  # type: ignore[misc]
    """Keeps Pyramid's stack in a context variable instead of a thread-local."""

    default: Callable[[], dict[str, Any]]

    @property
    def stack(self) -> list[dict[str, Any]]:
        """A copy of the current context's stack, oldest entry first."""
        return list(self._entries())

    @stack.setter
    def stack(self, entries: list[dict[str, Any]]) -> None:
        # Only `threading.local` does this, for each thread that comes along.
        self.__dict__["stack"] = entries

    def _entries(self) -> tuple[dict[str, Any], ...]:
        entries = _stack.get()
        # A context that has not pushed yet sees what its thread pushed before
        # this class was installed.
        return tuple(self.__dict__["stack"]) if entries is None else entries

    def push(self, info: dict[str, Any]) -> None:
        _stack.set((*self._entries(), info))

    set = push

    def pop(self) -> dict[str, Any] | None:
        entries = self._entries()
        _stack.set(entries[:-1])
        return entries[-1] if entries else None

    def get(self) -> dict[str, Any]:
        entries = self._entries()
        return entries[-1] if entries else self.default()

    def clear(self) -> None:
        _stack.set(())


def install() -> None:
    """
    Make Pyramid's thread-locals context-local, for the whole process.

    Changes the class of Pyramid's manager object, because many modules hold
    that object by name. Installing twice does nothing.

    Raises:
        pyramid.exceptions.ConfigurationError: In a process that gevent has patched.
    """
    try:
        manager.__class__ = ContextLocalManager
    except TypeError as exc:
        # gevent's thread-locals are of a class of its own.
        raise ConfigurationError(
            "aiopyramid runs asyncio's event loop, which cannot be where gevent has patched "
            "Python's threads; use gunicorn's gthread or aiopyramid's own worker instead"
        ) from exc


def uninstall() -> None:
    """Undo :func:`install`; this thread keeps the current context's stack."""
    if isinstance(manager, ContextLocalManager):
        entries = manager.stack
        manager.__class__ = ThreadLocalManager
        manager.stack = entries
        _stack.set(None)
