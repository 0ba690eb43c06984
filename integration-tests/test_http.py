"""Plain HTTP through the real server, on both event loops."""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path

import httpx
import pytest
from apps.application import CHUNK
from harness import Server, eventually

MIB = 2**20


def memory(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def test_coroutine_views_run_on_the_loop_and_threaded_views_in_threads(server: Server):
    with server.client() as client:
        on_loop = client.get("/sleep?s=0").json()
        in_thread = client.get("/threaded").json()
    assert on_loop == {"thread": "MainThread", "same": True}
    assert in_thread["thread"].startswith("aiopyramid")
    assert in_thread["same"]
    assert in_thread["waited"] == "waited"


def test_generator_views_are_coroutines(server: Server):
    with server.client() as client:
        assert client.get("/generator").json() == {"thread": "MainThread", "same": True}


def test_tweens_see_coroutine_views(server: Server):
    with server.client() as client:
        response = client.get("/sleep?s=0")
    assert response.headers["x-tween"] == "seen"
    assert response.cookies["tween"] == "yes"


async def test_two_hundred_requests_wait_at_the_same_time(server: Server):
    async with server.async_client() as client:
        begin = time.monotonic()
        await client.get("/sleep?s=0.2")
        one = time.monotonic() - begin
        begin = time.monotonic()
        responses = await asyncio.gather(*(client.get("/sleep?s=0.2") for _ in range(200)))
        all_of_them = time.monotonic() - begin
    assert {response.status_code for response in responses} == {200}
    # One after the other they would take 200 times as long as one. Most of
    # what is measured here is the client, on as many cores as the server.
    assert all_of_them < 40 * one


async def test_each_of_many_mixed_requests_sees_itself(server: Server):
    paths = ["/sleep?s=0.01", "/generator", "/threaded?s=0.01", "/value_error"]
    async with server.async_client() as client:
        responses = await asyncio.gather(*(client.get(path) for path in paths * 25))
    assert all(response.json()["same"] for response in responses)


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_any_size_is_read_in_a_coroutine_view(server: Server, size: int, chunked: bool):
    body = bytes(range(256)) * (size // 256) + b"." * (size % 256)
    content = (body[i : i + 50_000] for i in range(0, size, 50_000)) if chunked else body
    with server.client() as client:
        assert client.post("/echo_body", content=content).content == body


def test_a_form_with_a_file_is_read_in_a_coroutine_view(server: Server):
    with server.client() as client:
        answer = client.post(
            "/form", data={"text": "grüße"}, files={"file": ("big.bin", b"y" * 3 * MIB)}
        ).json()
    assert answer == {"name": "big.bin", "size": 3 * MIB, "text": "grüße"}


@pytest.mark.parametrize("path", ["/count_body", "/count_body_async"])
def test_a_large_upload_streams_in_bounded_memory(server: Server, path: str):
    pid = server.state()["pid"]
    before = memory(pid)
    with server.client() as client:
        answer = client.post(path, content=(CHUNK for _ in range(800)))
    assert answer.json() == {"size": 800 * len(CHUNK)}
    assert memory(pid, "VmHWM") - before < 25 * MIB


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_a_large_download_streams_in_bounded_memory(server: Server, path: str):
    pid = server.state()["pid"]
    before = memory(pid)
    size = 0
    with server.client() as client, client.stream("GET", f"{path}?n=800") as response:
        for chunk in response.iter_raw():
            size += len(chunk)
    assert size == 800 * len(CHUNK)
    assert memory(pid, "VmHWM") - before < 25 * MIB


def test_a_plain_generator_is_iterated_in_threads(server: Server):
    with server.client() as client:
        assert len(client.get("/stream_threaded?n=3").content) == 3 * len(CHUNK)
    counts = server.state()["counts"]
    assert counts["chunk in aiopyramid"] >= 3
    assert "chunk in MainThread" not in counts


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_a_slow_client_holds_back_the_generator(server: Server, path: str):
    before = server.state()["counts"].get("chunks", 0)
    with server.client() as client, client.stream("GET", f"{path}?n=10000") as response:
        next(response.iter_raw(1))
        # Buffers of sockets fill up; far from all of it is produced.
        time.sleep(0.3)
        assert server.state()["counts"]["chunks"] - before < 1000


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_a_client_that_leaves_ends_the_generator(server: Server, path: str):
    before = server.state()["counts"].get("stream closed", 0)
    with server.client() as client, client.stream("GET", f"{path}?n=1000000") as response:
        next(response.iter_raw(1))
    server.eventually_state(
        lambda state: state["counts"].get("stream closed", 0) > before, "the generator is closed"
    )


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


def test_exception_views_can_be_coroutines(server: Server):
    with server.client() as client:
        response = client.get("/value_error")
    assert response.status_code == 418
    assert response.reason_phrase == "I'm a teapot"
    assert response.json() == {"error": "handled", "same": True}


def test_the_reason_phrase_is_the_applications(server: Server):
    with server.client() as client:
        assert client.get("/status").reason_phrase == "All Fine"


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
    eventually(lambda: "the client did not send the whole" in server.log, "the view is told")


def test_files_are_served(launch, tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(gzip.compress(bytes(range(256)) * 9) * 5000)
    monkeypatch.setenv("AIOPYRAMID_TEST_FILE", str(path))
    server = launch()
    with server.client() as client:
        whole = client.get("/file")
        assert whole.content == path.read_bytes()
        assert int(whole.headers["content-length"]) == path.stat().st_size
        not_modified = client.get(
            "/file", headers={"If-Modified-Since": whole.headers["last-modified"]}
        )
        assert not_modified.status_code == 304
        assert client.head("/file").headers["content-length"] == whole.headers["content-length"]
    fds = server.state()["fds"]
    with server.client() as client:
        for _ in range(5):
            client.head("/file")
    assert server.state()["fds"] <= fds  # each file was closed
