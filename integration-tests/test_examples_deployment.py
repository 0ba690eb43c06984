"""The files of docs/howto/deployment.rst: units of systemd, configurations, containers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fronts import NGINX, Nginx
from harness import PATIENCE, Server, closing, eventually, reserve_port
from websockets.exceptions import InvalidStatus

FOLDER = Path(__file__).parents[1] / "docs" / "examples" / "deployment"
SRV = "/srv/shop"
UNITS = {"gunicorn": "aiopyramid.service", "uwsgi": "aiopyramid-uwsgi.service"}
DOCKERFILES = {"gunicorn": "Dockerfile", "uwsgi": "Dockerfile.uwsgi"}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs Debian's package systemd"
)


def unit(name: str) -> dict[str, Any]:
    """Read a unit's section [Service], in which a name may come twice."""
    values: dict[str, Any] = {"Environment": []}
    for line in (FOLDER / UNITS[name]).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and key == "Environment":
            values[key].append(value)
        elif equals:
            values[key] = value
    return values


class Deployed(Server):
    """The shop, as a file of the documentation starts it."""

    up = "/up"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "server.log")
        self.folder = folder
        self.port = reserve_port()
        for name in ("shop.py", "gunicorn.conf.py", "uwsgi.ini"):
            shutil.copy(FOLDER / name, folder)
        text = (FOLDER / "production.ini").read_text()
        changes = {"egg:shop": "call:shop:main", "redis://127.0.0.1:6379/0": "memory://"}
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "production.ini").write_text(text)
        (folder / "venv").symlink_to(sys.prefix)

    def start(self, command: list[str], environ: dict[str, str], **options: Any) -> None:
        environ = dict(os.environ, PYTHONPATH=str(self.folder), WEB_CONCURRENCY="2", **environ)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environ, cwd=self.folder, **options
            )

    def connections(self, number: int, stack: contextlib.ExitStack) -> list[Any]:
        found = [stack.enter_context(self.sync_connect("/echo")) for _ in range(number)]
        for ws in found:
            ws.send("hello")
            assert ws.recv(timeout=PATIENCE) == "hello"
        return found


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    server = Deployed(tmp_path)
    yield server
    server.stop()


# systemd.


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_units_are_valid_and_harden(name: str, tmp_path: Path) -> None:
    executable = tmp_path / "venv/bin" / name
    executable.parent.mkdir(parents=True)
    executable.symlink_to("/bin/true")
    text = (FOLDER / UNITS[name]).read_text().replace(SRV, str(tmp_path))
    (tmp_path / UNITS[name]).write_text(text)
    shutil.copy(FOLDER / "aiopyramid.socket", tmp_path)
    units = [UNITS[name], *(["aiopyramid.socket"] if name == "gunicorn" else [])]
    checks = [
        ["systemd-analyze", "verify", *units],
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", UNITS[name]],
    ]
    for command in checks:
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Unknown" not in result.stderr
        assert "ignoring" not in result.stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_tells_reloads_and_stops(
    name: str, deployed: Deployed, tmp_path: Path
) -> None:
    service = unit(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, contextlib.ExitStack() as end:
        notify.bind(str(tmp_path / "notify"))
        listen = service["Environment"][0].replace("8000", str(deployed.port))
        environ = dict([listen.split("=")], NOTIFY_SOCKET=str(tmp_path / "notify"))
        command = shlex.split(service["ExecStart"].replace(SRV, str(tmp_path)))
        deployed.start(command, environ)

        told: list[bytes] = []

        def ready() -> bool:
            deployed.check_alive()
            while select.select([notify], [], [], 0)[0]:
                told.append(notify.recv(4096))
            return any(b"READY=1" in each for each in told)

        assert service["Type"] == "notify"
        eventually(ready, "it tells systemd that it is ready")
        eventually(deployed.answers, "it answers")
        before = deployed.connections(8, end)

        assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
        deployed.signal(signal.SIGHUP)
        assert [closing(ws)[0] for ws in before] == [1012] * len(before)
        eventually(deployed.answers, "it answers again")
        after = deployed.connections(8, end)

        assert service["KillMode"] == "mixed"  # SIGTERM for the main process alone
        deployed.signal(signal.SIGTERM)
        assert [closing(ws)[0] for ws in after] == [1001] * len(after)
        assert deployed.wait() == 0
    assert "Traceback" not in deployed.log
    assert "[aiopyramid.websocket] WebSocket /echo" in deployed.log


def test_a_stop_ends_before_systemd_kills() -> None:
    conf = re.search(r"^graceful_timeout = (\d+)", (FOLDER / "gunicorn.conf.py").read_text(), re.M)
    ini = re.search(r"^worker-reload-mercy = (\d+)", (FOLDER / "uwsgi.ini").read_text(), re.M)
    assert conf is not None
    assert ini is not None
    assert int(conf[1]) < int(unit("gunicorn")["TimeoutStopSec"])
    assert int(ini[1]) < int(unit("uwsgi")["TimeoutStopSec"])


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="needs Debian's package systemd"
)
@pytest.mark.parametrize("name", UNITS)
def test_both_take_a_socket_of_systemd(name: str, deployed: Deployed, tmp_path: Path) -> None:
    command = shlex.split(unit(name)["ExecStart"].replace(SRV, str(tmp_path)))
    if name == "uwsgi":
        ini = (tmp_path / "uwsgi.ini").read_text()
        changed = ini.replace("http-socket = $(LISTEN)", "protocol = http")
        assert changed != ini
        (tmp_path / "uwsgi.ini").write_text(changed)
    passed = [f"-E{each}" for each in ("PYTHONPATH", "WEB_CONCURRENCY", "LISTEN")]
    activate = ["systemd-socket-activate", *passed, "-l", f"127.0.0.1:{deployed.port}"]
    deployed.start([*activate, *command], {"LISTEN": "127.0.0.1:1"})
    eventually(deployed.answers, "it answers")
    with contextlib.ExitStack() as end:
        deployed.connections(2, end)


