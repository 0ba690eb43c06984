"""
Groups of connections: in one process, or over many workers and machines.

``config.include("aiopyramid")`` includes this, and gives each request ``request.groups``
(`aiopyramid.broadcast.groups.Groups`). Programs without Pyramid publish by
`aiopyramid.broadcast.publisher.Publisher`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid.config import Configurator

    from .groups import Groups


def includeme(config: Configurator) -> None:
    """Add ``request.groups``, and connect each worker to the broker of the settings."""
    from ..config import LAST

    config.add_request_method(groups_of_request, "groups", reify=True)
    # The application may still change its settings, and commit again.
    config.action(None, lambda: _configure(config.registry), order=LAST)


def groups_of_request(request: Any) -> Groups:
    """Return the groups of the application: ``request.groups``."""
    groups = groups_of(request.registry)
    groups.check_workers(request.environ)
    return groups


def after(request: Any, group: str) -> str | None:
    """
    Return the ``id`` of the last message of a group that a client has, if it reconnects.

    The client in JavaScript sends it as the parameter ``after.NAME`` of its handshake. It is what
    the client says, good for the ``after`` of ``join`` and ``listen``.

    Args:
        request: The request of the handshake.
        group: The name of the group.

    Returns:
        The ``id``, unchecked; ``None`` if the client says none.
    """
    try:
        found: str | None = request.GET.get(f"after.{group}")
    except UnicodeDecodeError:
        return None
    return found


def groups_of(registry: Any) -> Groups:
    """
    Return the groups of an application, for code that has no request.

    Args:
        registry: The application's registry.

    Returns:
        What ``request.groups`` is in its requests.

    Raises:
        KeyError: If the application does not include aiopyramid.
    """
    from .groups import Groups

    groups: Groups = registry[Groups]
    return groups


def _configure(registry: Any) -> None:
    """
    Read the settings.

    Raises:
        pyramid.exceptions.ConfigurationError: For a bad one.
    """
    from pyramid.exceptions import ConfigurationError

    from ..lifespan import set_first
    from .backends import check_backend
    from .groups import Groups
    from .settings import MEMORY, from_settings

    try:
        settings = from_settings(registry.settings)
        check_backend(settings)
    except (ValueError, ImportError) as exc:
        raise ConfigurationError(str(exc)) from exc
    if Groups not in registry or registry[Groups].settings != settings:
        groups = registry[Groups] = Groups(registry, settings)
        # In memory, groups begin when they are used: most applications have none.
        set_first(registry, None if settings.url == MEMORY else lambda _: groups.running())
