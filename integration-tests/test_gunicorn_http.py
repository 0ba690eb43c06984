"""HTTP under gunicorn, where our worker has a part in it."""

from __future__ import annotations

import httpx
import pytest
from apps.application import CHUNK
from harness import HANDSHAKE, Server


@pytest.fixture(scope="session", params=["gunicorn-uvloop", "gunicorn-asyncio", "gunicorn-loop"])
def variant(request):
    return request.param


@pytest.fixture
def threads(variant: str) -> str:
    """How the names of threads for plain views begin."""
    return "aiopyramid-executor" if variant == "gunicorn-loop" else "aiopyramid-request"


def test_coroutine_views_run_on_the_loop_and_plain_views_in_threads(server: Server, threads: str):
    with server.client() as client:
        on_loop = client.get("/sleep?s=0").json()
        in_thread = client.get("/threaded").json()
    assert on_loop == {"thread": "MainThread", "same": True}
    assert in_thread["thread"].startswith(threads)
    assert in_thread["same"]
    assert in_thread["waited"] == "waited"


def test_generator_views_are_coroutines(server: Server):
    with server.client() as client:
        assert client.get("/generator").json() == {"thread": "MainThread", "same": True}


def test_a_plain_generator_is_iterated_in_threads(server: Server, threads: str):
    with server.client() as client:
        assert len(client.get("/stream_threaded?n=3").content) == 3 * len(CHUNK)
    counts = server.state()["counts"]
    iterated_in = [name for name in counts if name.startswith("chunk in")]
    assert iterated_in
    assert all(name.startswith(f"chunk in {threads}") for name in iterated_in)


def test_a_client_that_leaves_cancels_its_request(server: Server):
    counts = server.state()["counts"]
    started = counts.get("sleep started", 0)
    cancelled = counts.get("sleep cancelled", 0)
    with server.socket() as sock:
        sock.sendall(b"GET /sleep?s=3600 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.eventually_state(
            lambda state: state["counts"]["sleep started"] > started, "the view sleeps"
        )
    server.eventually_state(
        lambda state: state["counts"].get("sleep cancelled", 0) > cancelled, "it is cancelled"
    )
    assert "Traceback" not in server.log.rsplit("sleep?s=3600", 1)[-1]


def test_a_stream_that_fails_does_not_look_complete(server: Server):
    with server.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/stream_fails")
    assert server.log.count("RuntimeError: the stream fails") == 1


def test_an_exception_is_logged_once_and_answered_with_500(server: Server):
    before = server.log.count("RuntimeError: the view fails")
    with server.client() as client:
        assert client.get("/error").status_code == 500
        assert client.get("/up").status_code == 200
    assert server.log.count("RuntimeError: the view fails") - before == 1
    assert "Error handling request GET /error" in server.log


def test_head_has_headers_and_no_body(server: Server):
    with server.client() as client:
        get, head = client.get("/up"), client.head("/up")
        assert client.get("/up").content == b"up"  # the connection is still in order
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


def test_early_hints_are_sent(server: Server):
    with server.socket() as sock:
        sock.sendall(b"GET /hints HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    hints, rest = answer.split(b"\r\n\r\n", 1)
    assert hints == b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload"
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"hinted")


def test_100_continue_is_sent_when_the_body_is_wanted(server: Server):
    with server.socket() as sock:
        sock.sendall(
            b"POST /echo_body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(b"ok")
        assert b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"ok")


def test_requests_may_be_pipelined(server: Server):
    request = b"GET /up HTTP/1.1\r\nHost: x\r\n"
    with server.socket() as sock:
        sock.sendall(request + b"\r\n" + request + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_malformed_request_gets_400(server: Server):
    with server.socket() as sock:
        sock.sendall(b"GET\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_never_comes_ends_the_request(server: Server):
    with server.socket() as sock:
        sock.sendall(b"POST /echo_body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    ended = r'"POST /echo_body HTTP/1.1" 500'
    server.wait_for_log(ended)
    assert "did not send the whole request body" not in server.log  # no fault of ours


def test_bytes_sent_right_behind_the_request_are_not_lost(server: Server):
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in HANDSHAKE.items())
    with server.socket() as sock:
        sock.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\x81\x82\0\0\0\0hi")
        answer = b""
        while not answer.endswith(b"\x81\x02hi"):
            data = sock.recv(65536)
            assert data, answer
            answer += data
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")


def test_a_cancellation_of_something_else_is_an_error(server: Server):
    with server.client() as client:
        assert client.get("/cancelled").status_code == 500
    assert "Error handling request GET /cancelled" in server.log


def test_websockets_are_logged_where_gunicorn_logs(server: Server):
    with server.sync_connect("/echo"):
        pass
    server.wait_for_log(r"\[INFO\] WebSocket /echo from 127.0.0.1 closed: code=1000")
