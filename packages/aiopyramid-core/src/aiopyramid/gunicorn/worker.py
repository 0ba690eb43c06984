"""The gunicorn workers, under the names that existing ini files use."""

from __future__ import annotations

try:
    from aiopyramid_gunicorn.worker import AsyncGunicornWorker as AsyncGunicornWorker
    from aiopyramid_gunicorn.worker import LoopGunicornWorker as LoopGunicornWorker
except ModuleNotFoundError as exc:
    if exc.name != "aiopyramid_gunicorn":
        raise
    raise ImportError(
        "AsyncGunicornWorker and LoopGunicornWorker come with aiopyramid-gunicorn, "
        "which is not installed (pip install aiopyramid-gunicorn)",
        name=exc.name,
    ) from None

__all__ = ["AsyncGunicornWorker", "LoopGunicornWorker"]
