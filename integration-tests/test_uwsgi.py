"""uWSGI with request threads: the same application as under gunicorn."""

from __future__ import annotations

import asyncio
import signal

import pytest
from apps.application import CHUNK
from harness import Server, UWSGIServer, frame
from test_websocket import closed_with, recorded
from websockets.exceptions import InvalidStatus


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = UWSGIServer(tmp_path_factory.mktemp("uwsgi") / "server.log")
    server.launch()
    server.wait_until_up()
    yield server
    server.stop()


def test_coroutine_views_run_on_the_loop_and_threaded_views_in_request_threads(server: Server):
    with server.client() as client:
        on_loop = client.get("/sleep?s=0").json()
        in_thread = client.get("/threaded").json()
        generator = client.get("/generator").json()
    assert on_loop == generator == {"thread": "aiopyramid-loop", "same": True}
    assert in_thread["thread"].startswith("uWSGI")
    assert in_thread["same"]
    assert in_thread["waited"] == "waited"


async def test_each_of_many_mixed_requests_sees_itself(server: Server):
    paths = ["/sleep?s=0.01", "/generator", "/threaded?s=0.01", "/value_error"]
    async with server.async_client() as client:
        responses = await asyncio.gather(*(client.get(path) for path in paths * 10))
    assert all(response.json()["same"] for response in responses)


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * 2**20])
def test_a_body_of_any_size_is_read_in_a_coroutine_view(server: Server, size: int):
    with server.client() as client:
        assert client.post("/echo_body", content=b"z" * size).content == b"z" * size


def test_a_form_with_a_file_is_read_in_a_coroutine_view(server: Server):
    with server.client() as client:
        answer = client.post("/form", data={"text": "x"}, files={"file": ("f", b"y" * 2**20)})
    assert answer.json() == {"name": "f", "size": 2**20, "text": "x"}


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_bodies_are_streamed(server: Server, path: str):
    with server.client() as client:
        assert client.get(f"{path}?n=20").content == 20 * CHUNK


def test_messages_are_echoed(server: Server):
    with server.sync_connect("/echo", max_size=None) as ws:
        for message in ("text", b"bytes", "", "grüße", "x" * 2**20):
            ws.send(message)
            assert ws.recv() == message
        ws.send(["frag", "ments"])
        assert ws.recv() == "fragments"


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


def test_tweens_and_cookies_are_on_the_101(server: Server):
    with server.sync_connect("/constructor", subprotocols=["a"]) as ws:
        assert ws.response.headers["X-Tween"] == "seen"
        assert ws.subprotocol == "a"
        assert ws.recv() == "a"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/secret?user=al", 403), ("/constructor?hook", 403), ("/constructor?error", 418)],
)
def test_a_refusal_is_the_http_answer(server: Server, path: str, status: int):
    with pytest.raises(InvalidStatus) as info, server.sync_connect(path):
        pass
    assert info.value.response.status_code == status


def test_close_codes_go_both_ways(server: Server):
    with server.sync_connect("/recorder") as ws:
        ws.send("close")
        assert closed_with(ws).code == 4001
    recorded(server, [4001, "asked for"])
    with server.sync_connect("/recorder") as ws:
        ws.close(4321, "mine")
    recorded(server, [4321, "mine"])
    with server.raw_websocket("/echo") as ws:
        ws.send(frame(0x81, b"\xff"))
        assert ws.close_code() == 1007


def test_an_exception_in_a_view_closes_its_connection_alone(server: Server):
    with server.sync_connect("/recorder") as other, server.sync_connect("/recorder") as ws:
        ws.send("fail")
        assert closed_with(ws).code == 1011
        assert other.recv() == "opened"
        other.send("still there")
        assert other.recv() == "str 11"


def test_a_stop_closes_with_1001(launch):
    server = launch(kind=UWSGIServer)
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        server.signal(signal.SIGINT)
        assert closed_with(ws).code == 1001
    assert server.wait() == 0


def test_uwsgi_without_threads_is_refused_at_the_start(launch):
    class WithoutThreads(UWSGIServer):
        def command(self, app, args):
            command = super().command(app, args)
            at = command.index("--enable-threads")
            return command[:at] + command[at + 3 :]

    server = launch(kind=WithoutThreads, wait=False)
    assert server.wait() != 0
    assert "ConfigurationError: uWSGI runs without threads" in server.log
    assert "set enable-threads = true" in server.log
