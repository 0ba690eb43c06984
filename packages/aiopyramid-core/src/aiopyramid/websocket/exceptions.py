"""Errors of WebSocket connections."""

from __future__ import annotations


class WebsocketClosed(Exception):
    """
    The connection is closed. A view may let it pass: it ends quietly.

    Attributes:
        code: Close code (RFC 6455 section 7.4), 1006 if there was no close frame.
        reason: Close reason, often empty.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"the WebSocket connection is closed with code {self.code}{reason}"
