"""What is about gunicorn alone: its settings, hooks and process control."""

from __future__ import annotations

import concurrent.futures
import json
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from harness import HANDSHAKE, HERE, WORKER, Server, eventually


@pytest.fixture(scope="session", params=["gunicorn-uvloop", "gunicorn-asyncio"])
def variant(request):
    return request.param


VOLATILE = {"REMOTE_PORT", "SERVER_PORT", "HTTP_HOST", "wsgi.errors", "SERVER_SOFTWARE"}


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /environ?a=b%20c&d HTTP/1.1\r\nHost: x\r\nX-Twice: 1\r\nX-Twice: 2\r\n",
        b"GET /environ HTTP/1.0\r\n",
        b"GET http://example.com/environ?q HTTP/1.1\r\nHost: example.com\r\n",
        b"GET /environ HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\nCookie: a=b; c=d\r\n"
        b"X-Forwarded-Proto: https\r\nX-Under_score: 1\r\nX-Latin: gr\xfc\xdfe\r\n",
        b"GET /app/environ HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /app\r\n",
        b"GET /en%76iron HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n",
    ],
)
def test_the_environ_is_that_of_gunicorns_threaded_worker(launch, request_head: bytes):
    """Field by field, but for what differs from run to run and where it is stated."""

    def environ(server: Server) -> dict[str, object]:
        with server.socket() as sock:
            sock.sendall(request_head + b"Connection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        head, body = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").split(b"\r\n\r\n", 1)
        assert b" 200 OK" in head.split(b"\r\n")[0], answer
        if b"chunked" in head:
            body = body.split(b"\r\n")[1]
        values = json.loads(body)
        return {key: value for key, value in values.items() if key not in VOLATILE}

    args = ["--forwarder-headers", "SCRIPT_NAME,PATH_INFO"]
    app = "apps.plain:environ_app"
    ours = environ(launch(app=app, args=args))
    theirs = environ(launch(app=app, args=args, worker="gthread"))
    assert ours == theirs


def test_write_and_iterables_may_be_mixed(launch):
    server = launch(app="apps.plain:writing_app")
    with server.client() as client:
        assert client.get("/").text == "written twice, and returned"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/status", "ValueError: Invalid status 'OK'"),
        ("/header", "InvalidResponseHeader"),
        ("/header-name", "InvalidResponseHeaderName"),
        ("/header-type", "is not a string"),
        ("/twice", "Response headers already set!"),
        ("/never", "sent a body before start_response"),
        ("/text", "is not a byte"),
    ],
)
def test_a_broken_application_gets_500_and_a_log_record(launch, path: str, error: str):
    server = launch(app="apps.plain:bad_app")
    with server.client() as client:
        assert client.get(path).status_code == 500
        assert client.get("/").text == "body"
    assert server.log.count(f"Error handling request GET {path}\n") == 1
    assert error in server.log


def test_an_error_may_replace_the_response(launch):
    server = launch(app="apps.plain:bad_app")
    with server.client() as client:
        response = client.get("/replaced")
        assert (response.status_code, response.reason_phrase) == (503, "Sorry")
        assert response.headers["connection"] == "keep-alive"  # hop-by-hop headers are the server's


@pytest.mark.parametrize("runner", ["gunicorn --paste", "pserve"])
def test_it_boots_from_an_ini_file(launch, tmp_path, runner: str):
    ini = tmp_path / "app.ini"
    ini.write_text(
        textwrap.dedent(
            """\
            [app:main]
            use = call:apps.application:paste_main
            pyramid.includes = aiopyramid
            aiopyramid.websocket.max_message_size = 10

            [server:main]
            use = egg:gunicorn#main
            bind = 127.0.0.1:0
            worker_class = aiopyramid.gunicorn.worker.AsyncGunicornWorker
            accesslog = -
            control_socket_disable = true
            """
        )
    )
    if runner == "pserve":
        # Pyramid's own command, which reads [server:main].
        code = (
            "import sys, pyramid.scripts.pserve as p; sys.path.insert(0, '.'); sys.exit(p.main())"
        )
        command = [sys.executable, "-c", code, str(ini)]
    else:
        # gunicorn reads the application alone.
        command = [sys.executable, "-m", "gunicorn", "--paste", str(ini), "-k", WORKER]
        command += ["-b", "127.0.0.1:0", "--no-control-socket", "--pythonpath", str(HERE)]
    server = launch(command=command)
    with server.sync_connect("/echo") as ws:
        ws.send("1234567890")
        assert ws.recv() == "1234567890"


