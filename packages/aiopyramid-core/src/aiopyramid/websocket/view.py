"""The decorators of WebSocket views, and the base class of those with callbacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, ParamSpec, TypeVar, overload

import venusian
from pyramid.exceptions import ConfigurationError

from .callbacks import call_on_loop
from .connection import WebsocketConnection, scope_here
from .directives import DEFAULTS
from .exceptions import closing, is_quiet
from .typed import In, Out, Typed

P = ParamSpec("P")
Class = TypeVar("Class", bound=type)
Function = TypeVar(
    "Function",
    bound=Callable[["WebsocketConnection[Any, Any]"], "Awaitable[Any] | Generator[Any, Any, Any]"],
)
Method = TypeVar(
    "Method",
    bound=Callable[
        [Any, "WebsocketConnection[Any, Any]"], "Awaitable[Any] | Generator[Any, Any, Any]"
    ],
)

OTHERS = ("self", "options", "_depth", "_category")
"""Arguments of `websocket_view_config` that are not handed on by their names."""


class websocket_view_config:  # noqa: N801 - Pyramid's decorators are named so
    """
    A decorator for a WebSocket view, which ``config.scan()`` finds.

    It calls ``config.add_websocket_view``
    (`aiopyramid.websocket.directives.add_websocket_view`) with its arguments: those of
    `pyramid.view.view_config` but for ``renderer``, and those that are listed here. It is for
    functions, classes, and methods, whose name it takes for ``attr``.
    """

    def __init__(
        self,
        *,
        route_name: str | None = None,
        name: str | None = None,
        context: Any = None,
        permission: str | None = None,
        attr: str | None = None,
        origins: Iterable[str] | None = None,
        subprotocols: Iterable[str] | None = None,
        max_message_size: int | None = None,
        compression: str | None = None,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        close_timeout: float | None = None,
        send_timeout: float | None = None,
        disconnect_grace: float | None = None,
        max_queue: int | None = None,
        max_queue_size: int | None = None,
        write_limit: int | None = None,
        max_connections: int | None = None,
        admission: Callable[[Any], Any] | str | None = None,
        max_message_rate: float | None = None,
        max_byte_rate: float | None = None,
        rate_burst: float | None = None,
        rate_policy: str | None = None,
        max_age: float | None = None,
        max_age_jitter: float | None = None,
        codec: Any = None,
        invalid_message: str | None = None,
        _depth: int = 0,
        _category: str = "pyramid",
        **options: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if v is not None and k not in OTHERS}
        self.options = options | given
        self.depth = _depth
        self.category = _category

    @overload
    def __call__(self, wrapped: Class) -> Class: ...
    @overload
    def __call__(self, wrapped: Function) -> Function: ...
    @overload
    def __call__(self, wrapped: Method) -> Method: ...
    def __call__(self, wrapped: Any) -> Any:
        """Mark a view to be found by ``config.scan()``, and return it."""
        options = self.options.copy()

        def callback(context: Any, name: str, found: Any) -> None:
            config = context.config.with_package(info.module)
            if not hasattr(config, "add_websocket_view"):
                raise ConfigurationError(
                    f"{found!r} is a WebSocket view: config.include('aiopyramid') comes before "
                    "config.scan(), or pyramid.includes = aiopyramid in the settings"
                )
            config.add_websocket_view(found, **options)

        info = venusian.attach(wrapped, callback, category=self.category, depth=self.depth + 1)
        if info.scope == "class":
            options.setdefault("attr", wrapped.__name__)
        options["_info"] = info.codeinfo
        return wrapped


def websocket_view_defaults(**options: Any) -> Callable[[Class], Class]:
    """
    Give a class defaults for those of its views that are WebSocket views.

    They win over `pyramid.view.view_defaults`, which counts for all of its views.

    Args:
        options: Arguments of `websocket_view_config`.

    Returns:
        A decorator for the class.
    """

    def wrap(wrapped: Class) -> Class:
        setattr(wrapped, DEFAULTS, options)
        return wrapped

    return wrap


def _may_be_plain(method: Callable[P, Awaitable[None]]) -> Callable[P, Any]:
    """Tell type checkers that subclasses may have a plain function or a generator there."""
    return method


class WebsocketConnectionView(Typed[In, Out]):
    """
    A WebSocket view made of callbacks.

    The callbacks may be coroutines, generators, or plain functions; plain ones
    run in a worker thread. A view may also have a method
    ``select_subprotocol(offered)`` that returns one of the subprotocols that
    the client offers, or ``None``; without it, the first of the option
    ``subprotocols`` is taken that the client offers.

    Attributes:
        ws: The connection, from ``on_open`` on.

    Args:
        context: The context of the request.
        request: The request that opens the connection. The constructor runs
            before the connection is accepted: an HTTP exception that it raises
            is the answer.
    """

    ws: WebsocketConnection[In, Out]

    def __init__(self, context: Any, request: Any) -> None:
        self.context = context
        self.request = request

    @property
    def request(self) -> Any:
        """The request that opened the connection; within a scope, the scope's own."""
        scope = scope_here(vars(self).get("ws"))
        return self._request if scope is None else scope.request

    @request.setter
    def request(self, request: Any) -> None:
        self._request = request

    @property
    def context(self) -> Any:
        """The context of the request."""
        scope = scope_here(vars(self).get("ws"))
        return self._context if scope is None else scope.request.context

    @context.setter
    def context(self, context: Any) -> None:
        self._context = context

    async def __call__(self, ws: WebsocketConnection[In, Out]) -> None:
        """Run the callbacks over a connection."""
        self.ws = ws
        try:
            await self._call(self.on_open)
            async for message in ws:
                await self._call(self.on_message, message)
        except BaseException as exc:
            ws.close_nowait(*closing(exc))
            await self._close_after(exc)
            raise
        await self._call(self.on_close)

    async def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        await call_on_loop(callback, self.ws.protocol.options.disconnect_grace, *args)

    async def _close_after(self, exc: BaseException) -> None:
        try:
            await self._call(self.on_close)
        except BaseException as another:
            # The first exception is the one to be seen, with this as a note.
            if is_quiet(another):
                return
            if is_quiet(exc):
                raise
            exc.add_note(f"Then on_close raised {another!r}.")

    async def send(self, message: Out) -> None:
        """
        Send a message; waits while the peer reads too slowly.

        Args:
            message: `str` is sent as text, bytes are sent as binary; with a codec, an object.

        Raises:
            WebsocketClosed: If the connection is closed.
        """
        await self.ws.send(message)

    @_may_be_plain
    async def on_handshake(self) -> None:
        """
        Decide whether to accept the connection, before it is accepted.

        Raises:
            pyramid.httpexceptions.HTTPException: To answer with it instead.
        """

    @_may_be_plain
    async def on_open(self) -> None:
        """Called when the connection is open."""

    @_may_be_plain
    async def on_message(self, message: In) -> None:
        """
        Called with each message, one at a time.

        Args:
            message: `str` for text, `bytes` for binary, or what a codec makes.
        """

    @_may_be_plain
    async def on_close(self) -> None:
        """
        Called once when the connection has ended, in whatever way.

        After a disconnect, the option ``disconnect_grace`` is the time for what
        is left to do, this callback included. A plain callback that has to wait for
        a free thread has that time from when it begins.
        """
