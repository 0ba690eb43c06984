"""Starts real servers, and speaks to them with real clients."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as sync_connect

from aiopyramid_uwsgi import build

HERE = Path(__file__).parent
# No test waits longer than this for what should happen at once.
PATIENCE = 30 * float(os.environ.get("AIOPYRAMID_TEST_PATIENCE", "1"))


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until ``condition`` gives something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE} s in vain until {what}")
        time.sleep(0.01)
    return result


def reserve_port() -> int:
    """
    Return a port on which a server may listen, and nobody else gets.

    The socket stays bound until this process ends. It does not listen, so that
    a server with SO_REUSEADDR can.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port: int = reserved.getsockname()[1]
    reserved.detach()
    return port


KEY = base64.b64encode(bytes(range(16))).decode()
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def frame(first_byte: int, payload: bytes = b"") -> bytes:
    """Make a client's frame, with the mask of zeros, which changes nothing."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([first_byte]) + length + bytes(4) + payload


class RawWebsocket:
    """A WebSocket without a client library."""

    def __init__(
        self, sock: socket.socket, path: str, headers: dict[str, str], early: bytes = b""
    ) -> None:
        self.socket = sock
        self.rest = b""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        head = {"Host": "x"} | HANDSHAKE | changed
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        sock.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode() + early)
        while b"\r\n\r\n" not in self.rest:
            data = sock.recv(65536)
            assert data, self.rest
            self.rest += data
        self.head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        self.status = int(self.head.split()[1])

    def __enter__(self) -> RawWebsocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bytes:
        """Read to the end of the stream."""
        try:
            while data := self.socket.recv(65536):
                self.rest += data
        except ConnectionResetError:
            pass
        return self.rest

    def receive(self) -> tuple[int, bytes]:
        """Read the next frame, and return its first byte and payload."""
        while not (cut := self._cut(self.rest)):
            data = self.socket.recv(65536)
            assert data, self.rest
            self.rest += data
        first_byte, payload, self.rest = cut
        return first_byte, payload

    @staticmethod
    def _cut(data: bytes) -> tuple[int, bytes, bytes] | None:
        if len(data) < 2:
            return None
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return None
        return data[0], data[start : start + size], data[start + size :]

    def frames(self) -> list[tuple[int, bytes]]:
        """Read to the end, and return first bytes and payloads of all frames."""
        rest = self.read()
        frames = []
        while cut := self._cut(rest):
            first_byte, payload, rest = cut
            frames.append((first_byte, payload))
        return frames

    def close_code(self) -> int | None:
        """Read to the end, and return the code of the server's close frame."""
        for first_byte, payload in self.frames():
            if first_byte == 0x88:
                return int.from_bytes(payload[:2], "big")
        return None


