"""The WebSocket view mapper for gunicorn."""

from __future__ import annotations

from aiopyramid.websocket.mapper import WebsocketMapperBase


class WebsocketMapper(WebsocketMapperBase):
    """Maps WebSocket views for applications that run under gunicorn."""

    server = "gunicorn -k aiopyramid.gunicorn.worker.AsyncGunicornWorker, over HTTP/1.1"
