"""Tells which requests take long, and where they are, while they run."""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import ref

import greenlet

from ..homes import Home
from .stacks import Entry, Stacks, format_stack
from .watch import Watch, logger

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Policy = Callable[["WSGIEnvironment", Any], Any]

# The part of the limit that lies between two looks at least: many requests may run.
REST = 0.05


class RunningRequest:
    """A request, and where its code runs."""

    __slots__ = ("begin", "greenlet", "ident", "method", "path", "reported", "task")

    def __init__(self, environ: WSGIEnvironment) -> None:
        get = environ.get
        self.method: str = get("REQUEST_METHOD", "")
        self.path: str = get("SCRIPT_NAME", "") + get("PATH_INFO", "")
        self.begin = time.monotonic()
        self.reported = False
        self.ident = threading.get_ident()
        # Threads of requests do without greenlets (see `aiopyramid.threads`). On a loop, a
        # reference from its own frames would keep one alive that is forgotten.
        self.task: ref[asyncio.Task[Any]] | None = None
        self.greenlet: ref[greenlet.greenlet] | None = None
        if _get_running_loop() is not None:
            task = asyncio.current_task()
            if task is not None:
                self.task = ref(task)
            else:
                self.greenlet = ref(greenlet.getcurrent())

    def __str__(self) -> str:
        # Clients choose both.
        path = quote(self.path, encoding="latin-1", errors="replace")
        return f"{quote(self.method)} {path}"

    def stack(self, stacks: Stacks) -> Iterator[Entry]:
        """Find the request's stack."""
        task = self.task() if self.task is not None else None
        child = self.greenlet() if self.greenlet is not None else None
        if task is not None:
            yield from stacks.of_task(task)
        elif child is not None:
            yield from stacks.of_greenlet(child)
        else:
            yield from stacks.of_thread(self.ident)


class Running:
    """
    The requests of an application that run.

    Args:
        limit: How long one may take, in seconds.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.requests: set[RunningRequest] = set()

    def policy(self, policy: Policy) -> Policy:
        """Wrap an application's execution policy (`pyramid.interfaces.IExecutionPolicy`)."""
        requests = self.requests

        def watched(environ: WSGIEnvironment, router: Any) -> Any:
            request = RunningRequest(environ)
            requests.add(request)
            try:
                return policy(environ, router)
            finally:
                requests.discard(request)

        return watched


@contextmanager
def watching(home: Home, running: Running) -> Iterator[None]:
    """
    Watch the requests of an application.

    Args:
        home: The loop that this thread runs, and requests work with.
        running: The requests.
    """
    running.requests.clear()  # in a process that was forked, those of its parent
    watch = RequestWatch(Stacks(home.loop, threading.get_ident()), running)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class RequestWatch(Watch):
    """
    A thread that looks at requests.

    Args:
        stacks: Finds their stacks.
        running: The requests.
    """

    def __init__(self, stacks: Stacks, running: Running) -> None:
        super().__init__("aiopyramid-debug-requests")
        self.stacks = stacks
        self.running = running

    def look(self) -> float:
        """Look which requests take longer than they may."""
        limit, now = self.running.limit, time.monotonic()
        until = now + limit  # no request that is yet to come is late before
        for request in self.running.requests.copy():
            if request.reported:
                continue
            if now - request.begin >= limit:
                request.reported = True
                self._report(request, now - request.begin)
            else:
                until = min(until, request.begin + limit)
        return max(until - time.monotonic(), limit * REST)

    def _report(self, request: RunningRequest, seconds: float) -> None:
        stack = format_stack(request.stack(self.stacks))
        if request in self.running.requests:  # or it has ended just now
            logger.warning("%s has run for %.1f s:\n%s", request, seconds, stack)
