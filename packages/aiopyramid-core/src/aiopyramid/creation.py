"""What is done once, when an application has been created."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyramid.interfaces import IApplicationCreated
from pyramid.registry import Registry

if TYPE_CHECKING:
    from pyramid.config import Configurator


def when_created(config: Configurator, func: Callable[[Any], None]) -> None:
    """
    Call a function when the application is created, and leave no subscriber behind.

    With a single subscriber to anything, Pyramid looks for subscribers at each step of each
    request, which costs half as much as all the rest of a small one.

    Args:
        config: The configurator.
        func: Called with the event (`pyramid.events.ApplicationCreated`).
    """
    registry = config.registry

    def handler(event: Any) -> None:
        registry.unregisterHandler(handler, [IApplicationCreated])
        if isinstance(registry, Registry):  # another kind does not say so if one is added later
            registry.has_listeners = any(registry.registeredHandlers()) or any(
                registry.registeredSubscriptionAdapters()
            )
        func(event)

    registry.registerHandler(handler, [IApplicationCreated])
