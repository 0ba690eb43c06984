"""The view predicate ``websocket``, and the answer where only a WebSocket would have matched."""

from __future__ import annotations

from typing import Any

from pyramid.exceptions import ConfigurationError, PredicateMismatch

from .handshake import is_upgrade, upgrade_required

MISSED = "aiopyramid.websocket.missed"
"""In the environ of a plain request: there is a WebSocket at its address."""


class WebsocketPredicate:
    """
    The view predicate ``websocket``: does the request ask for a WebSocket?

    With it, one route can have a view for the page and one for the socket.
    """

    def __init__(self, value: bool, config: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigurationError(f"websocket = {value!r} must be True or False")
        self.value = value

    def text(self) -> str:
        """Describe the predicate, as ``pviews`` does."""
        return f"websocket = {self.value}"

    phash = text

    def __call__(self, context: Any, request: Any) -> bool:
        asked = is_upgrade(request)
        if self.value and not asked and request.method in ("GET", "HEAD"):
            request.environ[MISSED] = True
        return asked is self.value


def answer_plain_request(exc: PredicateMismatch, request: Any) -> Any:
    """
    Answer 426 to a plain request for which there is a WebSocket, but no page.

    An exception view. What else did not match is left to the application's own.
    """
    if MISSED not in request.environ:
        raise exc  # to Pyramid, this is a view that does not match
    try:
        raise upgrade_required("this is the address of a WebSocket")
    except Exception:
        return request.invoke_exception_view(reraise=True)
