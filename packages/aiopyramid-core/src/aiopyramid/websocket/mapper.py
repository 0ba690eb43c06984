"""What the WebSocket view mappers of all servers do."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPNotImplemented, HTTPServiceUnavailable
from pyramid.viewderivers import requestonly

from .. import bridge
from ..config import AsyncioMapperBase, View
from ..helpers import as_coroutine_function, is_coroutine_function
from . import handshake, upgrade
from .callbacks import awaitable, mark_generators
from .options import OPTIONS, WebsocketOptions, from_settings
from .session import Session, sessions
from .session import accepted as accepted_sessions

logger = logging.getLogger("aiopyramid.websocket")


# Requests may run in threads, and a session counts from when it is made.
_admission = threading.Lock()


class WebsocketMapperBase(AsyncioMapperBase):
    """
    Maps a WebSocket view to a view that answers the opening handshake.

    To Pyramid, the view is one that returns a 101 response. Whatever happens
    around it happens as for other views: predicates, permission, tweens,
    cookies, exception views. The connection begins when that response is out.
    """

    #: The server that this mapper is for, and how it must be run.
    server: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.values = {name: options[name] for name in OPTIONS if options.get(name) is not None}
        WebsocketOptions().with_values(self.values)  # a bad value stops the start

    def __call__(self, view: Any) -> View:
        handler = self._function(view)
        if not is_coroutine_function(handler):
            raise ConfigurationError(
                f"a WebSocket view must be a coroutine or generator function that takes ws, "
                f"and {handler if self.attr else view!r} is none"
            )
        as_coroutine_function(handler)
        create = self._factory(view)

        def websocket_view(context: Any, request: Any) -> Any:
            handshake.check_request(request)
            options = options_of(request.registry).with_values(self.values)
            place = self._place_for(request, options)
            handshake.check_origin(request, options)
            instance = create(context, request)
            on_handshake = getattr(instance, "on_handshake", None)
            if on_handshake is not None:
                bridge.run_coroutine(awaitable(on_handshake)())
            select = getattr(instance, "select_subprotocol", handshake.offered_from(options))
            accepted = handshake.accept(
                request,
                options,
                # It may be a coroutine as well.
                lambda offered: (
                    bridge.run_coroutine(awaitable(select)(offered))
                    if is_coroutine_function(select)
                    else select(offered)
                ),
            )
            connected = getattr(instance, self.attr) if self.attr else instance
            with _admission:
                _check_room(options)  # others may have come meanwhile
                session = Session(connected, context, request, options, accepted)
            response = _switching_protocols(request, accepted)
            place.accept(session, response)
            return response

        return websocket_view

    def _factory(self, view: Any) -> Callable[[Any, Any], Any]:
        """Make what gives the view for a connection: a class gives an instance."""
        if not inspect.isclass(view):
            return lambda context, request: view
        mark_generators(view)
        takes_request_only = requestonly(view, self.attr)

        def create(context: Any, request: Any) -> Any:
            instance = view(*((request,) if takes_request_only else (context, request)))
            request.__view__ = instance
            return instance

        return create

    def _place_for(self, request: Any, options: WebsocketOptions) -> upgrade.Upgrade:
        place: upgrade.Upgrade | None = request.environ.get(upgrade.KEY)
        if place is None or place.obstacle:
            message = place.obstacle if place else self._not_offered(request)
            logger.error("WebSocket %s refused: %s", request.path, message)
            raise HTTPNotImplemented(message)
        _check_room(options)
        return place

    def _not_offered(self, request: Any) -> str:
        software = request.environ.get("SERVER_SOFTWARE", "this server")
        return f"{software} cannot carry WebSockets as it is run; use {self.server}"


class AutoWebsocketMapper(WebsocketMapperBase):
    """Maps WebSocket views for whichever server runs the application."""

    server = (
        "gunicorn -k aiopyramid.gunicorn.worker.AsyncGunicornWorker, "
        "or uWSGI with aiopyramid-uwsgi and config.include('aiopyramid')"
    )


def options_of(registry: Any) -> WebsocketOptions:
    """Return the options of an application: its settings over the defaults."""
    options: WebsocketOptions | None = registry.get(WebsocketOptions)
    if options is None:
        options = registry[WebsocketOptions] = from_settings(registry.settings)
    return options


def _check_room(options: WebsocketOptions) -> None:
    if len(sessions) + len(accepted_sessions) >= options.max_connections:
        raise HTTPServiceUnavailable(
            f"this worker has its {options.max_connections} WebSocket connections"
        )


def _switching_protocols(request: Any, accepted: handshake.Handshake) -> Any:
    # Built as renderers build theirs, so that what the view has set on
    # request.response goes out too.
    response = request.response
    response.status = 101
    del response.content_type
    del response.content_length
    for name, value in accepted.headers:
        response.headers[name] = value
    return response
