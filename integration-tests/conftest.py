from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres as postgresql
import pytest
import redis_server
import wheels
from certificates import make_certificate
from harness import OTHERS, VARIANTS, Server


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers for one test."""
    servers: list[Server] = []

    def start(
        *,
        tls: dict[str, Path] | None = None,
        worker: str | None = None,
        wait: bool = True,
        variant: str = "gunicorn-uvloop",
        args: list[str] | None = None,
        workers: dict[str, int] | None = None,
        **options: Any,
    ) -> Server:
        kind, variant_args = (VARIANTS | OTHERS)[variant]
        server = kind(tmp_path / f"server-{len(servers)}.log", tls, worker)
        options["args"] = [*variant_args, *server.options(**(workers or {})), *(args or [])]
        servers.append(server)
        server.launch(**options)
        if wait:
            server.wait_until_up()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session", params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """A server in one of the ways to run it; modules about one server override this."""
    return str(request.param)


@pytest.fixture(scope="module")
def app() -> str:
    """The application of a module's server; modules may override this."""
    return "apps.application:main()"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, variant: str, app: str) -> Iterator[Server]:
    """A server with an application, for all tests of a module."""
    kind, args = (VARIANTS | OTHERS)[variant]
    server = kind(tmp_path_factory.mktemp("server") / "server.log")
    server.launch(app=app, args=args)
    server.wait_until_up()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Postgres]:
    """A database server for all tests of a process."""
    binaries = postgresql.binaries()
    if binaries is None:
        pytest.skip(postgresql.NEEDS)
    server = postgresql.Postgres(binaries)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis() -> Iterator[redis_server.RedisServer]:
    """A Redis for all tests of a process."""
    executable = redis_server.executable()
    if executable is None:
        pytest.skip(redis_server.NEEDS)
    server = redis_server.RedisServer(executable)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for 127.0.0.1, which signs itself."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheels and sdists of all distributions."""
    folder = tmp_path_factory.mktemp("dist")
    wheels.build(folder)
    return folder
