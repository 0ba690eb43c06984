"""WebSocket views for Pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the view predicate and the view options, and check the settings."""
    from ..config import LAST
    from .options import OPTIONS, from_settings

    def websocket_options(view: Any, info: Any) -> Any:
        # The mapper reads the options. This tells Pyramid their names.
        _check_options(info)
        return view

    websocket_options.options = tuple(OPTIONS)  # type: ignore[attr-defined]

    config.add_view_deriver(websocket_options)
    config.add_view_predicate("websocket", WebsocketPredicate)
    # Only a check: the application may still change its settings, and commit again.
    config.action(None, lambda: from_settings(config.registry.settings), order=LAST)


def _check_options(info: Any) -> None:
    """
    Refuse options of WebSocket views for other views.

    Raises:
        pyramid.exceptions.ConfigurationError: For a view that has such an option.
    """
    import inspect

    from pyramid.exceptions import ConfigurationError
    from pyramid.interfaces import IViewMapperFactory

    from .mapper import WebsocketMapperBase
    from .options import OPTIONS

    given = [name for name in OPTIONS if info.options.get(name) is not None]
    if not given:
        return
    mapper = (
        info.options.get("mapper")
        or getattr(info.original_view, "__view_mapper__", None)
        or info.registry.queryUtility(IViewMapperFactory)
    )
    # A factory that is not a class may return any mapper.
    if mapper is None or (inspect.isclass(mapper) and not issubclass(mapper, WebsocketMapperBase)):
        raise ConfigurationError(
            f"{', '.join(given)}: only WebSocket views have such options, and "
            f"{info.original_view!r} is not one; "
            "it would be one with mapper=AutoWebsocketMapper"
        )


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
