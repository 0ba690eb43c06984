"""The hand-over of a connection from uWSGI to a WebSocket."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiopyramid import bridge
from aiopyramid.websocket.upgrade import Upgrade

from . import options
from .connection import copy_of_connection, keep_environ, take_connection

if TYPE_CHECKING:
    import socket

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
        keep_environ(self.session.request)
        response.app_iter = self

    def answered(self, response: Any) -> None:
        """Called with the response that came out of the application in the end."""
        if response.status_int != 101 or response.app_iter is not self:
            self.forget()

    def __iter__(self) -> Iterator[bytes]:
        # uWSGI writes the head with the first chunk, even an empty one.
        yield b""
        if self.session is not None:
            session = self.session
            take_connection(lambda sock: bridge.await_(_open(session, sock)))

    def close(self) -> None:
        """Called by uWSGI when the response is out, or cannot go out (PEP 3333)."""
        self.forget()


async def _open(session: Session, sock: socket.socket) -> None:
    # In a context of its own: the view belongs to no request, and has no request's thread.
    loop = asyncio.get_running_loop()
    opening = loop.connect_accepted_socket(session.open, sock)
    await loop.create_task(opening, context=contextvars.Context())
