"""Requests under uWSGI: their body, and their connection if it becomes a WebSocket."""

from __future__ import annotations

import contextvars
import io
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import uwsgi
from pyramid.httpexceptions import HTTPLengthRequired, HTTPRequestEntityTooLarge

from aiopyramid import bridge
from aiopyramid.websocket.session import Session
from aiopyramid.websocket.upgrade import KEY, Upgrade

from . import options, runner

logger = logging.getLogger("aiopyramid.uwsgi")


def isolate(event: Any) -> None:
    """Give each request a context of its own (`pyramid.events.ApplicationCreated`)."""
    router = event.app
    policy = router.execution_policy

    def isolated(environ: dict[str, Any], router: Any) -> Any:
        # uWSGI's threads have one for all of their requests.
        try:
            return contextvars.copy_context().run(policy, environ, router)
        except (SystemExit, KeyboardInterrupt) as exc:
            # For these uWSGI ends the interpreter, which hangs in a thread.
            raise RuntimeError(f"the application raised {exc!r} in a request") from exc

    router.execution_policy = isolated


def prepare(event: Any) -> None:
    """Make ready a request that Pyramid begins with (`pyramid.events.NewRequest`)."""
    request = event.request
    worker = runner.install()
    worker.hold_signals()
    if "HTTP_UPGRADE" in request.environ and KEY not in request.environ:
        with _copy_of_connection() as connection:
            address = connection.getsockname()
        request.environ[KEY] = UWSGIUpgrade(options.obstacle(request.environ, address))
    if not options.keeps_connections(request.environ):
        request.add_response_callback(announce_close)
    chunked = request.headers.pop("Transfer-Encoding", "").lower() == "chunked"
    if chunked and request.content_length is None:  # else a proxy has read it
        read_chunks(request)
    if isinstance(worker, runner.LoopModeWorker):
        # uWSGI knows its requests by their greenlets. Views run in others, and
        # in threads, where it can neither read a body nor send a file.
        request.make_body_seekable()
        request.environ.pop("wsgi.file_wrapper", None)


def announce_close(request: Any, response: Any) -> None:
    """Say that uWSGI closes the connection, or clients would use it again (RFC 9112, 9.6)."""
    if response.status_code != 101:
        options_of_hop = response.headers.getall("Connection")
        if "close" not in options_of_hop:
            response.headers.add("Connection", "close")


def read_chunks(request: Any) -> None:
    """
    Read a chunked body, which uWSGI leaves out of ``wsgi.input``, into a temporary file.

    Raises:
        pyramid.httpexceptions.HTTPLengthRequired: If uWSGI's router keeps it back.
        pyramid.httpexceptions.HTTPRequestEntityTooLarge: If it exceeds ``limit-post``.
    """
    if options.loses_chunks(request.environ):
        logger.error("%s refused: %s", request.path, LOST_CHUNKS)
        raise HTTPLengthRequired(LOST_CHUNKS)
    body = tempfile.SpooledTemporaryFile(SPOOL_SIZE)  # noqa: SIM115 - lives as long as the request
    limit = options.number("limit-post")
    while chunk := uwsgi.chunked_read():
        body.write(chunk)
        if 0 < limit < body.tell():
            raise HTTPRequestEntityTooLarge(f"the body exceeds {limit} bytes")
    request.content_length = body.tell()
    body.seek(0)
    request.body_file_raw = body
    request.is_body_seekable = True


SPOOL_SIZE = 64 * 1024
LOST_CHUNKS = "uWSGI's router passes no chunked bodies on: set http-chunked-input = true"


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
    connection lives on in a copy of uWSGI's descriptor, which itself is put on
    a file without content: where uWSGI keeps connections, it would read a next
    request from this one, and ``uwsgi.disconnect()`` would not stop it.
    """
    yield b""
    sock = _copy_of_connection()
    sock.setblocking(False)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), uwsgi.connection_fd(), inheritable=False)
    loop = runner.install().loop()
    bridge.await_(loop.connect_accepted_socket(session.open, sock))


def _copy_of_connection() -> socket.socket:
    return socket.socket(fileno=os.dup(uwsgi.connection_fd()))
