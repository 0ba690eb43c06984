"""Coroutine views and WebSockets for Pyramid under uWSGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Let requests under uWSGI wait for coroutines; ``aiopyramid`` includes this there."""
    from pyramid.events import ApplicationCreated

    from . import request, worker

    worker.install()
    config.add_subscriber(request.isolate, ApplicationCreated)
