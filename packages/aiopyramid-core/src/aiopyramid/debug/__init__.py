"""
Debugging aids: what holds the event loop, and which requests take long.

Both are for a process that goes on: they log stacks from a thread of their own, while what they
are about still lasts. The threads live as long as the application's lifespan.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool

from .. import bridge, homes
from ..config import LAST
from ..creation import when_created
from ..lifespan import Lifespan
from ..websocket.options import OFF, seconds
from . import blocks, requests

if TYPE_CHECKING:
    from pyramid.config import Configurator

PREFIX = "aiopyramid.debug."

SECONDS = seconds(may_be_zero=OFF)


@dataclass(frozen=True, slots=True)
class DebugOptions:
    """What is logged, in seconds; 0 for nothing."""

    #: How long the event loop may be held.
    slow_callback: float = 0.0
    #: How long a request may take.
    slow_request: float = 0.0


DEVELOPMENT = DebugOptions(slow_callback=0.1, slow_request=10.0)
"""The defaults in development; elsewhere, both are off."""


def includeme(config: Configurator) -> None:
    """Check the settings, and follow them when the application is created."""
    _announce_panel(config.registry.settings)
    # The application may still change its settings, and commit again.
    config.action(None, _check, args=(config.registry,), order=LAST)
    when_created(config, _created)


def from_settings(settings: Mapping[str, Any]) -> DebugOptions:
    """
    Read the options from an application's settings.

    Raises:
        pyramid.exceptions.ConfigurationError: For a bad value or name.
    """
    names = [field.name for field in dataclasses.fields(DebugOptions)]
    values = {}
    for setting, value in settings.items():
        if not setting.startswith(PREFIX):
            continue
        name = setting.removeprefix(PREFIX)
        if name not in names:
            raise ConfigurationError(
                f"unknown setting {setting}; the settings are {', '.join(names)}"
            )
        values[name] = SECONDS.read(setting, value)
    default = DEVELOPMENT if is_development(settings) else DebugOptions()
    return dataclasses.replace(default, **values)


def is_development(settings: Mapping[str, Any]) -> bool:
    """Return True if templates are reloaded, or Python runs with ``-X dev``."""
    # Pyramid sets this one for all others, such as `pyramid.reload_all`.
    return sys.flags.dev_mode or asbool(settings.get("pyramid.reload_templates"))


def _announce_panel(settings: dict[str, Any]) -> None:
    """Let pyramid_debugtoolbar find the panel, if it is included later than this."""
    name, includes = f"{__name__}.toolbar", settings.get("debugtoolbar.includes") or ()
    if isinstance(includes, str):
        includes = includes.split()
    if name not in includes:
        settings["debugtoolbar.includes"] = [*includes, name]


def _check(registry: Any) -> None:
    from_settings(registry.settings)
    _add_panel(registry)


def _add_panel(registry: Any) -> None:
    """Add the panel to pyramid_debugtoolbar, if it was included earlier."""
    toolbar = sys.modules.get("pyramid_debugtoolbar.toolbar")
    if toolbar is not None:
        app = registry.queryUtility(toolbar.IToolbarWSGIApp)
        if app is not None:
            from .toolbar import add_panel

            add_panel(app.registry)


def _created(event: Any) -> None:
    router, registry = event.app, event.app.registry
    options = from_settings(registry.settings)
    if not (options.slow_callback or options.slow_request):
        return
    running = requests.Running(options.slow_request)

    @asynccontextmanager
    async def watch(registry: Any) -> AsyncIterator[None]:
        home = homes.home_here()
        with ExitStack() as stack:
            if options.slow_callback:
                stack.enter_context(blocks.watching(home, options.slow_callback))
            if options.slow_request:
                stack.enter_context(requests.watching(home, running))
            yield

    if options.slow_request:
        router.execution_policy = running.policy(router.execution_policy)
    lifespan: Lifespan | None = registry.get(Lifespan)
    if lifespan is None:
        lifespan = registry[Lifespan] = DebugLifespan(registry)
    lifespan.factories.insert(0, watch)  # so that it sees what the others do


class DebugLifespan(Lifespan):
    """A lifespan that requests do without, where they cannot wait for it."""

    @property
    def is_serving(self) -> bool:
        """Whether requests need not wait."""
        return super().is_serving or homes.own_loop.is_ending or not bridge.can_wait()
