"""WebSocket views for Pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the directive, the view predicate and the view option, and check the settings."""
    from pyramid.exceptions import PredicateMismatch

    from ..config import LAST
    from .directives import add_websocket_view
    from .options import VIEW_OPTION, from_settings
    from .predicates import WebsocketPredicate, answer_plain_request

    def websocket_options(view: Any, info: Any) -> Any:
        # The mapper reads the options. This tells Pyramid their name.
        if info.options.get(VIEW_OPTION):
            _check_is_websocket(info)
        return view

    websocket_options.options = (VIEW_OPTION,)  # type: ignore[attr-defined]

    config.add_view_deriver(websocket_options)
    config.add_view_predicate("websocket", WebsocketPredicate)
    config.add_exception_view(answer_plain_request, context=PredicateMismatch)
    config.add_directive("add_websocket_view", add_websocket_view)
    # Only a check: the application may still change its settings, and commit again.
    config.action(None, lambda: from_settings(config.registry.settings), order=LAST)


def _check_is_websocket(info: Any) -> None:
    """
    Refuse options of WebSocket views for other views.

    Raises:
        pyramid.exceptions.ConfigurationError: For a view that has such options.
    """
    import inspect

    from pyramid.exceptions import ConfigurationError
    from pyramid.interfaces import IViewMapperFactory

    from .mapper import WebsocketMapperBase
    from .options import VIEW_OPTION

    mapper = (
        info.options.get("mapper")
        or getattr(info.original_view, "__view_mapper__", None)
        or info.registry.queryUtility(IViewMapperFactory)
    )
    # A factory that is not a class may return any mapper.
    if mapper is None or (inspect.isclass(mapper) and not issubclass(mapper, WebsocketMapperBase)):
        raise ConfigurationError(
            f"{VIEW_OPTION} = {info.options[VIEW_OPTION]!r}: only WebSocket views have such "
            f"options, and {info.original_view!r} is not one; "
            "it would be one with @websocket_view_config or mapper=AutoWebsocketMapper"
        )
