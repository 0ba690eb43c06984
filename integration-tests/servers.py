"""The servers that real applications run on, and gunicorn's own threads to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness import Server

THREADS = 8

SERVERS: dict[str, dict[str, Any]] = {
    "gthread": {"worker": "gthread", "args": ["--threads", str(THREADS)]},
    "gunicorn": {"args": ["--threads", str(THREADS)]},
    "uwsgi": {"variant": "uwsgi-threads"},
    "loop": {"variant": "gunicorn-loop", "args": ["--threads", str(THREADS)]},
}
# Where requests have threads.
PLAIN = ["gthread", "gunicorn", "uwsgi"]
# gthread runs no event loop.
COROUTINES = ["gunicorn", "uwsgi"]
# For what is fit for loop requests.
FIT = [*COROUTINES, "loop"]
# uWSGI resets a connection whose body the application did not read.
READ_BODIES = ["--post-buffering", "65536"]


def serve(launch: Callable[..., Server], name: str, **options: Any) -> Server:
    """Launch a server by its name here."""
    args = [*SERVERS[name].get("args", []), *options.pop("args", [])]
    return launch(**SERVERS[name] | options | {"args": args})
