"""
The WebSocket view mappers, from whichever server packages are installed.

``WebsocketMapper`` comes with aiopyramid-gunicorn, ``UWSGIWebsocketMapper``
with aiopyramid-uwsgi; ``AutoWebsocketMapper`` serves under both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .mapper import AutoWebsocketMapper as AutoWebsocketMapper

if TYPE_CHECKING:
    from aiopyramid_gunicorn.mapper import WebsocketMapper as WebsocketMapper
    from aiopyramid_uwsgi.mapper import UWSGIWebsocketMapper as UWSGIWebsocketMapper
else:
    # Hidden from type checkers, to which any misspelt name would exist.
    import importlib
    import importlib.util

    PACKAGES = {
        "WebsocketMapper": "aiopyramid_gunicorn",
        "UWSGIWebsocketMapper": "aiopyramid_uwsgi",
    }

    __all__ = [
        "AutoWebsocketMapper",
        *(name for name, package in PACKAGES.items() if importlib.util.find_spec(package)),
    ]

    def __getattr__(name):
        package = PACKAGES.get(name)
        if package is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if importlib.util.find_spec(package) is None:
            distribution = package.replace("_", "-")
            raise ImportError(
                f"{name} comes with {distribution}, which is not installed "
                f"(pip install {distribution}); AutoWebsocketMapper is for any server",
                name=package,
            )
        return getattr(importlib.import_module(f"{package}.mapper"), name)

    def __dir__():
        return sorted([*globals(), *__all__])
