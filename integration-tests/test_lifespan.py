"""Lifespans and background tasks, and the loop on which they run, under each server."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest
from harness import Server, eventually
from test_websocket import closed_with

APP = "apps.lifespan:main()"
SLOW_END = 3


def said(server: Server, pid: int) -> list[str]:
    """Return what the application has said in a process."""
    return re.findall(rf"^\[(.*) in {pid}\]$", server.log, re.MULTILINE)


def pid_of(server: Server) -> int:
    with server.client() as client:
        answer = client.get("/up").json()
    assert answer["same"]
    return int(answer["pid"])


BEGIN = ["enter first", "enter second", "task begins"]
END = ["task ends", "leave second", "leave first"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_they_are_entered_before_the_first_request_and_left_after_the_last_connection(
    launch: Callable[..., Server], variant: str, signum: int
) -> None:
    server = launch(variant=variant, app=APP)
    pid = pid_of(server)
    assert said(server, pid) == BEGIN
    with server.sync_connect("/ws") as ws:
        assert ws.recv() == "True"
        server.signal(signum)
        assert closed_with(ws).code == 1001
    assert server.wait() == 0
    assert said(server, pid) == [*BEGIN, "view ends", *END]
    assert "Traceback" not in server.log


def test_each_worker_has_its_own(launch: Callable[..., Server], variant: str) -> None:
    server = launch(variant=variant, app=APP, workers={"workers": 2})
    eventually(lambda: server.log.count("[task begins in") == 2, "both workers have begun")
    pids = set(re.findall(r"task begins in (\d+)", server.log))
    assert len(pids) == 2
    answered: set[str] = set()
    # A signal that reaches uWSGI's asyncio plugin before it serves ends the process at once.
    eventually(lambda: answered.add(str(pid_of(server))) or answered == pids, "both serve")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    for pid in pids:
        assert said(server, int(pid)) == [*BEGIN, *END]


def test_a_reload_leaves_and_enters_them(launch: Callable[..., Server], variant: str) -> None:
    server = launch(variant=variant, app=APP)
    old = pid_of(server)
    server.signal(signal.SIGHUP)
    eventually(lambda: said(server, old)[-1:] == END[-1:], "the old worker has left them")
    eventually(lambda: server.log.count("[task begins in") == 2, "the new worker has begun")
    eventually(server.answers, "the server answers")
    assert said(server, old) == [*BEGIN, *END]
    assert said(server, pid_of(server)) == BEGIN


def test_a_failure_stops_the_server_with_one_traceback(
    launch: Callable[..., Server], variant: str
) -> None:
    lazy = ["--lazy-apps"] if variant.startswith("uwsgi") else []
    for args in {(), tuple(lazy)}:
        server = launch(
            variant=variant, app=APP, settings={"enter": "fails"}, wait=False, args=list(args)
        )
        status = server.wait()
        if variant.startswith("gunicorn"):
            assert status == 3
        else:
            # uWSGI's master has no other way to say that workers cannot begin.
            assert status == (22 if args else 0)
        assert server.log.count("ValueError: no database") == 1
        assert server.log.count("ifespan could not be entered") == 1
        assert server.log.count("[enter first in") == server.log.count("[enter second in") == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_slow_end_is_bounded_by_the_graceful_timeout(
    launch: Callable[..., Server], variant: str, signum: int
) -> None:
    server = launch(
        variant=variant,
        app=APP,
        settings={"leave": "hangs"},
        workers={"graceful_timeout": SLOW_END},
    )
    pid = pid_of(server)
    server.signal(signum)
    assert server.wait() == 0
    assert said(server, pid)[len(BEGIN) :] == ["task ends", "leaving", "leave first"]
    assert "the lifespan of apps did not end within" in server.log


def test_an_application_can_wait_while_it_is_loaded(
    launch: Callable[..., Server], variant: str
) -> None:
    lazy = ["--lazy-apps"] if variant.startswith("uwsgi") else []
    server = launch(variant=variant, app=APP, settings={"wait": True}, args=lazy)
    pid = pid_of(server)
    assert said(server, pid) == ["loading waited", *BEGIN]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert said(server, pid)[1:] == [*BEGIN, *END]


def test_an_application_that_is_loaded_before_the_fork_cannot_wait(
    launch: Callable[..., Server], variant: str
) -> None:
    preload = ["--preload"] if variant.startswith("gunicorn") else []
    server = launch(variant=variant, app=APP, settings={"wait": True}, args=preload, wait=False)
    assert server.wait() != 0
    assert "ScopeError: wait cannot be waited for here" in server.log
    assert "config.add_lifespan(factory)" in server.log
    assert "never awaited" not in server.log


def test_an_application_that_is_loaded_before_the_fork_has_lifespans(
    launch: Callable[..., Server], variant: str
) -> None:
    preload = ["--preload"] if variant.startswith("gunicorn") else []
    server = launch(variant=variant, app=APP, args=preload)
    assert said(server, pid_of(server)) == BEGIN


def test_a_background_task_begins_again(launch: Callable[..., Server], variant: str) -> None:
    server = launch(variant=variant, app=APP)
    with server.client() as client:
        pid = client.get("/break_task").json()["pid"]
    eventually(lambda: len(said(server, pid)) == 5, "the task has begun again")
    assert said(server, pid) == [*BEGIN, "task ends", "task begins"]
    assert server.log.count("ValueError: the task is broken") == 1
    assert "Background task task failed, and begins again in 1 s" in server.log
    assert pid_of(server) == pid


def test_a_background_task_can_make_room_for_another_worker(
    launch: Callable[..., Server], variant: str
) -> None:
    server = launch(variant=variant, app=APP, settings={"on_error": "stop"})
    with server.client() as client:
        pid = client.get("/break_task").json()["pid"]
    eventually(lambda: server.log.count("[task begins in") == 2, "another worker has begun")
    eventually(server.answers, "the server answers")
    assert pid_of(server) != pid
    assert said(server, pid) == [*BEGIN, *END]
    assert server.log.count("ValueError: the task is broken") == 1


def test_a_start_that_takes_long_can_be_stopped(launch: Callable[..., Server]) -> None:
    server = launch(app=APP, settings={"enter": "hangs"}, wait=False)
    server.wait_for_log(r"\[enter second in")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "[leave first in" in server.log  # what had been entered