# Containers.


def dockerfile(name: str) -> dict[str, str]:
    """Read the last of each instruction."""
    text = (FOLDER / DOCKERFILES[name]).read_text().replace("\\\n", "")
    return {
        instruction: arguments.strip()
        for instruction, _, arguments in (line.partition(" ") for line in text.splitlines())
        if instruction.isupper()
    }


def variables(text: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in shlex.split(text))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_container_runs_is_healthy_and_stops(
    name: str, deployed: Deployed, tmp_path: Path
) -> None:
    steps = dockerfile(name)
    assert steps["USER"] == "shop"
    assert "useradd --system shop" in (FOLDER / DOCKERFILES[name]).read_text()
    # The form that runs no shell, which would not pass the signal on.
    command = json.loads(steps["CMD"])
    listen = variables(steps["ENV"])["LISTEN"]
    assert listen == f"0.0.0.0:{steps['EXPOSE']}"
    command[0] = str(tmp_path / "venv/bin" / command[0])
    deployed.start(command, {"LISTEN": f"127.0.0.1:{deployed.port}"})
    check = json.loads(steps["HEALTHCHECK"].partition("CMD")[2])
    check = [sys.executable, *(each.replace("8000", str(deployed.port)) for each in check[1:])]

    def healthy() -> bool:
        return subprocess.run(check, capture_output=True, timeout=PATIENCE).returncode == 0

    eventually(healthy, "it is healthy")
    deployed.signal(getattr(signal, steps["STOPSIGNAL"]))
    assert deployed.wait() == 0
    assert not healthy()


def test_both_containers_have_the_same_python() -> None:
    texts = [(FOLDER / name).read_text() for name in DOCKERFILES.values()]
    assert len({each for text in texts for each in re.findall(r"^FROM (\S+)", text, re.M)}) == 1


# nginx before two machines.


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs Debian's package nginx")
def test_a_full_worker_sends_clients_to_the_next_one(
    launch: Callable[..., Server], tmp_path: Path, tls_files: dict[str, Path]
) -> None:
    settings = {"aiopyramid.websocket.max_connections": 1}
    app = "apps.examples:deployed()"
    servers = [launch(app=app, settings=settings, wait=False) for _ in range(2)]
    for server in servers:
        server.up = "/up"
        server.wait_until_up()
    front = Nginx(tmp_path / "nginx.log", tls_files)
    front.up, front.port = "/up", reserve_port()
    text = (FOLDER / "nginx.conf").read_text()
    changes = {
        "10.0.0.1:8000": f"127.0.0.1:{servers[0].port}",
        "10.0.0.2:8000": f"127.0.0.1:{servers[1].port}",
        "443 ssl": f"127.0.0.1:{front.port} ssl",
        "/etc/ssl/shop.pem": str(tls_files["cert"]),
        "/etc/ssl/shop.key": str(tls_files["key"]),
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "site.conf").write_text(text)
    (tmp_path / "nginx.conf").write_text(NGINX.format(options=""))
    front.launch(command=["nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"])
    try:
        eventually(front.answers, "the front answers")
        origin = front.url
        with (
            front.sync_connect("/echo", origin=origin),
            front.sync_connect("/echo", origin=origin),
        ):
            with pytest.raises(InvalidStatus) as refused:
                front.sync_connect("/echo", origin=origin)
            assert refused.value.response.status_code == 503
            # The one that was full is still sent pages.
            with front.client() as client:
                assert [client.get("/up?after").status_code for _ in range(6)] == [200] * 6
            for server in servers:
                server.wait_for_log(r"GET /up\?after")
    finally:
        front.stop()
