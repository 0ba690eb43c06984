"""An application with a WebSocket view, for the tests of aiopyramid.testing."""

from __future__ import annotations

from pyramid.config import Configurator


async def echo(ws):
    async for message in ws:
        await ws.send(message)


def make_app(view=echo, *, views=(), settings=None, tweens=(), **options):
    """
    Make an application.

    ``view`` is at /ws, with ``options``; ``views`` are plain or coroutine views, at their names.
    """
    with Configurator(settings=settings or {}) as config:
        config.include("aiopyramid")
        for tween in tweens:
            config.add_tween(tween)
        config.add_route("ws", "/ws")
        config.add_websocket_view(view, route_name="ws", **options)
        for other in views:
            config.add_view(other, name=other.__name__, renderer="json")
        return config.make_wsgi_app()
