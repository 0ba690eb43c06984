"""
An application for 0.4, after the changes that ``docs/howto/migrating.rst`` lists.

And the same application as it would be written now: ``rewritten``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from apps.release04 import migration
from harness import WORKER, Server, UWSGILoopServer, UWSGIServer
from websockets.exceptions import InvalidStatus


def pserve(ini: Path) -> list[str]:
    # Pyramid's own command, which reads [server:main].
    code = "import sys, pyramid.scripts.pserve as p; sys.exit(p.main())"
    return [sys.executable, "-c", code, str(ini)]


def gunicorn_paste(ini: Path) -> list[str]:
    options = ["-k", WORKER, "-b", "127.0.0.1:0", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", "--paste", str(ini), *options]


def uwsgi_with_plugins(ini: Path) -> list[str]:
    return [str(UWSGILoopServer.executable()), "--virtualenv", sys.prefix, "--ini-paste", str(ini)]


def uwsgi_as_installed(ini: Path) -> list[str]:
    return [str(UWSGIServer.executable()), "--ini-paste", str(ini)]


REWRITTEN = migration.ORIGINAL.with_name("rewritten")
STYLES = [*migration.STYLES, "rewritten"]

# Ways to start a server.
SERVERS: dict[str, tuple[type[Server], Callable[[Path], list[str]]]] = {
    "gunicorn-pserve": (Server, pserve),
    "gunicorn-paste": (Server, gunicorn_paste),
    "uwsgi-asyncio": (UWSGILoopServer, uwsgi_with_plugins),
    "uwsgi-threads": (UWSGIServer, uwsgi_as_installed),
}
# The ini file is for one of uWSGI's modes, and is changed for the other.
LOOP = migration.Change("", "development.ini", "threads = 50\n", "asyncio = 50\ngreenlet = true\n")
OTHER_MODE = {
    "uwsgi-asyncio": {"rewritten": [LOOP]},
    "uwsgi-threads": {style: [migration.THREADS] for style in migration.STYLES},
}


def set_up(project: Path, style: str, server: str = "") -> dict[str, str]:
    """Write the project, and return the environment in which it counts as installed."""
    more = OTHER_MODE.get(server, {}).get(style, [])
    if style == "rewritten":
        shutil.copytree(REWRITTEN, project, dirs_exist_ok=True)
        ini = project / "development.ini"
        text = ini.read_text()
        for change in [*migration.HERE, *more]:
            assert text.count(change.old) == 1, change
            text = text.replace(change.old, change.new)
        ini.write_text(text)
    else:
        migration.migrate(project, style, [*migration.HERE, *more])
    command = [sys.executable, "setup.py", "-q", "egg_info"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    return os.environ | {"PYTHONPATH": str(project)}


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request, style: str, tmp_path_factory) -> Iterator[Server]:
    """A server that the project's own ini file configures."""
    kind, command_for = SERVERS[request.param]
    project = tmp_path_factory.mktemp("roombook")
    path = set_up(project, style, request.param)["PYTHONPATH"]
    server = kind(project / "server.log")
    server.up = "/"
    command = ["/usr/bin/env", f"PYTHONPATH={path}", *command_for(project / "development.ini")]
    server.launch(command=command, cwd=project)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()


def test_the_page_says_what_is_changed():
    page = migration.words(migration.PAGE.read_text())
    assert [said for said in migration.sayings() if said not in page] == []


def lines_of_code(folder: Path) -> int:
    """Count the lines of all files, without blank ones and comments."""
    files = [file for file in folder.rglob("*.*") if file.suffix in (".ini", ".py", ".txt")]
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_the_rewritten_application_is_shorter():
    before, after = lines_of_code(migration.ORIGINAL), lines_of_code(REWRITTEN)
    print(f"lines of code: {before} as written for 0.4, {after} as rewritten")
    assert after < before


