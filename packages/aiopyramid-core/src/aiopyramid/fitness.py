"""Checks that an application is fit for loop requests, and refuses what is known to break."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ITweens
from pyramid.settings import asbool, aslist

from .config import LAST

if TYPE_CHECKING:
    from pyramid.config import Configurator

required = False
"""Whether requests run on the event loop; a server sets it before it loads the application."""

INSTEAD = (
    "or use request threads (under gunicorn AsyncGunicornWorker, under uWSGI `threads` "
    "in place of `asyncio`)"
)


def includeme(config: Configurator) -> None:
    """Check the application when its configuration is complete."""
    config.action(None, check, args=(config.registry,), order=LAST)


def check(registry: Any) -> None:
    """
    Refuse an application that is known to break with loop requests, if it is to have them.

    Args:
        registry: The application's registry.

    Raises:
        pyramid.exceptions.ConfigurationError: With the setting that must change.
    """
    if not required:
        return
    settings = registry.settings
    tweens = registry.queryUtility(ITweens)
    names = [name for name, _ in tweens.explicit or tweens.implicit()] if tweens else []
    if "pyramid_tm.tm_tween_factory" in names and not settings.get("tm.manager_hook"):
        raise ConfigurationError(
            "tm.manager_hook is not set, so pyramid_tm keeps transactions in thread-locals, "
            "which loop requests share: set tm.manager_hook = pyramid_tm.explicit_manager "
            f"and use request.tm; {INSTEAD}"
        )
    if "pyramid_debugtoolbar.toolbar_tween_factory" in names and _has_performance_panel(settings):
        raise ConfigurationError(
            "debugtoolbar.panels has the performance panel, which holds a lock during each "
            "request, so that two requests would stop the event loop: list the other panels "
            f"there (without a list, it has all); {INSTEAD}"
        )


def _has_performance_panel(settings: Any) -> bool:
    if not asbool(settings.get("debugtoolbar.enabled", True)):
        return False
    panels = aslist(settings.get("debugtoolbar.panels") or ())
    panels += aslist(settings.get("debugtoolbar.extra_panels") or ()) if panels else ["performance"]
    return any("performance" in str(panel).lower() for panel in panels)
