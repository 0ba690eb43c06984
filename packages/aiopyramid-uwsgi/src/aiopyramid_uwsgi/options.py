"""What uWSGI's options mean for coroutines, and which of them cannot be."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import uwsgi
from pyramid.exceptions import ConfigurationError

MODES = (
    "set threads = N for N requests at a time on uWSGI as it is installed, or "
    "asyncio = N and greenlet = true on uWSGI with its asyncio plugins "
    "(aiopyramid-uwsgi tells which it is, and builds it)"
)


def is_loop_mode() -> bool:
    """
    Tell whether uWSGI runs the event loop itself.

    Raises:
        pyramid.exceptions.ConfigurationError: If uWSGI runs in a way in which
            no coroutine can be waited for.
    """
    if not _is_main_interpreter():
        raise ConfigurationError(
            "uWSGI loads this application into an interpreter of its own, "
            "where neither signals nor greenlets work: set single-interpreter = true"
        )
    engine = (uwsgi.loop or b"").decode()
    if engine == "asyncio":
        if "greenlet" not in uwsgi.opt:
            raise ConfigurationError(
                "uWSGI runs with asyncio, but its requests could not wait: set greenlet = true"
            )
        return True
    if engine or "async" in uwsgi.opt:
        raise ConfigurationError(
            f"uWSGI runs with {engine or 'async'}, where coroutines cannot be waited for: {MODES}"
        )
    if not uwsgi.has_threads:
        raise ConfigurationError(f"uWSGI runs without threads, and coroutines need one: {MODES}")
    return False


def tls_sockets() -> list[str]:
    """Return the addresses where uWSGI's workers themselves do TLS."""
    return [
        value.partition(",")[0]
        for name in ("https-socket", "suwsgi-socket", "ssl-socket")
        for value in _texts(name)
    ]


def _is_main_interpreter() -> bool:
    try:
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1))
    except ValueError:
        return False
    return True


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """
    Return what makes the loop that is asked for, or uvloop's where it is installed.

    Raises:
        pyramid.exceptions.ConfigurationError: If there is no such loop.
    """
    name = _text("aiopyramid-loop", "")
    if name not in ("", "asyncio", "uvloop"):
        raise ConfigurationError(f"aiopyramid-loop = {name} must be asyncio or uvloop")
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name:
                raise ConfigurationError(
                    "aiopyramid-loop = uvloop, which is not installed: pip install uvloop"
                ) from None
        else:
            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return asyncio.new_event_loop


def executor_threads() -> int:
    """
    Return how many threads the loop's executor may have.

    Raises:
        pyramid.exceptions.ConfigurationError: If it is no positive number.
    """
    value = _text("aiopyramid-threads", str(min(uwsgi.cores, 64)))
    if not value.isdecimal() or int(value) < 1:
        raise ConfigurationError(f"aiopyramid-threads = {value} must be a positive number")
    return int(value)


def _texts(name: str) -> list[str]:
    values: Any = uwsgi.opt.get(name, [])
    if not isinstance(values, list):
        values = [values]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _text(name: str, default: str) -> str:
    return [default, *_texts(name)][-1]  # as uWSGI, the last one


def number(name: str, default: int = 0) -> int:
    """Return the value of one of uWSGI's own options."""
    return int(_text(name, str(default)))


def mercy() -> int:
    """Return how long uWSGI waits for a worker that has to end, in seconds."""
    return number("worker-reload-mercy", 60)


def this_worker() -> dict[str, Any]:
    """Return what uWSGI says of this worker."""
    workers: Any = uwsgi.workers()
    worker: dict[str, Any] = workers[uwsgi.worker_id() - 1]
    return worker


def may_recycle() -> bool:
    """Tell whether uWSGI may want to recycle a worker."""
    return not RECYCLING.isdisjoint(uwsgi.opt)


RECYCLING = {"max-requests", "max-worker-lifetime", "reload-on-rss", "reload-on-as", "cheaper"}


def is_recycled() -> bool:
    """Tell whether uWSGI wants to recycle this worker, as its options and counters say."""
    me = this_worker()
    age = time.time() - me["last_spawn"]
    nth = uwsgi.worker_id() - 1

    def reached(value: float, limit: int, delta: int = 0) -> bool:
        return limit > 0 and value >= limit + nth * delta

    if me["status"] == b"cheap":
        return True
    if reached(age, number("max-worker-lifetime"), number("max-worker-lifetime-delta")):
        return True
    return age >= number("min-worker-lifetime", 60) and (
        reached(me["delta_requests"], number("max-requests"), number("max-requests-delta"))
        or reached(me["rss"], number("reload-on-rss") << 20)
        or reached(me["vsz"], number("reload-on-as") << 20)
    )