def test_the_projects_own_tests(style: str, tmp_path: Path):
    env = set_up(tmp_path, style) | {"PYTHONWARNINGS": "default"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "roombook/tests.py"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "3 passed" in result.stdout, result.stdout + result.stderr
    assert result.returncode == 0
    assert "never awaited" not in result.stdout + result.stderr


def test_its_requirements_are_distributions_of_this_release(style: str, tmp_path: Path):
    set_up(tmp_path, style)
    (project,) = metadata.distributions(path=[str(tmp_path)])
    assert project.requires is not None
    for name in project.requires:
        assert metadata.version(name)


@contextlib.contextmanager
def logged_in(server: Server, name: str) -> Iterator[httpx.Client]:
    with server.client() as client:
        response = client.post("/login", data={"name": name})
        assert (response.status_code, response.headers["location"]) == (302, f"{server.url}/whoami")
        yield client


def test_coroutine_views(server: Server):
    with server.client() as client:
        assert client.get("/").json() == {"rooms": ["attic", "cellar"]}
        assert client.get("/search?q=tt").json() == {"found": ["attic"]}
        assert client.get("/plan").text.startswith("days booked: ")
        assert client.get("/prices").json() == {"total": 30}
        assert client.get("/printout").text == "attic, cellar"
        assert client.get("/occupancy").json()["cellar"][0] == "monday"


def test_plain_views(server: Server):
    with server.client() as client:
        response = client.get("/blocking")
        assert response.json() == {
            "blocks the loop": False,
            "number": int(response.headers["x-number"]),
        }
        response = client.post("/settings", data={"colour": "rot & grün"})
        assert (response.status_code, response.headers["location"]) == (
            302,
            f"{server.url}/settings",
        )
        assert client.get("/settings").json() == {"colour": "rot & grün"}


def test_authentication(server: Server):
    with server.client() as client:
        nobody = client.get("/whoami").json()
    assert nobody == {"claimed": None, "userid": None, "principals": ["system.Everyone"]}
    with logged_in(server, "john") as client:
        assert client.get("/whoami").json() == {
            "claimed": "john",
            "userid": "john",
            "principals": ["system.Everyone", "system.Authenticated", "john", "group:staff"],
        }
        assert client.get("/logout").status_code == 302
        assert client.get("/whoami").json() == nobody
    with logged_in(server, "eve") as client:  # whom the callback does not know
        assert client.get("/whoami").json() == nobody | {"claimed": "eve"}


def test_traversal_and_permissions(server: Server):
    with server.client() as client:
        assert client.get("/attic").json()["name"] == "attic"
        assert client.get("/nowhere").status_code == 404
        assert client.get("/archive/2014").json() == {"2014": 311}
        assert client.get("/archive/1999").status_code == 404
        refused = client.post("/cellar/book", data={"day": "friday"})
        assert (refused.status_code, refused.json()) == (403, {"sorry": "/cellar/book"})
    with logged_in(server, "mary") as client:
        assert client.post("/cellar/book", data={"day": "friday"}).status_code == 403
    with logged_in(server, "john") as client:
        booked = client.post("/cellar/book", data={"day": "friday"})
        assert booked.json() == {"monday": "mary", "friday": "john"}
        taken = client.post("/cellar/book", data={"day": "monday"})
        assert (taken.status_code, taken.json()) == (409, {"taken by": "mary"})


def test_tweens(server: Server):
    with logged_in(server, "john") as client:
        client.get("/printout?audited")
        audit = client.get("/state").json()["audit"]
    start = audit.index("GET /printout", -8)
    assert audit[start:] == ["GET /printout", "/printout 200 john", "GET /state"]


async def test_requests_run_side_by_side(server: Server):
    async with server.async_client() as client:
        responses = await asyncio.gather(*(client.get("/") for _ in range(20)))
    assert [response.status_code for response in responses] == [200] * 20
    assert len({response.headers["x-number"] for response in responses}) == 20


def test_a_websocket_function(server: Server):
    with server.sync_connect("/ask") as ws:
        for day in ("sunday", "monday", "grüner Donnerstag"):
            ws.send(json.dumps({"day": day}))
            assert json.loads(ws.recv()) == {"free": day != "sunday"}


def test_a_websocket_class(server: Server):
    def watchers(number: int) -> None:
        server.eventually_state(lambda state: state["watchers"] == number, f"{number} watch")

    with server.sync_connect("/watch/cellar") as ws, server.sync_connect("/watch/attic") as other:
        watchers(2)
        ws.send("monday")
        assert ws.recv() == "monday: mary"
        with logged_in(server, "john") as client:
            assert client.post("/cellar/book", data={"day": "sunday"}).status_code == 200
            assert ws.recv() == "john has booked sunday"
            assert client.post("/attic/book", data={"day": "monday"}).status_code == 200
            assert other.recv() == "john has booked monday"
    watchers(0)
    with server.sync_connect("/watch/cellar") as ws:
        watchers(1)
        ws.socket.close()  # no closing handshake
    watchers(0)


def test_the_page_of_a_websocket(server: Server, style: str):
    with server.client() as client:
        assert client.get("/ask").status_code == 426
        page = client.get("/watch/cellar")
        if style == "rewritten":  # the page is on the same route
            assert page.json() == client.get("/cellar").json()
        else:
            assert page.status_code == 426


def test_a_websocket_class_without_the_base(server: Server):
    with server.sync_connect("/farewell") as ws:
        ws.send("john")
        assert ws.recv() == "hello john"
        ws.send("bye")
        assert ws.recv() == "goodbye john"
    with server.sync_connect("/farewell") as ws:
        ws.send("mary")
        assert ws.recv() == "hello mary"
    server.eventually_state(lambda state: state["farewells"] == ["mary"], "mary has left")


def test_pages_of_other_origins(server: Server):
    for origin in (server.url, "https://intranet.example.com"):
        with server.sync_connect("/ask", origin=origin) as ws:
            ws.send('{"day": "monday"}')
            assert json.loads(ws.recv()) == {"free": True}
    with (
        pytest.raises(InvalidStatus, match="403"),
        server.sync_connect("/ask", origin="https://elsewhere.example.com"),
    ):
        pass
    with server.sync_connect("/ask"):  # the server goes on
        pass


def test_nothing_was_logged_as_an_error(server: Server):
    assert "Traceback" not in server.log
    assert "never awaited" not in server.log
