"""gunicorn's settings for the demo; see ``app.py``."""

import os
import warnings
from typing import Any

# Pyramid 2 imports it from setuptools, which warns; nothing is to be done about it here.
warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)

wsgi_app = "demo.app:main()"
worker_class = "aiopyramid.gunicorn.worker.AsyncGunicornWorker"
bind = "127.0.0.1:8000"
workers = 2 if os.environ.get("REDIS_URL") else 1  # one keeps the chat in its memory
threads = 8  # requests that run plain code at a time
graceful_timeout = 5


def when_ready(server: Any) -> None:
    """Say where the page is."""
    for listener in server.LISTENERS:
        print(f"open {listener}/", flush=True)
