"""What is different under uWSGI, row by row of the table in docs/howto/uwsgi.rst."""

from __future__ import annotations

import signal

import httpx
import pytest
from harness import Server, eventually

APP = "apps.differences:main()"
CACHE = ["--cache2=name=default,items=10"]
THREADS, LOOP = "uwsgi-threads", "uwsgi-uvloop"


@pytest.fixture(scope="session", params=[THREADS, LOOP])
def variant(request):
    return request.param


def test_a_client_that_leaves_is_not_noticed(server: Server):
    with server.socket() as sock:
        sock.sendall(b"GET /sleep?s=0.2 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.eventually_state(lambda state: state["counts"].get("sleep started"), "it sleeps")
    server.wait_for_log("GET /sleep")  # uWSGI logs a request when it is over
    assert "sleep cancelled" not in server.state()["counts"]


def test_a_body_is_read_before_any_view_in_loop_mode(server: Server, variant: str):
    def begun() -> int:
        return server.state()["counts"].get("sleep started", 0)

    before = begun()
    with server.socket() as sock:
        sock.sendall(b"POST /sleep?s=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
        if variant == LOOP:
            with server.client() as client:  # requests that come later go first
                assert client.get("/threaded").status_code == 200
                assert client.get("/up").status_code == 200
            assert begun() == before
        else:
            eventually(lambda: begun() == before + 1, "the view begins")
        sock.sendall(b"2")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_an_exception_that_no_view_handles_closes_the_connection(server: Server):
    with server.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/error")
    assert "RuntimeError: the view fails" in server.log
    assert server.answers()


def test_a_stream_that_fails_looks_complete(server: Server):
    with server.client() as client:
        assert client.get("/stream_fails").text == "begin"
    assert "RuntimeError: the stream fails" in server.log


def test_files_are_sent_by_the_kernel_in_thread_mode(
    launch, variant: str, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    file.write_bytes(b"content" * 100_000)
    monkeypatch.setenv("AIOPYRAMID_TEST_FILE", str(file))
    server = launch(variant=variant)
    with server.client() as client:
        assert client.get("/file").content == file.read_bytes()
    line = server.wait_for_log(r"GET /file.*").group()
    assert ("via sendfile()" in line) is (variant == THREADS)


def test_a_stop_drops_requests_in_progress(launch, variant: str):
    server = launch(variant=variant)
    with server.socket() as sock:
        sock.sendall(b"GET /sleep?s=3600 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.eventually_state(lambda state: state["counts"].get("sleep started"), "it sleeps")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert sock.recv(65536) == b""


def test_functions_about_the_request_work_where_uwsgi_knows_it(launch, variant: str):
    server = launch(variant=variant, app=APP, args=CACHE)
    with server.client() as client:
        assert client.get("/coroutine").text == "SystemError"
        plain = "request True" if variant == THREADS else "SystemError"
        assert client.get("/plain").text == f"{plain}, value"
        assert "request True" in client.get("/tween").text


def test_timers_reach_workers_in_thread_mode_alone(launch):
    in_loop = launch(variant=LOOP, app=APP, args=CACHE)
    in_threads = launch(variant=THREADS, app=APP, args=CACHE)

    def ticks(server: Server) -> int:
        with server.client() as client:
            return int(client.get("/ticks").text)

    eventually(lambda: ticks(in_threads) >= 2, "the timer has fired")
    assert ticks(in_loop) == 0


def test_a_coroutine_that_exits_ends_the_worker_in_loop_mode(launch):
    server = launch(variant=LOOP)
    with server.client() as client, pytest.raises(httpx.TransportError):
        client.get("/exit")
    server.wait_for_log(r"worker 1 \(pid: \d+\) died")
    eventually(server.answers, "the next worker answers")
