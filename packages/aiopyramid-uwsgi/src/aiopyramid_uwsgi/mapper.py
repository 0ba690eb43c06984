"""The WebSocket view mapper for uWSGI."""

from __future__ import annotations

from aiopyramid.websocket.mapper import WebsocketMapperBase


class UWSGIWebsocketMapper(WebsocketMapperBase):
    """Maps WebSocket views for applications that run under uWSGI."""

    server = "uWSGI, and config.include('aiopyramid')"
