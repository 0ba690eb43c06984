"""The exceptions of closed WebSockets, and the close codes of exceptions that views raise."""

from __future__ import annotations

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode

from ..exceptions import is_cancellation


class WebsocketClosed(Exception):
    """
    The connection is closed. A view may let it pass: it ends quietly.

    Args:
        code: Close code (RFC 6455 section 7.4).
        reason: Close reason.

    Attributes:
        code: Close code, 1006 if there was no close frame.
        reason: Close reason, often empty.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"the WebSocket connection is closed with code {self.code}{reason}"


class CloseWebsocket(Exception):
    """
    Raised by a view, or by what it calls, to end it and close its connection.

    Args:
        code: Close code (RFC 6455 section 7.4); 4000 to 4999 are for applications.
        reason: Close reason, at most 123 bytes in UTF-8.

    Raises:
        ValueError: If no close frame may carry the code or reason.
    """

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def check_close(code: int, reason: str) -> None:
    """
    Check that a close frame may carry a code and a reason.

    Raises:
        ValueError: If it may not.
    """
    try:
        Frame(Opcode.CLOSE, Close(code, reason).serialize()).check()
    except ProtocolError as exc:
        raise ValueError(f"cannot close with code {code!r} and reason {reason!r}: {exc}") from None


def is_closed(exc: BaseException) -> bool:
    """Return True if an exception is one of those above, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split((WebsocketClosed, CloseWebsocket))[1] is None
    return isinstance(exc, WebsocketClosed | CloseWebsocket)


def is_quiet(exc: BaseException) -> bool:
    """Return True if an exception is a normal end of a view, which is not logged."""
    return is_cancellation(exc) or is_closed(exc)


def closing(exc: BaseException) -> tuple[int, str]:
    """Return the close code and reason for a view that ends with an exception."""
    if is_cancellation(exc):
        return CloseCode.GOING_AWAY, ""
    if not is_closed(exc):
        return CloseCode.INTERNAL_ERROR, ""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return (exc.code, exc.reason) if isinstance(exc, CloseWebsocket) else (1000, "")
