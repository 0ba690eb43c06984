"""The directive ``config.add_websocket_view``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pyramid.exceptions import ConfigurationError

from .mapper import AutoWebsocketMapper, WebsocketMapperBase
from .options import OPTIONS, VIEW_OPTION

if TYPE_CHECKING:
    from pyramid.config import Configurator

DEFAULTS = "__websocket_view_defaults__"


def add_websocket_view(
    config: Configurator, view: Any = None, name: str = "", **options: Any
) -> None:
    """
    Add a WebSocket view: a configuration directive.

    It is `pyramid.config.Configurator.add_view` for WebSockets, with the same arguments but for
    ``renderer``, and with the same conflicts and introspection. It chooses the mapper, and adds
    the predicate ``websocket=True``, so that another view can have the page at the same address.

    Args:
        config: The configurator.
        view: The view or its dotted name: a coroutine or generator function that takes ``ws``,
            or a class.
        name: The view name.
        options: Arguments of ``add_view``, and options of WebSocket views
            (`aiopyramid.websocket.options.WebsocketOptions`).

    Raises:
        pyramid.exceptions.ConfigurationError: For an argument that is not for WebSocket views.
    """
    view = config.maybe_dotted(view)
    if inspect.isclass(view):
        options = {**getattr(view, DEFAULTS, {}), **options}
    for unfit, why in UNFIT.items():
        if options.get(unfit) is not None:
            raise ConfigurationError(f"{unfit} = {options[unfit]!r}: a WebSocket view {why}")
    if not options.setdefault("websocket", True):
        raise ConfigurationError("websocket = False: a WebSocket view is for WebSockets")
    own = {key: options.pop(key) for key in OPTIONS.keys() & options.keys()}
    options[VIEW_OPTION] = {**(options.get(VIEW_OPTION) or {}), **own}
    if options.get("mapper") is None:
        chosen = getattr(view, "__view_mapper__", None)
        is_for_sockets = inspect.isclass(chosen) and issubclass(chosen, WebsocketMapperBase)
        options["mapper"] = chosen if is_for_sockets else AutoWebsocketMapper
    config.add_view(view, name, **options)


UNFIT = {
    "renderer": "sends messages and has no renderer; a codec is what turns objects into messages",
    "http_cache": "has no response that could be cached",
}
