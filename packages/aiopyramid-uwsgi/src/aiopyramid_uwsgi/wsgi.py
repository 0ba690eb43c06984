"""Requests under uWSGI: their body, and their connection if it becomes a WebSocket."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from typing import Any

import uwsgi

from aiopyramid import bridge
from aiopyramid.websocket.session import Session
from aiopyramid.websocket.upgrade import KEY, Upgrade

from . import options, runner


def prepare(event: Any) -> None:
    """Make ready a request that Pyramid begins with (`pyramid.events.NewRequest`)."""
    request = event.request
    worker = runner.install()
    worker.hold_signals()
    if "HTTP_UPGRADE" in request.environ and KEY not in request.environ:
        with _copy_of_connection() as connection:
            address = connection.getsockname()
        request.environ[KEY] = UWSGIUpgrade(options.obstacle(request.environ, address))
    if isinstance(worker, runner.LoopModeWorker):
        # uWSGI knows its requests by their greenlets. Views run in others, and
        # in threads, where it can neither read a body nor send a file.
        request.make_body_seekable()
        request.environ.pop("wsgi.file_wrapper", None)


class UWSGIUpgrade(Upgrade):
    """Lets the session begin at the end of the response, where uWSGI does nothing for it."""

    __slots__ = ()

    def accept(self, session: Session, response: Any) -> None:
        """Take a session from a view."""
        super().accept(session, response)
        # uWSGI empties the environ when the request ends, and the view keeps it.
        session.request.environ = dict(session.request.environ, **{"wsgi.input": io.BytesIO()})
        response.app_iter = take_connection(session)


def take_connection(session: Session) -> Iterator[bytes]:
    """
    Take the connection from uWSGI when the head of the response is out.

    uWSGI writes the head with the first chunk, even an empty one. The
    connection lives on in a copy of uWSGI's descriptor.
    """
    yield b""
    sock = _copy_of_connection()
    sock.setblocking(False)
    uwsgi.disconnect()  # or it might read the next request, where it keeps connections
    loop = runner.install().loop()
    bridge.await_(loop.connect_accepted_socket(session.open, sock))


def _copy_of_connection() -> socket.socket:
    return socket.socket(fileno=os.dup(uwsgi.connection_fd()))
