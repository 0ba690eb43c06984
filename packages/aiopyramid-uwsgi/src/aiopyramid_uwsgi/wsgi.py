"""Requests under uWSGI, and their connections that become WebSockets."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from typing import Any

import uwsgi
from pyramid.httpexceptions import HTTPException

from aiopyramid import bridge
from aiopyramid.transactions import refuse_on_loop
from aiopyramid.websocket.session import Session
from aiopyramid.websocket.upgrade import KEY, Upgrade

from . import body, options, runner


def isolate(event: Any) -> None:
    """Make a request of each call of Pyramid (`pyramid.events.ApplicationCreated`)."""
    router = event.app
    policy = router.execution_policy

    def isolated(environ: dict[str, Any], router: Any) -> Any:
        worker = runner.install()
        worker.hold_signals()
        try:
            # uWSGI's threads have one context for all of their requests.
            return worker.run_request(_run, policy, environ, router, worker)
        except (SystemExit, KeyboardInterrupt) as exc:
            # For these uWSGI ends the interpreter, which hangs in a thread.
            raise RuntimeError(f"the application raised {exc!r} in a request") from exc

    router.execution_policy = isolated
    if uwsgi.worker_id():
        # The application may have imported what is to be refused after the loop began.
        runner.install().loop().call_soon_threadsafe(refuse_on_loop)


def _run(policy: Any, environ: dict[str, Any], router: Any, worker: runner.Worker) -> Any:
    # Before the policy, which may read the body on its own, to send it again.
    try:
        body.prepare(environ, worker)
        return policy(environ, router)
    except HTTPException as exc:
        # The body could not be read, and is still there.
        exc.headers["Connection"] = "close"
        return exc


def prepare(event: Any) -> None:
    """Make ready a request that Pyramid begins with (`pyramid.events.NewRequest`)."""
    request = event.request
    if "HTTP_UPGRADE" in request.environ and KEY not in request.environ:
        with _copy_of_connection() as connection:
            address = connection.getsockname()
        request.environ[KEY] = UWSGIUpgrade(options.obstacle(request.environ, address))
    if not options.keeps_connections(request.environ):
        request.add_response_callback(announce_close)


def announce_close(request: Any, response: Any) -> None:
    """Say that uWSGI closes the connection, or clients would use it again (RFC 9112, 9.6)."""
    if response.status_code != 101:
        options_of_hop = response.headers.getall("Connection")
        if "close" not in options_of_hop:
            response.headers.add("Connection", "close")


class UWSGIUpgrade(Upgrade):
    """Lets the session begin at the end of the response, where uWSGI does nothing for it."""

    __slots__ = ()

    def accept(self, session: Session, response: Any) -> None:
        """Take a session from a view."""
        super().accept(session, response)
        # uWSGI empties the environ when the request ends, and the view keeps it. The
        # headers may have been looked up before, and they look at the environ.
        request = session.request
        headers = request.headers
        headers.environ = request.environ = {**request.environ, "wsgi.input": io.BytesIO()}
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
