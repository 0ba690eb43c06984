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

OPTIONS = ("aiopyramid-loop", "aiopyramid-threads")


def is_loop_mode() -> bool:
    """
    Return True if uWSGI runs the event loop itself.

    Raises:
        pyramid.exceptions.ConfigurationError: If uWSGI runs in a way in which
            no coroutine can be waited for.
    """
    if not _is_main_interpreter():
        raise ConfigurationError(
            "uWSGI loads this application into an interpreter of its own, "
            "where neither signals nor greenlets work: set single-interpreter = true"
        )
    for name in uwsgi.opt:
        if name.startswith("aiopyramid-") and name not in OPTIONS:
            raise ConfigurationError(
                f"{name} is not an option of aiopyramid; its options are {' and '.join(OPTIONS)}"
            )
    engine = (uwsgi.loop or b"").decode()
    if engine == "asyncio":
        if "greenlet" not in uwsgi.opt:
            raise ConfigurationError(
                "uWSGI runs with asyncio, but its requests could not wait: set greenlet = true"
            )
        if number("threads") > 1:
            raise ConfigurationError(
                f"uWSGI runs with asyncio and threads = {number('threads')}, "
                "and crashes then: leave threads out"
            )
        if "http11-socket" in uwsgi.opt:
            raise ConfigurationError(
                "uWSGI with asyncio cannot keep connections: "
                "set http-socket in place of http11-socket"
            )
        return True
    if engine or "async" in uwsgi.opt:
        raise ConfigurationError(
            f"uWSGI runs with {engine or 'async'}, where coroutines cannot be waited for: {MODES}"
        )
    if "asyncio" in uwsgi.opt:
        raise ConfigurationError(
            "uWSGI ignores asyncio, because it was built without its plugins: "
            "set threads = N in its place, or build one that has them with aiopyramid-uwsgi build"
        )
    if not uwsgi.has_threads:
        raise ConfigurationError(f"uWSGI runs without threads, and coroutines need one: {MODES}")
    return False


def _is_main_interpreter() -> bool:
    try:
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1))
    except ValueError:
        return False
    return True


def obstacle(environ: dict[str, Any], local_address: Any) -> str:
    """
    Return what would keep a WebSocket from working after its handshake; empty if nothing does.

    Args:
        environ: The request's WSGI environ.
        local_address: The server's end of its connection, as the `socket` module has it.
    """
    if environ.get("UWSGI_ROUTER") == "http":
        if _router_lacks("http-websockets") and _router_lacks("http-raw-body"):
            return "uWSGI's router passes no frames on: set http-websockets = true"
    elif _is_tls_socket(local_address):
        return (
            "uWSGI encrypts this connection itself, so nobody else can write to it: "
            "replace https-socket by https and http-websockets = true"
        )
    return ""


def keeps_connections(environ: dict[str, Any]) -> bool:
    """Return True if another request may come on the connection of this one."""
    if "UWSGI_ROUTER" in environ:
        return not _router_lacks("http-keepalive")
    return "http11-socket" in uwsgi.opt


def loses_chunks(environ: dict[str, Any]) -> bool:
    """Return True if the chunks of a request's body do not arrive."""
    return (
        environ.get("UWSGI_ROUTER") == "http"
        and _router_lacks("http-chunked-input")
        and _router_lacks("http-raw-body")
    )


def _router_lacks(option: str) -> bool:
    # The router may run in a uWSGI of its own, whose options are not known here.
    return not ROUTERS.isdisjoint(uwsgi.opt) and option not in uwsgi.opt


# uWSGI's HTTP routers, and sockets of workers that speak TLS.
ROUTERS = {"http", "httprouter", "https", "https2"}
TLS = ("https-socket", "ssl-socket", "suwsgi-socket")


def _is_tls_socket(address: Any) -> bool:
    # Ports are unique; what has none is a Unix socket, or one that is known by a number.
    own = address if isinstance(address, str) else str(address[1])
    bound = [value.partition(",")[0] for name in TLS for value in _texts(name)]
    return any(each.rpartition(":")[2] in (own, "0") or each[0] == "=" for each in bound)


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


def needs_app() -> bool:
    """Return True if uWSGI exits when a worker says that it cannot load its application."""
    return bool(uwsgi.opt.get("lazy-apps") and uwsgi.opt.get("need-app"))


def may_recycle() -> bool:
    """Return True if uWSGI may want to recycle a worker."""
    return not RECYCLING.isdisjoint(uwsgi.opt)


RECYCLING = {"max-requests", "max-worker-lifetime", "reload-on-rss", "reload-on-as", "cheaper"}


def is_recycled() -> bool:
    """Return True if uWSGI wants to recycle this worker, as its options and counters say."""
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
