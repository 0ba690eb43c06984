"""WSGI middleware for applications with WebSocket views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .exceptions import WebsocketClosed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def ignore_websocket_closed(app: WSGIApplication) -> WSGIApplication:
    """
    Keep `WebsocketClosed` out of the server's log.

    Connections end outside of the WSGI call, so nothing reaches the server any
    more; applications that have this middleware can keep it.

    Args:
        app: The WSGI application.

    Returns:
        A WSGI application that ends quietly where ``app`` raises
        `WebsocketClosed` with no other exception as its cause.
    """

    def ignoring(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except WebsocketClosed as exc:
            if exc.__cause__ is not None:
                raise
            start_response("204 No Content", [])
            return []

    return ignoring
