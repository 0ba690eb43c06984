"""The hand-over of a connection from gunicorn to a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiopyramid.websocket.session import Session

    from .http1 import HTTP1Connection


def become_websocket(connection: HTTP1Connection, session: Session) -> None:
    """
    Let a session have a connection, whose 101 response is out.

    Whoever takes over a transport takes over its state: asyncio tells the new protocol
    neither that writing is paused nor that the client has closed its side.
    """
    worker = connection.worker
    released = connection.release()
    transport = released.transport
    protocol = session.open()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if released.paused:
        protocol.pause_writing()
    if released.received:
        protocol.data_received(released.received)
    if released.half_closed and not protocol.eof_received():
        transport.close()
    if not worker.alive:
        session.close(worker.closing_code())
