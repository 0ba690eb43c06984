"""All plain code of a request runs in one thread, and its coroutines on the loop."""

from __future__ import annotations

import pytest
from harness import Server

APP = "apps.request_threads:main()"


@pytest.fixture(scope="session", params=["gunicorn-uvloop", "gunicorn-asyncio", "uwsgi-threads"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def app() -> str:
    return APP


def test_everything_from_middleware_to_close_runs_in_one_thread(server: Server):
    with server.client() as client:
        assert client.get("/thread").text == "body"
        seen = client.get("/seen").json()
    steps = "middleware tween view view tween response-callback finished-callback middleware"
    assert [what.replace(" ", "-") for what, _ in seen] == [
        *steps.split(),
        *("iteration", "iteration", "close"),
    ]
    assert len({thread for _, thread in seen}) == 1


def test_a_coroutine_s_plain_code_runs_in_its_request_s_thread(server: Server):
    with server.client() as client:
        assert client.get("/thread_of_coroutine").text == "body"
        seen = client.get("/seen").json()
    assert [what for what, _ in seen].count("called by a coroutine") == 4
    assert len({thread for _, thread in seen}) == 1


def test_coroutines_and_plain_code_nest_in_one_thread(server: Server):
    with server.client() as client:
        assert client.get("/nested").json() == [11, 1]


def test_context_variables_go_into_the_thread_and_back(server: Server):
    with server.client() as client:
        assert client.get("/context").json() == [
            "by the tween",
            "by the view",
            True,
            "by the request's thread",
        ]


def test_what_a_request_leaves_in_a_thread_does_not_reach_pyramid(server: Server):
    with server.client() as client:
        left = [client.get("/locals").json()[0] for _ in range(20)]
        # Threads are used again, and their thread-locals with them ...
        assert "left by another request" in left
        for _ in range(20):
            # ... but neither Pyramid's nor context variables.
            assert client.get("/pyramid_locals").json() == [True, "by the tween"]


def test_where_no_thread_waits_a_scope_error_names_use_executor(server: Server):
    with server.client() as client:
        assert client.get("/background").text == "begun"
        message = client.get("/background_result").text
    assert "no request's thread waits" in message
    assert "aiopyramid.helpers.use_executor" in message
    with server.sync_connect("/socket") as ws:
        assert ws.recv() == message
        ws.send("which thread?")
        assert ws.recv().startswith("aiopyramid")


def test_executor_calls_run_elsewhere(server: Server):
    with server.client() as client:
        assert client.get("/executor").text.startswith("aiopyramid")