@pytest.mark.parametrize("name", ["aiopyramid", "aiopyramid-loop"])
def test_gunicorn_boots_it_by_its_entry_point(launch, name: str):
    server = launch(worker=f"egg:aiopyramid-gunicorn#{name}")
    with server.client() as client:
        assert client.get("/sleep?s=0").json()["same"]


def test_tls_carries_requests_and_websockets(launch, tls_files, variant):
    server = launch(tls=tls_files, variant=variant)
    with server.client() as client:
        assert client.post("/echo_body", content=b"z" * 500_000).content == b"z" * 500_000
    with server.sync_connect("/echo", origin=server.url) as ws:
        ws.send("over TLS" * 50_000)
        assert ws.recv() == "over TLS" * 50_000
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        ws.send("close")
        with pytest.raises(Exception, match="4001"):
            ws.recv()


def test_unusable_tls_stops_the_start(launch, tls_files, tmp_path):
    broken = dict(tls_files, key=tmp_path / "empty.pem")
    broken["key"].write_text("")
    server = launch(tls=broken, wait=False)
    assert server.wait() != 0


def test_http2_is_served(launch, tls_files):
    server = launch(tls=tls_files, args=["--http-protocols", "h2,h1"])
    with server.client(http2=True) as client:
        response = client.get("/threaded")
        assert response.http_version == "HTTP/2"
        assert response.json()["same"]
        assert client.post("/echo_body", content=b"z" * 500_000).content == b"z" * 500_000
        assert len(client.get("/stream?n=5").content) == 5 * 65536
        refused = client.get("/echo", headers=HANDSHAKE | {"Connection": ""})
        assert refused.status_code in (426, 501)  # a WebSocket needs HTTP/1.1


def test_hooks_and_access_log_see_the_request(launch, tmp_path):
    conf = tmp_path / "conf.py"
    conf.write_text(
        textwrap.dedent(
            """\
            def post_worker_init(worker): print("hook: worker init", flush=True)
            def pre_request(worker, req): print("hook: pre", req.method, req.path, flush=True)
            def post_request(worker, req, environ, resp):
                print("hook: post", environ["app.note"], resp.status, flush=True)
            def worker_exit(server, worker): print("hook: worker exit", flush=True)
            access_log_format = 'access: %(s)s %(b)s "%(r)s" %({app.note}e)s %({wsgi.url_scheme}e)s'
            """
        )
    )
    server = launch(args=["--config", str(conf)])
    with server.client() as client:
        response = client.get("/environ")
    server.wait_for_log(rf'access: 200 {len(response.content)} "GET /environ HTTP/1.1" noted http')
    server.wait_for_log("hook: post noted 200")
    server.stop()
    for line in ("hook: worker init", "hook: pre GET /environ", "hook: worker exit"):
        assert line in server.log


def test_a_signal_while_a_worker_ends_does_not_skip_its_hook(launch, tmp_path, variant: str):
    conf = tmp_path / "conf.py"
    conf.write_text(
        textwrap.dedent(
            """\
            import os, signal
            def worker_exit(server, worker):
                for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                    os.kill(os.getpid(), signum)
                print("hook: worker exit", flush=True)
            """
        )
    )
    server = launch(args=["--config", str(conf)], variant=variant)
    server.stop()
    assert "hook: worker exit" in server.log


