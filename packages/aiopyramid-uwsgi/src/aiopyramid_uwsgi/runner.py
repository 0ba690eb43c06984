"""
An event loop for uWSGI's request threads.

Every worker process has one loop, in a thread of its own, which begins when it
is first needed: after the fork, as threads do not survive one. Request threads
wait for coroutines through the bridge; WebSockets live on the loop, so they
hold no request thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uwsgi
from pyramid.exceptions import ConfigurationError
from websockets.frames import CloseCode

from aiopyramid import bridge
from aiopyramid.websocket.session import end_sessions

logger = logging.getLogger("aiopyramid.uwsgi")

# How long views have to end when the worker does, in seconds.
END_TIMEOUT = 10.0


class LoopThread:
    """The event loop of this worker process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pid = 0
        self.running: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; start it first, once a process."""
        if self.pid != os.getpid():
            with self.lock:
                if self.pid != os.getpid():
                    self._start()
                    self.pid = os.getpid()
        assert self.running is not None
        return self.running

    def _start(self) -> None:
        self.running = loop = new_event_loop()
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="aiopyramid"))
        started = threading.Event()
        loop.call_soon(started.set)
        threading.Thread(target=_run, args=[loop], name="aiopyramid-loop", daemon=True).start()
        started.wait()
        logger.info("worker %d waits for coroutines on %s in a thread", uwsgi.worker_id(), loop)

    def end(self) -> None:
        """Close the connections of this worker; uWSGI calls it at the worker's end."""
        if self.running is None or self.pid != os.getpid():
            return
        ending = end_sessions(CloseCode.GOING_AWAY, END_TIMEOUT)
        asyncio.run_coroutine_threadsafe(ending, self.running).result(END_TIMEOUT + 1)
        self.running.call_soon_threadsafe(self.running.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    # A signal is delivered to any thread that does not block it, and uWSGI's
    # handlers end the process right there, which this thread has to survive
    # for `LoopThread.end`.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop.run_forever()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make a loop: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


loop_thread = LoopThread()


def install() -> None:
    """
    Let this process's request threads wait for coroutines.

    Raises:
        pyramid.exceptions.ConfigurationError: If uWSGI runs without threads.
    """
    if not has_threads(uwsgi.opt):
        raise ConfigurationError(
            "uWSGI runs without threads, and coroutines need one: "
            "set enable-threads = true, and threads = N for N requests at a time"
        )
    bridge.thread_loop = loop_thread.loop
    uwsgi.atexit = loop_thread.end  # type: ignore[attr-defined]


def has_threads(options: dict[str, Any]) -> bool:
    """Tell whether uWSGI's options start Python's threads."""
    names = {name.decode() if isinstance(name, bytes) else name for name in options}
    return bool({"threads", "enable-threads"} & names)
