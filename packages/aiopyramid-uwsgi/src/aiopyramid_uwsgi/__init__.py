"""Coroutine views and WebSockets for Pyramid under uWSGI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Let requests under uWSGI wait for coroutines; ``aiopyramid`` includes this there."""
    from aiopyramid.creation import when_created

    from . import request, worker

    worker.install()
    when_created(config, request.isolate)