def closing(ws: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until a connection is closed, and return its code and reason."""
    with contextlib.suppress(ConnectionClosedError):
        for _ in ws:
            """What comes before the end."""
    return ws.close_code, ws.close_reason


def cookies(client: httpx.Client) -> dict[str, str]:
    """Return the header with which a WebSocket has the cookies of a client."""
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}


WORKER = "aiopyramid.gunicorn.worker.AsyncGunicornWorker"
LOOP_WORKER = "aiopyramid.gunicorn.worker.LoopGunicornWorker"


class Server:
    """
    A server process that runs one of the applications in ``apps``.

    Started, as a user does it, from the command line; stopped by its pid.
    """

    name = "gunicorn"
    listening = r"Listening at: https?://[\d.]+:(\d+)"
    keeps_connections = True
    up = "/up"  # answers 200 when the application is ready
    bind: tuple[str, ...] = ()  # options that say where to listen, if not on any port

    worker = WORKER

    def __init__(
        self, log: Path, tls: dict[str, Path] | None = None, worker: str | None = None
    ) -> None:
        self.log_file = log
        self.tls = tls
        self.worker = worker or self.worker
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    # The process.

    workers_started = "Booting worker"

    def options(self, workers: int = 1, graceful_timeout: int = 30, max_requests: int = 0) -> Any:
        """Give the options for what every server can do, in its own words."""
        options = ["--workers", workers, "--graceful-timeout", graceful_timeout]
        return [str(option) for option in [*options, "--max-requests", max_requests]]

    def command(self, app: str, args: list[str]) -> list[str]:
        command = [sys.executable, "-m", "gunicorn", "--worker-class", self.worker]
        command += [*(self.bind or ("--bind", "127.0.0.1:0")), "--no-control-socket"]
        # The clients keep their connections, and may be slower than the default.
        command += ["--keep-alive", str(int(PATIENCE))]
        command += ["--access-logfile", "-", "--pythonpath", str(HERE)]
        if self.tls is not None:
            command += ["--certfile", str(self.tls["cert"]), "--keyfile", str(self.tls["key"])]
        return [*command, *args, app]

    def launch(
        self,
        app: str = "apps.application:main()",
        args: list[str] | None = None,
        settings: dict[str, Any] | None = None,
        command: list[str] | None = None,
        cwd: Path = HERE,
        environ: dict[str, str] | None = None,
    ) -> None:
        env = dict(environ or os.environ, AIOPYRAMID_TEST_SETTINGS=json.dumps(settings or {}))
        env["PYTHONWARNINGS"] = "default"
        env["PYTHONFAULTHANDLER"] = "1"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command or self.command(app, args or []),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=env,
                cwd=cwd,
            )

    def wait_until_up(self) -> None:
        self.port = int(self.wait_for_log(self.listening).group(1))
        eventually(self.answers, "the server answers")

    def answers(self) -> bool:
        self.check_alive()
        try:
            with self.client(timeout=5) as client:
                return client.get(self.up).status_code == 200
        except httpx.TransportError:
            return False

    def check_alive(self) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")

    def children(self) -> set[int]:
        """Return the processes that the server has started, and that run."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return {int(child) for child in children.split()}

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.log)
            if match is None:
                self.check_alive()
            return match

        return eventually(found, f"the log says {pattern!r}")

    def signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the server did not stop:\n{self.abort()}") from None

    def abort(self) -> str:
        """Kill the server's processes, and return the log with what their threads did."""
        assert self.process is not None
        group = [self.process.pid]
        for pid in group:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                group += [int(child) for child in children.split()]
        for pid in group:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                # Python's faulthandler prints all stacks; the servers handle SIGABRT themselves.
                os.kill(pid, signal.SIGBUS)
                select.select([fd], [], [], 5)  # until it has ended
                os.kill(pid, signal.SIGKILL)
                os.close(fd)
        self.process.wait()
        return self.log[-20_000:]

    # Clients.

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=str(self.tls["cert"])) if self.tls else None

    def client(self, timeout: float = PATIENCE, **options: Any) -> httpx.Client:
        if not self.keeps_connections:
            # A client may write before it sees that the server has closed.
            options.setdefault("limits", httpx.Limits(max_keepalive_connections=0))
        return httpx.Client(
            base_url=self.url,
            timeout=timeout,
            verify=self.trust or True,
            trust_env=False,
            **options,
        )

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        options["limits"] = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            base_url=self.url,
            timeout=PATIENCE,
            verify=self.trust or True,
            trust_env=False,
            **options,
        )

    def connect(self, path: str, **options: Any) -> Any:
        """Open a WebSocket with the client of the websockets library."""
        return connect(self.ws_url(path), **self._ws_options(options))

    def sync_connect(self, path: str, **options: Any) -> Any:
        options = self._ws_options(options)
        if options["ssl"] is not None:
            # This client reads in a thread of its own, and OpenSSL sometimes loses what
            # is written while that thread reads the session tickets of TLS 1.3.
            options["ssl"].maximum_version = ssl.TLSVersion.TLSv1_2
        return sync_connect(self.ws_url(path), **options)

    def ws_url(self, path: str) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}{path}"

    def _ws_options(self, options: dict[str, Any]) -> dict[str, Any]:
        options.setdefault("open_timeout", PATIENCE)
        options.setdefault("proxy", None)
        options.setdefault("ssl", self.trust)
        return options

    def raw_websocket(self, path: str, **headers: str) -> RawWebsocket:
        """Open a WebSocket on a plain socket, to send what no client would."""
        return RawWebsocket(self.socket(), path, headers)

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def state(self) -> dict[str, Any]:
        """Ask the application what it has recorded."""
        with self.client() as client:
            return client.get("/state").json()

    def eventually_state(self, condition: Callable[[dict[str, Any]], Any], what: str) -> Any:
        return eventually(lambda: condition(self.state()), what)


