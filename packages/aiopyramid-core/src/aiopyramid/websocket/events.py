"""Events of WebSocket connections, for ``config.add_subscriber``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .connection import WebsocketConnection


@dataclass(frozen=True)
class WebsocketOpened:
    """
    A connection was opened; its view begins when all subscribers have returned.

    Attributes:
        ws: The connection.
        request: The request that opened it.
    """

    ws: WebsocketConnection
    request: Any


@dataclass(frozen=True)
class WebsocketEnded:
    """
    A connection and its view have ended.

    Attributes:
        ws: The connection.
        request: The request that opened it.
        code: Close code.
        reason: Close reason.
        duration: Time since it was opened, in seconds.
        messages_received: Messages from the client.
        messages_sent: Messages to the client.
        bytes_received: Bytes from the client, with frame headers.
        bytes_sent: Bytes to the client, with frame headers.
        messages_dropped: Messages from the client that were dropped because they came too fast.
    """

    ws: WebsocketConnection
    request: Any
    code: int
    reason: str
    duration: float
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    messages_dropped: int = 0
