"""How a server learns that its connection becomes a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .sessions import sessions

if TYPE_CHECKING:
    from .session import Session

KEY = "aiopyramid.upgrade"
"""Where in the WSGI environ a server that can carry WebSockets puts an `Upgrade`."""


class Upgrade:
    """
    Where a WebSocket view leaves the session that follows its 101 response.

    The server makes one for each request that asks for an upgrade. It opens the session
    if the response that finally comes out of the application is that 101, and calls
    :meth:`forget` when the request has ended, in whatever way.
    """

    __slots__ = ("obstacle", "session")

    def __init__(self, obstacle: str = "") -> None:
        self.session: Session | None = None
        #: Why this connection cannot carry a WebSocket, and what to do about it.
        self.obstacle = obstacle

    def accept(self, session: Session, limit: int) -> bool:
        """
        Take a session from a view.

        Args:
            session: To be opened when the response is out.
            limit: The number of sessions that this process may have.

        Returns:
            True, or False if there is no room for the session.
        """
        self.forget()  # a retried request calls its view again
        if sessions.admit(session, limit):
            self.session = session
            return True
        return False

    def follow(self, response: Any) -> None:
        """
        Learn which response the session follows.

        Args:
            response: The 101 response, on its way to the tweens.
        """

    def forget(self) -> None:
        """Give the session up, unless it was opened."""
        session, self.session = self.session, None
        if session is not None:
            sessions.forget(session)
