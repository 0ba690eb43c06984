"""What is about uWSGI alone."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from harness import HANDSHAKE, NEEDS_TLS, Server, reserve_port, uwsgi_has_tls
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


@pytest.mark.skipif(not uwsgi_has_tls(), reason=NEEDS_TLS)
def test_a_connection_that_uwsgi_encrypts_is_refused_for_websockets(launch, tls_files):
    port = reserve_port()
    args = ["--https-socket", f"127.0.0.1:{port},{tls_files['cert']},{tls_files['key']}"]
    server = launch(variant="uwsgi-threads", args=args)
    with server.sync_connect("/echo") as ws:  # on the other socket
        ws.send("plain")
        assert ws.recv() == "plain"
    server.port, server.tls = port, tls_files
    with server.client() as client:
        assert client.get("/sleep?s=0").status_code == 200
        refused = client.get("/echo", headers=HANDSHAKE)
    assert refused.status_code == 501
    assert "replace https-socket by https and http-websockets = true" in refused.text
    assert "WebSocket /echo refused: uWSGI encrypts this connection" in server.log


def test_uwsgis_limit_counts_for_chunked_bodies_too(launch):
    server = launch(variant="uwsgi-threads", args=["--limit-post", "100000"])
    with server.client() as client:
        chunks = [b"x" * 50_000] * 2
        assert client.post("/count_body", content=iter(chunks)).json() == {"size": 100_000}
        response = client.post("/count_body", content=iter([*chunks, b"x"]))
    assert response.status_code == 413
    assert "the body exceeds 100000 bytes" in response.text


def test_a_connection_that_uwsgi_closes_is_said_to_be(server: Server):
    with server.client() as client:
        response = client.get("/sleep?s=0")
        assert response.headers["connection"] == "close"


def test_a_coroutine_that_exits_takes_only_itself(launch):
    server = launch(variant="uwsgi-threads")
    with server.sync_connect("/recorder") as ws, server.sync_connect("/recorder") as other:
        assert ws.recv() == other.recv() == "opened"
        with server.client() as client:
            with pytest.raises(httpx.TransportError):
                client.get("/exit")
            assert client.get("/sleep?s=0").status_code == 200
        other.send("exit")
        assert closed_with(other).code == 1011
        ws.send("still here")
        assert ws.recv() == "str 10"
    server.wait_for_log("SystemExit: exit")
