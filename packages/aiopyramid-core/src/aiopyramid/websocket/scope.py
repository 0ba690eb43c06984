"""
A scope for each message of a long connection: to a message what a request is to HTTP.

The request of a WebSocket ends at the handshake, and its transaction, its database session and
its user's identity with it. `message_scope` gives a callback new ones each time: a request of its
own, made as the handshake's was, in a thread that is the callback's from its begin to its end.
So ``pyramid_tm`` begins a transaction in that thread and commits it there; a coroutine runs on
the loop while the thread waits, and `~aiopyramid.helpers.use_request_thread` runs there.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import CoroutineType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from pyramid.httpexceptions import HTTPException, HTTPNotFound
from pyramid.interfaces import IRequestFactory, IRootFactory, ITraverser, ITweens
from pyramid.path import DottedNameResolver
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from pyramid.threadlocal import RequestContext
from pyramid.traversal import DefaultRootFactory, ResourceTreeTraverser

from .. import bridge
from ..helpers import as_coroutine_function, is_coroutine_function
from ..homes import Home, home_here
from ..request_threads import PlacedCall, RequestThreads, run_in_request_thread
from ..threads import bound
from .callbacks import call_in_request
from .connection import WebsocketConnection, scope_here
from .exceptions import CloseWebsocket

P = ParamSpec("P")
T = TypeVar("T")

# How many scopes may begin to run plain code at a time; those that wait do not count.
PLACES = 16

TM_TWEEN = "pyramid_tm.tm_tween_factory"

# What middleware and add-ons keep in the environ for one request only.
OF_ONE_REQUEST = ("webob.", "bfg.", "tm.", "repoze.tm.", "retry.", "gunicorn.", "aiopyramid.")

# What the router has found out from its address.
OF_THE_ADDRESS = ("matched_route", "matchdict", "request_iface", "invoke_subrequest")

Check = Callable[[Any], Any]
Within = Callable[[Any], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]


class Decorator(Protocol):
    """Decorates a callback."""

    @overload
    def __call__(
        self, callback: Callable[P, Awaitable[T]], /
    ) -> Callable[P, CoroutineType[Any, Any, T]]: ...
    @overload
    def __call__(self, callback: Callable[P, T], /) -> Callable[P, CoroutineType[Any, Any, T]]: ...


@overload
def message_scope(
    callback: Callable[P, Awaitable[T]], /
) -> Callable[P, CoroutineType[Any, Any, T]]: ...
@overload
def message_scope(callback: Callable[P, T], /) -> Callable[P, CoroutineType[Any, Any, T]]: ...
@overload
def message_scope(*, check: Check | None = None, within: Within | None = None) -> Decorator: ...
def message_scope(
    callback: Any = None, /, *, check: Check | None = None, within: Within | None = None
) -> Any:
    """
    Give each call of a callback a scope of its own: a request, its thread, its transaction.

    Within it, ``request`` and ``context`` of the view and of ``ws`` are the scope's. The request
    has the headers and the address of the handshake, and the root factory and traversal have
    found its context anew. Its transaction is that of ``pyramid_tm``, if the application
    includes it: committed when the callback returns, aborted when it raises. A scope within one
    of the same connection is the same.

    Args:
        callback: A plain function, a coroutine function or a generator function. Its first
            argument is a view that has ``ws``, or ``ws`` itself.
        check: Called with the request when the scope begins, it may be a coroutine function. It
            refuses by an exception: `~aiopyramid.websocket.exceptions.CloseWebsocket` closes the
            connection with its code, an HTTP exception with 4000 and its status.
        within: Called with the request after that, it returns a context manager in which the
            callback runs; an asynchronous one if the callback is a coroutine.

    Returns:
        A coroutine function; without ``callback``, a decorator.
    """
    for given in (callback, check, within):
        if given is not None and not callable(given):
            raise TypeError(f"message_scope is for functions, not for {given!r}")
    if callback is None:
        return functools.partial(message_scope, check=check, within=within)
    as_coroutine_function(callback)

    @functools.wraps(callback)
    async def scoped(first: Any, *args: Any, **kwargs: Any) -> Any:
        ws = first if isinstance(first, WebsocketConnection) else first.ws
        run = functools.partial(callback, first, *args, **kwargs)
        if scope_here(ws) is not None:
            return await _run_on_loop(run)
        call = PlacedCall(bound(_run_in_scope, ws, run, check, within), _threads())
        call.has_left = lambda: ws.closed
        return await call.result()

    return scoped


async def _run_on_loop(run: Callable[[], Any]) -> Any:
    """Run a callback for a coroutine of a scope; a plain one in the scope's thread."""
    if is_coroutine_function(run):
        return await run()
    return await run_in_request_thread(run)


