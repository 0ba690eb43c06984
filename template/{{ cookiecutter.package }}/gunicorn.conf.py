"""
Settings of gunicorn, which reads this file in the directory where it starts.

The environment has what differs: LISTEN, and WEB_CONCURRENCY, the number of workers. More than one
need a Redis between them.
"""

import os

worker_class = "aiopyramid.gunicorn.worker.AsyncGunicornWorker"
bind = os.environ.get("LISTEN", "127.0.0.1:8000")
threads = 16  # requests that run plain code at a time, in each worker
graceful_timeout = 30  # seconds that requests may take when a worker stops
