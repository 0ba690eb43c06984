"""What is about uWSGI alone."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest
from harness import HERE, Server, eventually
from test_websocket import closed_with


@pytest.fixture(scope="session", params=["uwsgi-threads"])
def variant(request):
    return request.param


def test_coroutine_views_run_on_the_loop_and_threaded_views_in_request_threads(server: Server):
    with server.client() as client:
        on_loop = client.get("/sleep?s=0").json()
        in_thread = client.get("/threaded").json()
        generator = client.get("/generator").json()
    assert on_loop == generator == {"thread": "aiopyramid-loop", "same": True}
    assert in_thread["thread"].startswith("uWSGI")
    assert in_thread["same"]
    assert in_thread["waited"] == "waited"


async def test_more_websockets_are_open_than_there_are_threads(server: Server):
    async with asyncio.TaskGroup() as group:
        everyone_is_in = asyncio.Barrier(50)

        async def talk(n: int) -> None:
            async with server.connect(f"/context?n={n}") as ws:
                await everyone_is_in.wait()
                await ws.send("here")
                assert await ws.recv() == f"True {n} here"

        for n in range(50):
            group.create_task(talk(n))


def test_uwsgi_without_threads_is_refused_at_the_start(launch, tmp_path):
    command = [str(Path(sys.executable).with_name("uwsgi")), "--http-socket", "127.0.0.1:0"]
    command += ["--need-app", "--pythonpath", str(HERE), "--module", "apps.application:main()"]
    server = launch(command=command, wait=False)
    assert server.wait() != 0
    assert "ConfigurationError: uWSGI runs without threads" in server.log
    assert "set enable-threads = true" in server.log


def test_a_reload_closes_with_1001(launch):
    """uWSGI does not tell its workers whether they stop or make room."""
    server = launch(variant="uwsgi-threads", coverage=False)
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        server.signal(signal.SIGHUP)
        assert closed_with(ws).code == 1001
    # An assigned port is assigned anew.
    ports = eventually(lambda: re.findall(server.listening, server.log)[1:], "uWSGI listens again")
    server.port = int(ports[0])
    eventually(server.answers, "the new worker answers")


def test_on_close_runs_when_the_server_reloads(launch):
    server = launch(app="apps.closing:main()", variant="uwsgi-threads", coverage=False)
    with server.sync_connect("/waiting") as ws:
        assert ws.recv() == "opened"
        server.signal(signal.SIGHUP)
        assert closed_with(ws).code == 1001
    server.wait_for_log("on_close ran: 1001")
