"""How a server learns that its connection becomes a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session

KEY = "aiopyramid.upgrade"
"""Where in the WSGI environ a server that can carry WebSockets puts an `Upgrade`."""


class Upgrade:
    """
    Where a WebSocket view leaves the session that follows its 101 response.

    The server opens it, if the response that finally comes out of the
    application has status 101.
    """

    __slots__ = ("obstacle", "session")

    def __init__(self, obstacle: str = "") -> None:
        self.session: Session | None = None
        #: What keeps this connection from carrying a WebSocket, and what to do about it.
        self.obstacle = obstacle

    def accept(self, session: Session, response: Any) -> None:
        """
        Take a session from a view.

        Args:
            session: To be opened when the response is out.
            response: The 101 response, on its way to the tweens.
        """
        self.session = session
