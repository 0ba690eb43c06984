"""Taking a connection from uWSGI, once its handshake is answered."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import Iterator
from typing import Any

import uwsgi
from pyramid.events import NewRequest

from aiopyramid.websocket.session import Session
from aiopyramid.websocket.upgrade import KEY, Upgrade

from .runner import loop_thread


class UWSGIUpgrade(Upgrade):
    """Lets the session begin at the end of the response, where uWSGI does nothing for it."""

    __slots__ = ()

    def accept(self, session: Session, response: Any) -> None:
        """Take a session from a view."""
        super().accept(session, response)
        # uWSGI empties the environ when the request ends, and the view keeps it.
        session.request.environ = dict(session.request.environ, **{"wsgi.input": io.BytesIO()})
        response.app_iter = take_connection(session)


def offer_upgrade(event: NewRequest) -> None:
    """Offer the upgrade to a request that asks for it."""
    environ = event.request.environ
    if "HTTP_UPGRADE" in environ:
        environ[KEY] = UWSGIUpgrade()


def take_connection(session: Session) -> Iterator[bytes]:
    """
    Take the connection from uWSGI when the head of the response is out.

    uWSGI writes the head with the first chunk, even an empty one. It closes its
    own descriptor when the request ends; the connection lives on in the copy.
    """
    yield b""
    sock = socket.socket(fileno=os.dup(uwsgi.connection_fd()))
    sock.setblocking(False)
    loop = loop_thread.loop()

    async def connect() -> None:
        await loop.connect_accepted_socket(session.open, sock)

    asyncio.run_coroutine_threadsafe(connect(), loop).result()
