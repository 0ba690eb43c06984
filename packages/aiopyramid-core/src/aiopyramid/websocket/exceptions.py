"""The exception of a closed WebSocket, and the close codes of exceptions that views raise."""

from __future__ import annotations

from websockets.frames import CloseCode

from ..exceptions import is_cancellation


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


def is_closed(exc: BaseException) -> bool:
    """Return True if an exception is `WebsocketClosed`, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(WebsocketClosed)[1] is None
    return isinstance(exc, WebsocketClosed)


def is_quiet(exc: BaseException) -> bool:
    """Return True if an exception is a normal end of a view, which is not logged."""
    return is_cancellation(exc) or is_closed(exc)


def closing_code(exc: BaseException) -> int:
    """Return the close code for a view that ends with an exception."""
    if is_cancellation(exc):
        return CloseCode.GOING_AWAY
    return CloseCode.NORMAL_CLOSURE if is_closed(exc) else CloseCode.INTERNAL_ERROR
