"""Coroutine views and WebSockets for Pyramid under uWSGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Give uWSGI's request threads an event loop; ``aiopyramid`` includes this in uWSGI."""
    from pyramid.events import NewRequest

    from . import connection, runner

    runner.install()
    config.add_subscriber(connection.offer_upgrade, NewRequest)