def test_connections_that_wait_for_a_request_do_not_delay_a_stop(launch):
    args = ["--keep-alive", "3600", "--timeout", "3600"]
    server = launch(args=args, workers={"graceful_timeout": 3600})
    with server.socket() as new, server.socket() as kept, server.socket() as busy:
        kept.sendall(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        busy.sendall(b"GET /sleep?s=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.eventually_state(lambda state: state["counts"].get("sleep started"), "it runs")
        server.signal(signal.SIGTERM)
        assert new.recv(65536) == kept.recv(65536) == b""
        assert busy.recv(65536).startswith(b"HTTP/1.1 200")
        assert server.wait() == 0


@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "gunicorn-loop"])
def test_threads_bounds_the_plain_code_that_runs_at_a_time(launch, variant: str):
    # Of a view, with loop requests; of all requests, else.
    app = "apps.plain:blocking_view()" if variant == "gunicorn-loop" else "apps.plain:blocking_app"
    server = launch(app=app, args=["--threads", "3"], variant=variant)
    with server.client() as client, concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: client.get("/").text, range(24)))
    assert max(map(int, answers)) == 3


def test_connections_above_worker_connections_wait(launch):
    server = launch(args=["--worker-connections", "2"])
    with server.socket() as one, server.socket() as two, server.socket() as three:
        for sock in (one, two, three):
            sock.sendall(b"GET /up HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for sock in (one, two, three):
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_request_that_does_not_come_gets_408(launch):
    server = launch(args=["--timeout", "1"])
    with server.socket() as sock:
        sock.sendall(b"GET /up HTTP/1.1\r\nHost:")
        assert sock.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_worker_is_recycled_after_max_requests(launch):
    server = launch(args=["--max-requests", "5"])
    first = server.state()["pid"]
    server.eventually_state(lambda state: state["pid"] != first, "another worker answers")


@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "gunicorn-asyncio"])
def test_new_connections_to_workers_that_end_are_served(launch, variant: str):
    server = launch(variant=variant, args=["--max-requests", "10"], workers={"workers": 2})

    def get(_: int) -> bytes:
        with server.socket() as sock:
            sock.sendall(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n")
            return sock.recv(65536)[:12]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        while server.log.count("Worker exiting") < 4:
            assert set(pool.map(get, range(100))) == {b"HTTP/1.1 200"}
    # gunicorn loses signals for a worker that it has just forked.
    eventually(
        lambda: server.log.count("request threads") == 2 + server.log.count("Autorestarting"),
        "the workers have started",
    )


def test_a_stop_lets_requests_finish(launch):
    server = launch()
    with server.socket() as sock:
        sock.sendall(b"GET /sleep?s=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.state()["counts"].get("sleep started"), "the view sleeps")
        server.signal(signal.SIGTERM)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert server.wait() == 0


def test_a_quick_stop_does_not_wait(launch):
    server = launch(args=["--graceful-timeout", "3600"])
    with server.socket() as sock:
        sock.sendall(b"GET /sleep?s=3600 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.state()["counts"].get("sleep started"), "the view sleeps")
        server.signal(signal.SIGINT)
        assert sock.recv(65536) == b""
    assert server.wait() == 0


def test_a_reload_brings_new_workers(launch):
    server = launch()
    first = server.state()["pid"]
    server.signal(signal.SIGHUP)
    server.eventually_state(lambda state: state["pid"] != first, "a new worker answers")


def test_a_bad_setting_stops_the_start_and_is_named(launch):
    server = launch(settings={"aiopyramid.websocket.max_queue": "many"}, wait=False)
    assert server.wait() != 0
    assert re.search(
        r"ConfigurationError: aiopyramid.websocket.max_queue = 'many' is not allowed: "
        r"it must be a whole number of at least 1",
        server.log,
    )


def test_another_worker_class_answers_501_to_a_websocket(launch):
    server = launch(app="apps.minimal:main()", worker="gthread")
    with pytest.raises(Exception, match="501"), server.sync_connect("/echo"):
        pass
    assert "use gunicorn -k aiopyramid.gunicorn.worker.AsyncGunicornWorker" in server.log


def test_a_gunicorn_that_lacks_what_is_used_is_named():
    code = """
import gunicorn.asgi.protocol as protocol
del protocol.ASGIProtocol._build_environ
import aiopyramid.gunicorn.worker
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.search(r"gunicorn [\d.]+ has no ASGIProtocol._build_environ", result.stderr)
