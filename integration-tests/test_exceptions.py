"""Exceptions in views: who sees them, and what the log says."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from harness import Server, eventually


@pytest.fixture(scope="module")
def app() -> str:
    return "apps.request_threads:main()"


def assert_server_error(server: Server, client: httpx.Client, path: str) -> None:
    if server.name == "gunicorn":
        assert client.get(path).status_code == 500
    else:  # uWSGI answers nothing
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(path)


@pytest.mark.parametrize("by", ["plain", "coroutine"])
def test_exception_views_have_a_current_exception(server: Server, by: str):
    with server.client() as client:
        answer = client.get(f"/handled?by={by}").json()
    assert answer == ([True, True, 0] if by == "plain" else [True] * 4)
    logged = server.wait_for_log(r"logged by an exception view\n(?:.*\n)*?.*Handled: " + by)
    assert "in handled" in logged.group()
    assert "NoneType: None" not in server.log


@pytest.mark.parametrize(
    ("path", "functions"),
    [
        ("/fails", ["fails", "helper"]),
        ("/fails_below_synchronize", ["fails_below_synchronize", "coroutine_helper", "helper"]),
    ],
)
def test_tracebacks_show_the_view_and_what_it_called(server: Server, path: str, functions: Any):
    before = len(server.log)
    with server.client() as client:
        assert_server_error(server, client, path)
    log = eventually(
        lambda: re.search(r"Traceback(?:.*\n)*?.*Oops: of the helper", server.log[before:]),
        "the error is logged",
    ).group()
    frames = re.findall(r", in (\w+)$", log, re.M)
    assert [name for name in frames if name in functions] == functions


@pytest.mark.parametrize("path", ["/exit", "/exit_async"])
def test_an_exit_ends_its_request_alone(server: Server, variant: str, path: str):
    if variant in ("uwsgi-uvloop", "uwsgi-asyncio"):
        pytest.skip("it ends the worker there, as documented and tested in test_uwsgi_differences")
    pid = server.state()["pid"]
    with server.client() as client:
        assert_server_error(server, client, path)
    assert server.state()["pid"] == pid
