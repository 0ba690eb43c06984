"""What the WebSocket view mappers of all servers do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import (
    HTTPNotImplemented,
    HTTPServiceUnavailable,
    HTTPTooManyRequests,
)
from pyramid.viewderivers import requestonly

from .. import bridge
from ..config import AsyncioMapperBase, View
from ..helpers import as_coroutine_function, is_coroutine_function
from . import handshake, upgrade
from .callbacks import call_in_request, mark_generators
from .codecs import make_codec
from .options import VIEW_OPTION, WebsocketOptions, from_settings
from .session import NO_QUOTAS, Session
from .sessions import sessions

logger = logging.getLogger("aiopyramid.websocket")


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
        self.values = options.get(VIEW_OPTION) or {}
        WebsocketOptions().with_values(self.values)  # a bad value stops the start

    def __call__(self, view: Any) -> View:
        handler = self._function(view)
        if not is_coroutine_function(handler):
            raise ConfigurationError(
                f"{handler if self.attr else view!r} cannot be a WebSocket view: "
                "it must be a coroutine or generator function that takes ws"
            )
        as_coroutine_function(handler)
        create = self._factory(view)

        def websocket_view(context: Any, request: Any) -> Any:
            options = options_of(request.registry).with_values(self.values)
            opening = handshake.read(request, options)
            place = self._place_for(request, options)
            handshake.check_origin(request, options)
            quotas = _quotas(request, options)
            instance = create(context, request)
            on_handshake = getattr(instance, "on_handshake", None)
            if on_handshake is not None:
                call_in_request(on_handshake)
            select = getattr(instance, "select_subprotocol", handshake.offered_from(options))
            chosen: Any = select(opening.offered)
            if is_coroutine_function(select):
                chosen = bridge.run_coroutine(chosen)
            opening.choose(chosen)
            connected = getattr(instance, self.attr) if self.attr else instance
            codec = None if options.codec is None else make_codec(options.codec, request)
            session = Session(connected, context, request, options, opening, codec, quotas)
            if not place.accept(session, options.max_connections):
                used_up = sessions.used_up(session)
                raise _quota_used_up(used_up) if used_up else _no_room(options)
            response = _switching_protocols(request, opening.headers)
            place.follow(response)
            return response

        return websocket_view

    def _factory(self, view: Any) -> Callable[[Any, Any], Any]:
        """Return a function that returns the view of a connection: of a class, an instance."""
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
        if not sessions.has_room(options.max_connections):
            raise _no_room(options)
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


def _quotas(request: Any, options: WebsocketOptions) -> Mapping[Hashable, int]:
    if options.admission is None:
        return NO_QUOTAS
    quotas = call_in_request(options.admission, request)
    if quotas is None:
        return NO_QUOTAS
    if not isinstance(quotas, Mapping):
        raise TypeError(
            f"admission returned {quotas!r} and not a mapping of names to numbers of connections"
        )
    return quotas


def _quota_used_up(names: list[Hashable]) -> HTTPTooManyRequests:
    logger.info("WebSocket refused: too many connections for %r", names)
    return HTTPTooManyRequests("too many WebSocket connections")


def _no_room(options: WebsocketOptions) -> HTTPServiceUnavailable:
    if sessions.draining:
        return HTTPServiceUnavailable("this worker is drained: come again")
    return HTTPServiceUnavailable(
        f"this worker already has {options.max_connections} WebSocket connections, "
        "which is its limit (max_connections)"
    )


def _switching_protocols(request: Any, headers: list[tuple[str, str]]) -> Any:
    # Built as renderers build theirs, so that what the view has set on
    # request.response goes out too.
    response = request.response
    response.status = 101
    del response.content_type
    del response.content_length
    for name, value in headers:
        response.headers[name] = value
    return response
