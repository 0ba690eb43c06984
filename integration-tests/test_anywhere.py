"""Coroutines where no server of ours runs: Pyramid's own commands, other servers, scripts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import HANDSHAKE, HERE, OTHERS, Server, WaitressServer, eventually, reserve_port
from test_lifespan import BEGIN, END, pid_of, said

APP = "apps.lifespan:main()"
# What serves no requests has no background tasks.
WITHOUT_TASKS = [*BEGIN[:2], *END[1:]]


@pytest.fixture(params=list(OTHERS))
def other(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """An ini file with an application that has lifespans."""
    path = tmp_path / "development.ini"
    path.write_text(f"""
[app:main]
paste.app_factory = apps.lifespan:paste_main

[server:main]
use = egg:waitress#main
listen = 127.0.0.1:{reserve_port()}
""")
    return path


def run(*command: object, text: str = "") -> list[str]:
    """Run one of Pyramid's commands, or a script; return what it prints, without our own lines."""
    result = subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore"},
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    events = re.findall(r"^(?:>>> )?\[(.*) in \d+\]$", result.stderr, re.MULTILINE)
    return [*events, result.stdout.strip()]


def command(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def test_lifespans_are_entered_by_the_first_request_and_left_at_the_end(
    launch: Callable[..., Server], other: str
) -> None:
    server = launch(variant=other, app=APP)
    pid = pid_of(server)
    assert said(server, pid) == BEGIN
    # waitress ends without a word for SIGTERM.
    server.signal(signal.SIGINT)
    server.wait()
    assert said(server, pid) == [*BEGIN, *END]
    assert "Traceback" not in server.log


def test_an_application_can_wait_while_it_is_loaded(
    launch: Callable[..., Server], other: str
) -> None:
    server = launch(variant=other, app=APP, settings={"wait": True})
    assert said(server, pid_of(server)) == ["loading waited", *BEGIN]


def test_each_process_of_a_server_that_preloads_has_a_loop_of_its_own(
    launch: Callable[..., Server],
) -> None:
    server = launch(
        variant="gthread",
        app=APP,
        settings={"wait": True},
        args=["--preload"],
        workers={"workers": 2},
    )
    pids: set[int] = set()
    eventually(lambda: pids.add(pid_of(server)) or len(pids) == 2, "both workers answer")
    for pid in pids:
        assert said(server, pid) == BEGIN
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    for pid in pids:
        assert said(server, pid) == [*BEGIN, *END]


def test_the_first_request_of_many_enters_them_once(
    launch: Callable[..., Server], other: str
) -> None:
    server = launch(variant=other, app=APP, settings={"enter": "fails once"}, wait=False)
    server.port = int(server.wait_for_log(server.listening).group(1))
    with server.client() as client:
        assert client.get("/up").status_code == 500
        assert client.get("/up").status_code == 200
    assert server.log.count("ValueError: no database") >= 1
    assert server.log.count("[task begins in") == 1


def test_websockets_are_answered_with_what_to_use(
    launch: Callable[..., Server], other: str
) -> None:
    server = launch(variant=other, app=APP)
    with server.client() as client:
        response = client.get("/ws", headers=HANDSHAKE)
    assert response.status_code == 501
    assert "gunicorn -k aiopyramid.gunicorn.worker.AsyncGunicornWorker" in response.text
    assert "or uWSGI with aiopyramid-uwsgi" in response.text


def test_a_request_thread_is_that_of_the_server(launch: Callable[..., Server], other: str) -> None:
    server = launch(variant=other, app=APP)
    with server.client() as client:
        threads = client.get("/threads").json()
    assert threads["coroutine"] == "aiopyramid-loop"
    assert threads["plain"] == threads["request"] != "aiopyramid-loop"


def test_pserve_reloads_an_application_with_coroutines(ini: Path, tmp_path: Path) -> None:
    server = WaitressServer(tmp_path / "pserve.log")
    watched = tmp_path / "watched"
    watched.touch()
    ini.write_text(ini.read_text() + f"\n[pserve]\nwatch_files = {watched}\n")
    env = [f"PYTHONPATH={HERE}", "AIOPYRAMID_TEST_SETTINGS={}"]
    server.listening = r"Starting server in PID (\d+)"
    server.launch(command=["/usr/bin/env", *env, str(command("pserve")), "--reload", str(ini)])
    try:
        server.wait_for_log(server.listening)
        server.port = int(re.search(r":(\d+)", ini.read_text()).group(1))
        eventually(server.answers, "the server answers")
        first = pid_of(server)

        def has_begun() -> bool:
            if "reloading" not in server.log:  # pserve may begin to look later
                watched.write_text(server.log)
            return server.log.count("Starting server in") == 2

        eventually(has_begun, "the new server has begun")
        eventually(server.answers, "the new server answers")
        assert said(server, pid_of(server)) == BEGIN
        assert pid_of(server) != first
    finally:
        server.stop()


@pytest.mark.parametrize("path", ["/up", "/plain"])
def test_prequest(ini: Path, path: str) -> None:
    *events, printed = run(command("prequest"), ini, path)
    assert events == [*BEGIN, *END]
    assert ('"same":true' if path == "/up" else '"loop":') in printed


def test_pshell(ini: Path) -> None:
    lines = [
        "from pyramid.request import Request",
        "print(app.invoke_subrequest(Request.blank('/up')).json['same'])",
        "print(app.invoke_subrequest(Request.blank('/threads')).json['request'])",
    ]
    *events, printed = run(command("pshell"), ini, text="\n".join(lines))
    assert events == WITHOUT_TASKS
    assert "True" in printed
    assert "MainThread" in printed


def test_a_script(ini: Path) -> None:
    *events, printed = run(sys.executable, HERE / "apps" / "script.py", ini)
    assert events == WITHOUT_TASKS
    assert printed == "lifespans are entered: True"


@pytest.mark.parametrize("name", ["proutes", "pviews", "ptweens"])
def test_commands_that_only_look_start_no_loop(ini: Path, name: str) -> None:
    *events, printed = run(command(name), ini, *(["/up"] if name == "pviews" else []))
    assert events == []
    assert printed
