"""Coroutine views and WebSockets for Pyramid applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyramid.config import Configurator

__version__ = "1.0.0.dev0"


def includeme(config: Configurator) -> None:
    """
    Set up a Pyramid application: ``config.include("aiopyramid")``.

    Makes `aiopyramid.config.CoroutineOrExecutorMapper` the default view
    mapper, makes Pyramid's thread-locals context-local, lets a security policy
    have coroutines, and adds the directives ``add_lifespan`` and
    ``add_background_task``, the view predicate ``websocket``, the options of WebSocket
    views, and ``request.groups``.
    """
    from . import homes, threadlocal
    from .config import CoroutineOrExecutorMapper

    threadlocal.install()
    config.set_view_mapper(CoroutineOrExecutorMapper)
    config.include(".auth")
    config.include(".debug")
    config.include(".fitness")
    config.include(".lifespan")
    config.include(".request")
    if homes.in_uwsgi():
        config.include("aiopyramid_uwsgi")
    config.include(".websocket")
    config.include(".broadcast")