class LoopRequestsServer(Server):
    """gunicorn with requests on the event loop."""

    worker = LOOP_WORKER


class UWSGIServer(Server):
    """uWSGI with request threads, as it comes from PyPI."""

    name = "uwsgi"
    keeps_connections = False
    listening = r"bound to TCP address 127\.0\.0\.1:(\d+)"

    mode: ClassVar[list[str]] = ["--threads", "8"]
    workers_started = "spawned uWSGI worker "

    def options(self, workers: int = 1, graceful_timeout: int = 60, max_requests: int = 0) -> Any:
        options = ["--processes", workers, "--worker-reload-mercy", graceful_timeout]
        options += ["--max-requests", max_requests, "--min-worker-lifetime", 0]
        return [str(option) for option in options]

    @staticmethod
    def executable() -> Path:
        return Path(sys.executable).with_name("uwsgi")

    def command(self, app: str, args: list[str]) -> list[str]:
        # An assigned port would be assigned anew by a reload.
        bind = self.bind or ("--http-socket", f"127.0.0.1:{reserve_port()}")
        command = [str(self.executable()), *bind, *self.mode]
        command += ["--master", "--need-app", "--die-on-term", "--pythonpath", str(HERE)]
        return [*command, *args, "--module", app]


class UWSGILoopServer(UWSGIServer):
    """uWSGI built with the plugins for its asyncio loop."""

    mode: ClassVar[list[str]] = ["--asyncio", "50", "--greenlet"]

    @staticmethod
    def executable() -> Path:
        return uwsgi_with_plugins()

    def command(self, app: str, args: list[str]) -> list[str]:
        return [*super().command(app, args), "--virtualenv", sys.prefix]


class GthreadServer(Server):
    """gunicorn with its own threads, and no event loop."""

    worker = "gthread"


class WaitressServer(Server):
    """waitress, which `pserve` runs as well."""

    name = "waitress"
    listening = r"Serving on http://127\.0\.0\.1:(\d+)"

    def options(self, **workers: int) -> Any:
        return []

    def command(self, app: str, args: list[str]) -> list[str]:
        command = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{reserve_port()}"]
        return [*command, *args, "--call", app.removesuffix("()")]


# Servers that run no event loop, and carry no WebSockets.
OTHERS: dict[str, tuple[type[Server], list[str]]] = {
    "gthread": (GthreadServer, ["--threads", "8"]),
    "waitress": (WaitressServer, ["--threads=8", "--connection-limit=1000"]),
}

VARIANTS: dict[str, tuple[type[Server], list[str]]] = {
    "gunicorn-uvloop": (Server, ["--asgi-loop", "uvloop"]),
    "gunicorn-asyncio": (Server, ["--asgi-loop", "asyncio"]),
    "gunicorn-loop": (LoopRequestsServer, []),
    "uwsgi-threads": (UWSGIServer, []),
    "uwsgi-uvloop": (UWSGILoopServer, ["--set", "aiopyramid-loop=uvloop"]),
    "uwsgi-asyncio": (UWSGILoopServer, ["--set", "aiopyramid-loop=asyncio"]),
}
# Where requests run makes no difference to a connection that is open.
WEBSOCKET_VARIANTS = [name for name in VARIANTS if name != "gunicorn-loop"]


@functools.cache
def uwsgi_with_plugins() -> Path:
    """Build uWSGI with the plugins; once for a version of it, Python and greenlet."""
    key = f"uwsgi-{metadata.version('uwsgi')}-greenlet-{metadata.version('greenlet')}"
    soabi = sysconfig.get_config_var("SOABI")
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    executable = folder / "aiopyramid" / f"{key}-{soabi}" / "uwsgi"
    if not executable.exists():
        with tempfile.TemporaryDirectory() as wheels:
            build.build(wheel_dir=Path(wheels))
            (wheel,) = Path(wheels).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (name for name in archive.namelist() if name.endswith("/uwsgi"))
                built = Path(archive.extract(member, wheels))
            built.chmod(0o755)
            executable.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(built, executable)
    return executable


NEEDS_TLS = "needs a uWSGI that was built with Debian's package libssl-dev"


@functools.cache
def uwsgi_has_tls() -> bool:
    command = [UWSGIServer.executable(), "--help"]
    return "--https " in subprocess.run(command, capture_output=True, text=True).stdout
