"""Stand-ins for what gunicorn gives to its workers."""

from __future__ import annotations

import asyncio
import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from aiopyramid.homes import home_here
from aiopyramid.websocket.sessions import sessions
from aiopyramid_gunicorn.http1 import HTTP1Connection
from aiopyramid_gunicorn.protocol import HTTPProtocol
from aiopyramid_gunicorn.worker import LoopGunicornWorker


class Log:
    """gunicorn's logger, which remembers what it was told."""

    access_log_enabled = True

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.environs: list[dict[str, Any]] = []
        self.error_log = logging.getLogger("gunicorn.error")

    def access(self, response: Any, request: Any, environ: Any, time: Any) -> None:
        self.environs.append(environ)

    def __getattr__(self, level: str) -> Any:
        return lambda text, *args, **kwargs: self.lines.append((level, str(text) % args))


class Clock:
    """The running loop, whose timers go off when a test says so."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timers: list[Any] = []
        self.ahead = 0.0

    def time(self) -> float:
        return self.loop.time() + self.ahead

    def call_at(self, when: float, function: Any, *args: Any) -> Any:
        return self.call_later(when - self.time(), function, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    def call_later(self, delay: float, function: Any, *args: Any) -> Any:
        timer = SimpleNamespace(delay=delay, go_off=lambda: function(*args))
        timer.cancel = lambda: self.timers.remove(timer) if timer in self.timers else None
        self.timers.append(timer)
        return timer

    def go_off(self, delay: float) -> None:
        """Let the timers of this delay go off."""
        due = [timer for timer in self.timers if timer.delay == delay]
        assert due, f"no timer of {delay} s"
        self.ahead += delay
        for timer in due:
            timer.cancel()
            timer.go_off()

    def delays(self) -> list[float]:
        return sorted(timer.delay for timer in self.timers)


class Transport:
    """A connection's transport, which keeps what is written to it."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.written = b""
        self.closing = False
        self.closed = asyncio.Event()
        self.eof = False
        self.reading = True
        self.unsent = 0
        self.aborted = False
        protocol.connection_made(self)

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 1234), "sockname": ("127.0.0.1", 80)}.get(name)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def _lose(self) -> None:
        self.protocol.connection_lost(None)
        self.closed.set()

    async def until(self, text: bytes) -> None:
        """Let the loop turn until this was written."""
        while text not in self.written:
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def not_ending(monkeypatch):
    monkeypatch.setattr(sessions, "ending", None)


@pytest.fixture
def new_worker():
    """Make workers, with settings; close their files in the end."""
    workers = []

    def new_worker(kind=LoopGunicornWorker, wsgi=None, **settings):
        cfg = Config()
        for name, value in settings.items():
            cfg.set(name, value)
        worker = kind(1, os.getppid(), [], SimpleNamespace(wsgi=lambda: wsgi), 30, cfg, Log())
        worker.wsgi = wsgi
        workers.append(worker)
        return worker

    yield new_worker
    for worker in workers:
        worker.tmp.close()


PEER, SERVER = ("192.0.2.1", 1234), ("127.0.0.1", 80)


@pytest.fixture
async def connect(new_worker):
    """Connect to a worker that serves an application; close the connections in the end."""
    transports = []

    def connect(
        wsgi=None,
        worker=None,
        kind=LoopGunicornWorker,
        peer=PEER,
        http1=True,
        sock=None,
        **settings,
    ):
        if worker is None:
            worker = new_worker(kind, wsgi=wsgi, **settings)
            worker.loop, worker.home = Clock(), home_here()
            worker._start(4)
            worker._prepare()
        worker.nr_conns += http1  # gunicorn's own counts itself
        protocol = HTTP1Connection(worker, sock, peer, SERVER) if http1 else HTTPProtocol(worker)
        transports.append(Transport(protocol))
        return transports[-1]

    yield connect
    for transport in transports:
        transport.close()
        await transport.closed.wait()
        transport.protocol.worker._stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
