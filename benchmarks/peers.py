"""The servers: what each is installed from, and how it is started."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
THREADS = 16  # of each server that has threads


@dataclass(frozen=True)
class Environment:
    """A virtual environment of a peer; without requirements, the one that runs this."""

    name: str = ""
    requirements: tuple[str, ...] = ()

    @property
    def prefix(self) -> Path:
        return HERE / ".environments" / self.name if self.requirements else Path(sys.prefix)

    def make(self) -> None:
        """Install what is required, unless that has been done."""
        done = self.prefix / "installed.txt"
        wanted = "\n".join((sys.version, *self.requirements))
        if not self.requirements or (done.exists() and done.read_text() == wanted):
            return
        print(f"installing {', '.join(self.requirements)}", flush=True)
        uv = str(Path(sys.executable).with_name("uv"))
        venv = [uv, "venv", "--quiet", "--clear", "--python", sys.executable]
        subprocess.run([*venv, str(self.prefix)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(self.prefix / "bin" / "python")]
        subprocess.run([*install, *self.requirements], check=True)
        done.write_text(wanted)

    @cache  # noqa: B019 - there are few
    def versions(self) -> dict[str, str]:
        """Return the versions of what is installed, by name."""
        paths = [str(path) for path in self.prefix.glob("lib/python*/site-packages")]
        found = metadata.distributions(path=paths)
        return {each.name.lower().replace("_", "-"): each.version for each in found}


def _like_own(*names: str) -> tuple[str, ...]:
    """Require the versions that aiopyramid runs with here."""
    return tuple(f"{name}=={metadata.version(name)}" for name in names)


OWN = Environment()
GUNICORN = Environment("gunicorn", _like_own("gunicorn", "pyramid"))
GEVENT = Environment("gevent", (*_like_own("gunicorn", "pyramid"), "gevent", "packaging"))
UWSGI = Environment("uwsgi", _like_own("pyramid", "uwsgi"))
WAITRESS = Environment("waitress", (*_like_own("pyramid"), "waitress"))
GRANIAN = Environment("granian", (*_like_own("pyramid"), "granian"))
A2WSGI = Environment("a2wsgi", (*_like_own("pyramid", "uvloop"), "a2wsgi", "httptools", "uvicorn"))
WEBSOCKETS = Environment("websockets", _like_own("uvloop", "websockets"))
UVICORN = Environment("uvicorn", (*_like_own("uvloop", "websockets"), "httptools", "uvicorn"))
AIOHTTP = Environment("aiohttp", (*_like_own("uvloop"), "aiohttp"))
PICOWS = Environment("picows", (*_like_own("uvloop"), "picows"))


@dataclass(frozen=True)
class Peer:
    """
    A server of a table.

    In its command, ``{bin}`` stands for the programs of its environment, and
    ``{port}`` for where it listens.
    """

    label: str
    environment: Environment
    command: tuple[str, ...]
    path: str = "/"


def gunicorn(
    label: str,
    worker: str,
    path: str = "/plain",
    *,
    threads: int = THREADS,
    workers: int = 1,
    environment: Environment = GUNICORN,
    app: str = "peer_applications:wsgi()",
) -> Peer:
    command = ["{bin}/python", "-m", "gunicorn", "--bind", "127.0.0.1:{port}"]
    command += ["--worker-class", worker, "--workers", str(workers), "--threads", str(threads)]
    command += ["--worker-connections", "20000", "--keep-alive", "60"]
    command += ["--no-control-socket", "--log-level", "error"]
    return Peer(label, environment, (*command, app), path)


def own_gunicorn(
    label: str,
    path: str,
    worker: str = "AsyncGunicornWorker",
    app: str = "application:main()",
    **kw: int,
) -> Peer:
    worker = f"aiopyramid.gunicorn.worker.{worker}"
    return gunicorn(label, worker, path, environment=OWN, app=app, **kw)


# uWSGI's sockets: one that keeps connections, and one that does not and says so, as wrk needs it.
# The header would spoil the answer to a WebSocket's handshake.
KEEPS = ("--http11-socket",)
CLOSES = ("--add-header", "Connection: close", "--http-socket")
UPGRADES = ("--http-socket",)


def uwsgi(
    label: str,
    path: str = "/plain",
    listen: tuple[str, ...] = KEEPS,
    *,
    threads: int = THREADS,
    workers: int = 1,
    environment: Environment = UWSGI,
    app: str = "peer_applications:wsgi()",
) -> Peer:
    command = ["{bin}/uwsgi", *listen, "127.0.0.1:{port}", "--listen", "1024", "--master"]
    command += ["--enable-threads", "--threads", str(threads), "--processes", str(workers)]
    command += ["--need-app", "--single-interpreter", "--die-on-term", "--disable-logging"]
    return Peer(label, environment, (*command, "--module", app), path)


def own_uwsgi(label: str, path: str, listen: tuple[str, ...] = KEEPS, **kw: int) -> Peer:
    return uwsgi(label, path, listen, environment=OWN, app="application:main()", **kw)


def waitress() -> Peer:
    command = ["{bin}/waitress-serve", "--listen", "127.0.0.1:{port}", "--threads", str(THREADS)]
    command += ["--connection-limit", "20000", "--call"]
    app = "peer_applications:wsgi_of_waitress"
    return Peer("waitress", WAITRESS, (*command, app), "/plain")


def granian() -> Peer:
    command = ["{bin}/granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--blocking-threads", str(THREADS), "--no-ws", "--no-log", "--factory"]
    return Peer("granian, WSGI", GRANIAN, (*command, "peer_applications:wsgi"), "/plain")


def uvicorn(label: str, environment: Environment, path: str, *args: str) -> Peer:
    command = ["{bin}/uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"]
    command += ["--http", "httptools", "--lifespan", "off", "--log-level", "error"]
    return Peer(label, environment, (*command, "--no-access-log", *args), path)


def a2wsgi() -> Peer:
    return uvicorn("uvicorn, a2wsgi", A2WSGI, "/plain", "--factory", "peer_applications:asgi")


def uvicorn_echo() -> Peer:
    args = ["--ws", "websockets-sansio", "--ws-per-message-deflate", "false"]
    return uvicorn("uvicorn", UVICORN, "/", *args, "peer_applications:asgi_echo")


def echo_server(label: str, name: str, environment: Environment) -> Peer:
    command = ("{bin}/python", str(HERE / "peer_applications.py"), name, "{port}")
    return Peer(label, environment, command)
