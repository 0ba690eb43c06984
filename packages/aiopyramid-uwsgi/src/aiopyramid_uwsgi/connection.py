"""The connection of uWSGI's current request, and how the event loop gets it."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from typing import Any

import uwsgi


def copy_of_connection() -> socket.socket:
    """Return a copy of uWSGI's descriptor of the current request's connection."""
    return socket.socket(fileno=os.dup(uwsgi.connection_fd()))


def leave_connection() -> None:
    """
    Put uWSGI's descriptor on a file without content, and close the connection there.

    Where uWSGI keeps connections, it would read a next request from this one, and
    ``uwsgi.disconnect()`` would not stop it. Copies of the descriptor are not concerned.
    """
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), uwsgi.connection_fd(), inheritable=False)


def keep_environ(request: Any) -> None:
    """
    Let a request live on when it has ended, for what the event loop does with its connection.

    uWSGI empties the environ then.
    """
    # The headers may have been looked up before, and they look at the environ.
    headers = request.headers
    headers.environ = request.environ = {**request.environ, "wsgi.input": io.BytesIO()}


def take_connection(new_owner: Callable[[socket.socket], None]) -> None:
    """
    Take the connection from uWSGI, when the head of its response is out.

    Args:
        new_owner: Called with the socket, which does not block; it closes that in the end.
    """
    sock = copy_of_connection()
    try:
        sock.setblocking(False)
        leave_connection()
        new_owner(sock)
    except BaseException:
        sock.close()
        raise
