import os

worker_class = "aiopyramid.gunicorn.worker.AsyncGunicornWorker"
bind = os.environ["LISTEN"]
workers = int(os.environ.get("WEB_CONCURRENCY", 4))  # one for each core
threads = 16  # requests of a worker that run plain code at a time
graceful_timeout = 30  # the unit's TimeoutStopSec is longer
max_requests = 100_000
max_requests_jitter = 20_000
control_socket_disable = True  # its default place is in a home directory