# In the scope's thread.


def _run_in_scope(
    ws: WebsocketConnection[Any, Any],
    run: Callable[[], Any],
    check: Check | None,
    within: Within | None,
) -> Any:
    request = _new_request(ws.request)

    def handle(request: Any) -> Any:
        try:
            _find_context(request, ws.request)
            if check is not None:
                call_in_request(check, request)
        except HTTPException as exc:
            raise CloseWebsocket(4000 + exc.status_int, exc.title[:40]) from exc
        with ws.scoped(request):
            return _run_within(None if within is None else within(request), run)

    with RequestContext(request):
        try:
            apply_request_extensions(request)
            return _run_in_transaction(handle, request)
        finally:
            if request.finished_callbacks:
                request._process_finished_callbacks()


def _new_request(opened: Any) -> Any:
    """Make a request as the server has made the one that opened the connection."""
    environ = {
        key: value for key, value in opened.environ.items() if not key.startswith(OF_ONE_REQUEST)
    }
    environ["wsgi.input"] = io.BytesIO()
    request = opened.registry.queryUtility(IRequestFactory, default=Request)(environ)
    request.registry = opened.registry
    for name in OF_THE_ADDRESS:
        if hasattr(opened, name):
            setattr(request, name, getattr(opened, name))
    return request


def _find_context(request: Any, opened: Any) -> None:
    """Let root factory and traversal find the request's context, as Pyramid's router does."""
    registry = request.registry
    route = getattr(request, "matched_route", None)
    factory = getattr(route, "factory", None)
    if factory is None:
        factory = registry.queryUtility(IRootFactory, default=DefaultRootFactory)
    root = request.root = factory(request)
    traverser = registry.adapters.queryAdapter(root, ITraverser) or ResourceTreeTraverser(root)
    vars(request).update(traverser(request))
    if request.view_name != getattr(opened, "view_name", request.view_name):
        raise HTTPNotFound(f"there is no {opened.path} any more")


def _run_in_transaction(handle: Callable[[Any], Any], request: Any) -> Any:
    """Run a function in the transaction of ``pyramid_tm``, if the application includes that."""
    tweens = request.registry.queryUtility(ITweens)
    names = [name for name, _ in tweens.explicit or tweens.implicit()] if tweens else []
    if TM_TWEEN not in names:
        return handle(request)
    response, results = Response(), []

    def handler(request: Any) -> Response:
        results.append(handle(request))
        return response

    tween = DottedNameResolver().resolve(TM_TWEEN)(handler, request.registry)
    if tween(request) is not response:
        # It could not commit, and has rendered that as an answer, which nobody will see.
        raise request.exception
    return results[0]


def _run_within(manager: Any, run: Callable[[], Any]) -> Any:
    if manager is None:
        return call_in_request(run)
    if not hasattr(manager, "__aenter__"):
        with manager:
            return call_in_request(run)

    async def run_within() -> Any:
        async with manager:
            return await _run_on_loop(run)

    return bridge.run_coroutine(run_within())


# The threads of scopes.

_pools: dict[Home, RequestThreads] = {}


def _threads() -> RequestThreads:
    home = home_here()
    if home not in _pools:
        _pools[home] = RequestThreads(home, PLACES)
    return _pools[home]


def end_threads() -> None:
    """Let the threads of this loop's scopes end: no connection is left."""
    pool = _pools.pop(home_here(), None)
    if pool is not None:
        pool.close()
