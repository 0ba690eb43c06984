"""The gunicorn worker: an event loop that serves a WSGI application."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from gunicorn.workers.gasgi import ASGIWorker
from websockets.frames import CloseCode

from aiopyramid.bridge import spawn_greenlet
from aiopyramid.websocket.session import end_sessions

from .http import HTTPProtocol, serve

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


# How long a quick shutdown waits for WebSocket views, in seconds, as gunicorn
# does for other tasks.
QUICK = 1.0


class Generation:
    """
    Counts the configurations that the arbiter has loaded.

    gunicorn tells its workers to stop and to make room for new ones by the
    same signal. A worker is created in the arbiter, before its fork, with the
    arbiter's current configuration: so the counter moves with each reload,
    before the workers of the old configuration are told to go. It lives in
    memory that arbiter and workers share.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8)
        self.cfg: Any = None

    def of(self, cfg: Any) -> int:
        """In the arbiter: return the number of a configuration."""
        if cfg is not self.cfg:
            self.cfg = cfg
            self.memory[:] = (self.latest() + 1).to_bytes(8, "big")
        return self.latest()

    def latest(self) -> int:
        """Return the number of the arbiter's current configuration."""
        return int.from_bytes(self.memory[:], "big")


generation = Generation()


class AsyncGunicornWorker(ASGIWorker):  # type: ignore[misc]
    """
    gunicorn's asynchronous worker, with a WSGI application in place of an ASGI one.

    Each request runs in a greenlet on the event loop. gunicorn's settings mean
    what they mean for its own workers; ``threads`` above 1 is the number of
    threads for plain views, which otherwise is Python's default for executors.
    """

    wsgi: WSGIApplication
    asgi = staticmethod(serve)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generation = generation.of(self.cfg)
        self.signalled = False
        self.wake = asyncio.Event()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Accept all of gunicorn's settings: ``threads`` has a use here."""

    def init_process(self) -> None:
        """Begin the worker's life, after the fork."""
        logger = logging.getLogger("aiopyramid")
        if not logger.hasHandlers():
            # Nobody has configured logging: then it goes where gunicorn's goes.
            logger.handlers = self.log.error_log.handlers
            logger.setLevel(self.log.error_log.level)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application; on a syntax error under ``--reload``, one that shows it."""
        Worker.load_wsgi(self)

    def handle_exit_signal(self) -> None:
        """Stop gracefully (SIGTERM)."""
        self.signalled = True
        super().handle_exit_signal()
        self.wake.set()

    def handle_quit_signal(self) -> None:
        """Stop at once (SIGQUIT, SIGINT)."""
        self.signalled = True
        super().handle_quit_signal()
        self.wake.set()

    def closing_code(self) -> int:
        """Tell the close code for WebSockets: 1001 if gunicorn stops, else 1012."""
        stops = self.signalled and self.generation == generation.latest()
        return CloseCode.GOING_AWAY if stops else CloseCode.SERVICE_RESTART

    def websocket_lost(self, exc: Exception | None) -> None:
        """Learn that the connection of a WebSocket is gone."""
        self.nr_conns -= 1

    async def _serve(self) -> None:
        threads = self.cfg.threads if self.cfg.threads > 1 else None
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="aiopyramid")
        self.loop.set_default_executor(self.executor)
        # Once here, so that all requests inherit what the bridge remembers.
        await spawn_greenlet(bool)
        await self._listen()
        await self._beat()
        await self._shutdown()

    async def _listen(self) -> None:
        ssl = self._get_ssl_context()
        if self.cfg.is_ssl and ssl is None:
            # gunicorn has logged why; this ends the arbiter as well.
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR)
        for listener in self.sockets:
            server = await self.loop.create_server(
                lambda: HTTPProtocol(self), sock=listener.sock, ssl=ssl, backlog=self.cfg.backlog
            )
            self.servers.append(server)

    async def _beat(self) -> None:
        """Tell the arbiter once a second that this worker lives, until it is to stop."""
        while self.alive:
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                self.signalled = True
                break
            try:
                await asyncio.wait_for(self.wake.wait(), 1.0)
            except TimeoutError:
                continue

    async def _shutdown(self) -> None:
        sessions = asyncio.create_task(end_sessions(self.closing_code(), self.cfg.graceful_timeout))
        await super()._shutdown()
        await asyncio.wait([sessions], timeout=QUICK if self._quick_shutdown else None)

    def _cleanup(self) -> None:
        super()._cleanup()
        # Cancelled tasks may still have needed threads.
        self.executor.shutdown(wait=False, cancel_futures=True)
