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
    have coroutines, and adds the view predicate ``websocket`` and the options
    of WebSocket views.
    """
    from . import threadlocal
    from .config import CoroutineOrExecutorMapper

    threadlocal.install()
    config.set_view_mapper(CoroutineOrExecutorMapper)
    config.include(".auth")
    config.include(".fitness")
    if _is_uwsgi():
        config.include("aiopyramid_uwsgi")
    config.include(".websocket")


def _is_uwsgi() -> bool:
    # The module exists only in uWSGI's own processes.
    try:
        import uwsgi  # noqa: F401
    except ImportError:
        return False
    return True
