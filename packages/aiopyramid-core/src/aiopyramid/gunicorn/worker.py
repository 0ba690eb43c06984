"""The gunicorn worker, under the name that stands in people's ini files."""

from __future__ import annotations

try:
    from aiopyramid_gunicorn.worker import AsyncGunicornWorker as AsyncGunicornWorker
except ModuleNotFoundError as exc:
    if exc.name != "aiopyramid_gunicorn":
        raise
    raise ImportError(
        "AsyncGunicornWorker comes with aiopyramid-gunicorn, which is not installed "
        "(pip install aiopyramid-gunicorn)",
        name=exc.name,
    ) from None

__all__ = ["AsyncGunicornWorker"]
