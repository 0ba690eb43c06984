"""Coroutine views and WebSockets for Pyramid under uWSGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Let requests under uWSGI wait for coroutines; ``aiopyramid`` includes this there."""
    from pyramid.events import ApplicationCreated, NewRequest

    from . import runner, wsgi

    runner.install()
    config.add_subscriber(wsgi.isolate, ApplicationCreated)
    config.add_subscriber(wsgi.prepare, NewRequest)
