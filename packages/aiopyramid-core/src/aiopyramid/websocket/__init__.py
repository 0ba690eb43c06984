"""WebSocket views for Pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the view predicate and the view options, and check the settings."""
    from pyramid.events import ApplicationCreated

    from .mapper import options_of
    from .options import OPTIONS

    def websocket_options(view: Any, info: Any) -> Any:
        return view  # the mapper reads them; this only tells Pyramid their names

    websocket_options.options = tuple(OPTIONS)  # type: ignore[attr-defined]

    def check_settings(event: ApplicationCreated) -> None:
        options_of(event.app.registry)

    config.add_subscriber(check_settings, ApplicationCreated)
    config.add_view_deriver(websocket_options)
    config.add_view_predicate("websocket", WebsocketPredicate)


class WebsocketPredicate:
    """
    The view predicate ``websocket``: does the request ask for a WebSocket?

    With it, one route can have a view for the page and one for the socket.
    """

    def __init__(self, value: bool, config: Any) -> None:
        if not isinstance(value, bool):
            from pyramid.exceptions import ConfigurationError

            raise ConfigurationError(f"websocket = {value!r} must be True or False")
        self.value = value

    def text(self) -> str:
        """Describe the predicate, as ``pviews`` does."""
        return f"websocket = {self.value}"

    phash = text

    def __call__(self, context: Any, request: Any) -> bool:
        from .handshake import is_upgrade

        return is_upgrade(request) is self.value
