"""The hand-over of a connection from uWSGI to a WebSocket."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uwsgi

from aiopyramid import bridge
from aiopyramid.websocket.upgrade import Upgrade

from . import options, worker

if TYPE_CHECKING:
    from aiopyramid.websocket.session import Session


class UWSGIUpgrade(Upgrade):
    """
    Opens the session at the end of the response, where uWSGI does nothing for it.

    It is the body of the 101 response, and uWSGI calls its `close` when the request ends.
    """

    __slots__ = ()

    @classmethod
    def of(cls, environ: dict[str, Any]) -> UWSGIUpgrade:
        """Make one for the current request."""
        with copy_of_connection() as connection:
            address = connection.getsockname()
        return cls(options.obstacle(environ, address))

    def follow(self, response: Any) -> None:
        """Become the body of the 101 response."""
        assert self.session is not None
        # uWSGI empties the environ when the request ends, and the view keeps it. The
        # headers may have been looked up before, and they look at the environ.
        request = self.session.request
        headers = request.headers
        headers.environ = request.environ = {**request.environ, "wsgi.input": io.BytesIO()}
        response.app_iter = self

    def answered(self, response: Any) -> None:
        """Called with the response that came out of the application in the end."""
        if response.status_int != 101 or response.app_iter is not self:
            self.forget()

    def __iter__(self) -> Iterator[bytes]:
        # uWSGI writes the head with the first chunk, even an empty one.
        yield b""
        if self.session is not None:
            take_connection(self.session)

    def close(self) -> None:
        """Called by uWSGI when the response is out, or cannot go out (PEP 3333)."""
        self.forget()


def take_connection(session: Session) -> None:
    """Take the connection from uWSGI for a session, whose 101 response is out."""
    sock = copy_of_connection()
    try:
        sock.setblocking(False)
        leave_connection()
        loop = worker.install().loop()
        bridge.await_(loop.connect_accepted_socket(session.open, sock))
    except BaseException:
        sock.close()
        raise


def leave_connection() -> None:
    """
    Put uWSGI's descriptor on a file without content, and close the connection there.

    Where uWSGI keeps connections, it would read a next request from this one, and
    ``uwsgi.disconnect()`` would not stop it. Copies of the descriptor are not concerned.
    """
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), uwsgi.connection_fd(), inheritable=False)


def copy_of_connection() -> socket.socket:
    """Return a copy of uWSGI's descriptor of the current request's connection."""
    return socket.socket(fileno=os.dup(uwsgi.connection_fd()))
