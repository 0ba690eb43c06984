"""The life of uWSGI's processes: what starts, ends and outlives them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import VARIANTS
from harness import Server, eventually, frame
from test_websocket import closed_with
from websockets.exceptions import ConnectionClosed

THREADS, UVLOOP, ASYNCIO = "uwsgi-threads", "uwsgi-uvloop", "uwsgi-asyncio"
APP = "apps.processes:main()"
NO_MERCY = "NO MERCY"  # what uWSGI says when it kills a worker that did not end
STARTED = "runs coroutines on"  # what a worker says that has taken its signals


@pytest.fixture(scope="session", params=[THREADS, UVLOOP, ASYNCIO])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, variant: str) -> Iterator[Server]:
    """A server with a worker, a mule and a spooler."""
    kind, args = VARIANTS[variant]
    folder = tmp_path_factory.mktemp("server")
    server = kind(folder / "server.log")
    extra = ["--mule=apps/mule.py", "--cache2=name=default,items=10"]
    extra += [f"--spooler={folder}", "--spooler-frequency=1", "--disable-logging"]
    server.launch(APP, [*args, *extra])
    server.wait_until_up()
    yield server
    server.stop()


@contextlib.contextmanager
def websockets(server: Server, number: int = 4, path: str = "/recorder") -> Iterator[list[Any]]:
    """Open some WebSockets, so many that each worker probably has one."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(server.sync_connect(path)) for _ in range(number)]
        for ws in opened:
            ws.recv()
        yield opened


def codes(websockets: list[Any]) -> set[int]:
    return {closed_with(ws).code for ws in websockets}


def fds(pids: set[int]) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
    return []


def touch(path: Path) -> None:
    path.touch()
    later = path.stat().st_mtime + 5  # uWSGI looks at whole seconds
    os.utime(path, (later, later))


def command(variant: str, tmp_path: Path, *extra: str, app: str = APP) -> list[str]:
    kind, args = VARIANTS[variant]
    return kind(tmp_path / "unused").command(app, [*args, *extra])


def without(command: list[str], option: str) -> list[str]:
    return [part for part in command if part != option]


# Reloads and stops.


def test_reloads_of_all_kinds_close_with_1012_and_leak_no_descriptor(
    launch, tmp_path: Path, variant: str
):
    chain, fifo = tmp_path / "chain", tmp_path / "fifo"
    chain.touch()
    args = ["--lazy-apps", "--master-fifo", str(fifo), "--touch-chain-reload", str(chain)]
    server = launch(variant=variant, args=args, workers={"workers": 2})
    # uWSGI itself loses a signal for a worker that still loads its application.
    server.wait_for_log(rf"(?s)({STARTED}.*){{2}}")

    def open_descriptors() -> list[list[int]]:
        return [fds({server.process.pid}), fds(server.children())]

    def reload(how: Callable[[], object]) -> list[list[int]]:
        old = server.children()
        with websockets(server) as opened:
            how()
            assert codes(opened) == {1012}
        eventually(lambda: not server.children() & old, "the old workers are gone")
        eventually(server.answers, "the server answers")
        # A worker that still loads has fewer.
        return eventually(
            lambda: (
                len(server.children()) == 2
                and len(set(fds(server.children()))) == 1
                and open_descriptors()
            ),
            "both workers are ready",
        )

    before = reload(lambda: touch(chain))
    assert reload(lambda: fifo.write_text("w")) == before
    assert reload(lambda: server.signal(signal.SIGHUP)) == before
    with websockets(server) as opened:
        fifo.write_text("q")
        assert codes(opened) == {1012}  # to a worker, it looks like a reload
    assert server.wait() == 0


def test_sigterm_reloads_where_it_does_not_stop(launch, tmp_path: Path, variant: str):
    line = without(command(variant, tmp_path, app="apps.closing:main()"), "--die-on-term")
    server = launch(variant=variant, command=line)
    old = server.children()
    with websockets(server, path="/waiting") as opened:
        server.signal(signal.SIGTERM)
        assert codes(opened) == {1012}
    eventually(lambda: not server.children() & old, "the old worker is gone")
    eventually(server.answers, "the server answers")
    with websockets(server, path="/waiting") as opened:
        server.signal(signal.SIGQUIT)
        assert codes(opened) == {1001}
    assert server.wait() == 0
    assert server.log.count("on_close ran: 1012") == server.log.count("on_close ran: 1001") == 4


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_process_without_master_closes_with_1001(
    launch, tmp_path: Path, variant: str, signum: int
):
    line = without(command(variant, tmp_path, app="apps.closing:main()"), "--master")
    server = launch(variant=variant, command=line)
    with websockets(server, path="/waiting") as opened:
        server.signal(signum)
        assert codes(opened) == {1001}
    server.wait()
    assert server.log.count("on_close ran: 1001") == 4


def test_a_stop_is_not_lost_while_workers_load_their_application(
    launch, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    monkeypatch.setenv("AIOPYRAMID_TEST_FILE", str(file))
    app = "apps.processes:slow_main()"
    workers = {"workers": 2}
    server = launch(variant=variant, app=app, args=["--lazy-apps"], workers=workers, wait=False)
    eventually(lambda: server.log.count("loading") == 2, "both workers load")
    server.signal(signal.SIGTERM)
    server.wait_for_log("killing workers")
    file.touch()
    assert server.wait() == 0
    assert NO_MERCY not in server.log


def test_recycled_workers_close_with_1012(launch, variant: str):
    reasons = [
        (["--max-worker-lifetime", "1"], 1),
        (["--cheaper", "1", "--cheaper-initial", "2", "--cheaper-overload", "1"], 2),
        (["--reload-on-rss", "1", "--min-worker-lifetime", "2", "--forkbomb-delay", "0"], 1),
    ]
    with contextlib.ExitStack() as stack:
        all_opened = []
        servers = []
        for args, workers in reasons:
            options = {"workers": workers, "max_requests": 0}
            server = launch(variant=variant, app=APP, args=args, workers=options)
            servers.append(server)
            all_opened.append(stack.enter_context(websockets(server, 8, "/pid")))
        lived, cheaped, big = all_opened
        assert codes(lived) == {1012}
        eventually(lambda: len(servers[1].children()) == 1, "one worker is gone")
        for ws in cheaped:
            with contextlib.suppress(ConnectionClosed):
                ws.send("still here")
        for ws in cheaped:
            try:
                assert ws.recv() == "still here"
            except ConnectionClosed:
                assert closed_with(ws).code == 1012
        # Memory is measured at the end of a request.
        eventually(lambda: not servers[2].answers() or big[0].protocol.close_code, "it is big")
        assert codes(big) == {1012}
        for server in servers:
            server.signal(signal.SIGTERM)  # all at once, to wait for them together
    assert all(NO_MERCY not in server.log for server in servers)


def test_a_reload_lets_requests_and_handshakes_end(launch, variant: str):
    server = launch(variant=variant)
    answers: list[int] = []

    def request() -> None:
        with server.client() as client:
            answers.append(client.get("/sleep?s=1").status_code)

    def shake_hands() -> None:
        with server.sync_connect("/slow_handshake") as ws:
            answers.append(closed_with(ws).code)

    threads = [threading.Thread(target=request), threading.Thread(target=shake_hands)]
    for thread in threads:
        thread.start()
    server.eventually_state(lambda state: state["counts"].get("sleep started"), "it sleeps")
    with websockets(server, 1) as opened:
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGHUP)
        answers += codes(opened)
    for thread in threads:
        thread.join()
    assert answers == [1012, 1012, 200]  # WebSockets do not wait for requests
    eventually(server.answers, "the server answers")


def test_more_signals_neither_hurry_nor_prevent_the_stop(launch, variant: str):
    settings = {"aiopyramid.websocket.disconnect_grace": "3600"}
    server = launch(variant=variant, workers={"graceful_timeout": 2}, settings=settings)
    with websockets(server) as opened, server.socket() as request:
        opened[0].send("sleep")
        server.eventually_state(lambda state: state["counts"].get("sleeping"), "it sleeps")
        request.sendall(b"GET /sleep?s=3600 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.eventually_state(lambda state: state["counts"].get("sleep started"), "it sleeps")
        server.signal(signal.SIGINT)
        assert codes(opened) == {1001}
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert NO_MERCY not in server.log


def test_harakiri_takes_slow_requests_and_not_old_websockets(launch, variant: str):
    server = launch(variant=variant, app=APP, args=["--harakiri", "1"], workers={"workers": 2})
    with contextlib.ExitStack() as stack:
        pids: dict[str, Any] = {}

        def both() -> bool:
            ws = stack.enter_context(server.sync_connect("/pid"))
            pids[ws.recv()] = ws
            return len(pids) == 2

        eventually(both, "each worker has a WebSocket")
        with server.client() as client, pytest.raises(httpx.TransportError):
            client.get("/sleep?s=3600")
        killed = server.wait_for_log(r"\(pid: (\d+)\) died, killed by signal 9")[1]
        pids.pop(killed)
        (ws,) = pids.values()
        ws.send("older than a second")
        assert ws.recv() == "older than a second"
        # uWSGI itself loses a signal for a worker that it has just forked.
        server.wait_for_log(rf"(?s)({STARTED}.*){{3}}")


# Options.


def test_other_options_do_no_harm(launch, variant: str):
    options = "offload-threads=2 thunder-lock disable-logging vacuum single-interpreter cheap"
    options += " so-keepalive manage-script-name skip-atexit-teardown"
    if sys.version_info < (3, 14):  # where uWSGI itself answers no request with it
        options += " py-call-osafterfork"
    args = [f"--{option}" for option in options.split()]
    args += [f"--mount=/{name}=apps.application:main()" for name in "ab"]
    server = launch(variant=variant, args=args, workers={"workers": 4})
    for reload in (True, False):
        with contextlib.ExitStack() as stack:
            opened = []
            for path in ("/recorder", "/a/recorder", "/b/recorder"):
                opened += stack.enter_context(websockets(server, path=path))
            for ws in opened:
                ws.send(bytes(300_000))
                assert ws.recv() == "bytes 300000"
            with server.client() as client:
                assert client.get("/a/threaded").json()["waited"] == "waited"
            server.signal(signal.SIGHUP if reload else signal.SIGTERM)
            assert codes(opened) == ({1012} if reload else {1001})
        if reload:
            eventually(server.answers, "the server answers")
    assert server.wait() == 0
    assert "Traceback" not in server.log
    assert server.log.count(STARTED) <= 8  # three applications share a loop


def test_an_application_in_another_interpreter_is_refused(launch, variant: str):
    args = ["--manage-script-name", "--mount=/a=apps.application:main()"]
    server = launch(variant=variant, args=args)
    with server.client() as client:
        assert client.get("/up").text == "up"  # the first application has the main interpreter
        assert client.get("/a/up").text != "up"
    assert "ConfigurationError: uWSGI loads this application into an interpreter" in server.log
    assert "set single-interpreter = true" in server.log


REFUSED = {
    "--set aiopyramid-loop=x": r"aiopyramid-loop = x must be asyncio or uvloop",
    "--set aiopyramid-threads=0": r"aiopyramid-threads = 0 must be a positive number",
}
MODES_REFUSED = {
    "--asyncio 5": "set greenlet = true",
    "--async 5 --ugreen": "set threads = N",
    "--async 5 --greenlet": "set threads = N",
}


@pytest.mark.parametrize("option", REFUSED)
def test_a_bad_setting_stops_the_start(launch, variant: str, option: str):
    server = launch(variant=variant, args=option.split(), wait=False)
    assert server.wait() != 0
    assert f"ConfigurationError: {REFUSED[option]}" in server.log
    assert server.workers_started not in server.log


@pytest.mark.parametrize("mode", MODES_REFUSED)
def test_a_mode_without_coroutines_stops_the_start(launch, tmp_path: Path, mode: str):
    line = command(ASYNCIO, tmp_path)
    start = line.index("--asyncio")
    line[start : start + 3] = mode.split()
    server = launch(variant=ASYNCIO, command=line, wait=False)
    assert server.wait() != 0
    assert "ConfigurationError: uWSGI runs with async" in server.log
    assert MODES_REFUSED[mode] in server.log
    assert server.workers_started not in server.log


def test_a_websocket_takes_its_connection_from_keep_alive(launch, tmp_path: Path, variant: str):
    line = command(variant, tmp_path)
    line[line.index("--http-socket")] = "--http11-socket"
    if variant != THREADS:
        server = launch(variant=variant, command=line, wait=False)
        assert server.wait() != 0
        assert "set http-socket in place of http11-socket" in server.log
        return
    server = launch(variant=variant, command=line)
    request = b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(10):
        with server.raw_websocket("/pid") as ws:
            ws.receive()
            # As many as there are threads that would read them.
            for _ in range(20):
                ws.send(frame(0x81, request))
                assert ws.receive() == (0x81, request)
            ws.send(frame(0x88, b"\x03\xe8"))
            assert ws.frames() == [(0x88, b"\x03\xe8")]


# Everything else that is a process or a thread.


def test_hooks_mules_and_spoolers_can_wait_for_coroutines(server: Server):
    state = server.state()
    assert state["forked"] == [state["pid"]]
    with server.client() as client:
        for path, said in {
            "/tell_mule": "mule: told",
            "/spool": "spooler: spooled b'/spool'",
            "/spool_async": "spooler: spooled b'/spool_async'",
        }.items():
            assert client.get(path).json() == "ok"
            server.wait_for_log(said)
    assert server.state()["pid"] == state["pid"]


def test_subprocesses_start_answer_and_end(server: Server, variant: str):
    said = {"said": "said", "terminated": -signal.SIGTERM}
    with websockets(server, path="/pid"), server.client() as client:
        assert client.get("/child").json() == said
        if variant != THREADS:  # uWSGI's own threads hand down that signals are blocked
            assert client.get("/child_of_thread").json() == said


def abort(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_thousands_of_connections_leave_nothing_behind(server: Server):
    def some(number: int) -> None:
        for _ in range(number):
            with server.raw_websocket("/pid") as ws:
                ws.send(frame(0x88, b"\x03\xe8"))
                assert ws.close_code() == 1000
            abort(server.raw_websocket("/pid").socket)
            abort(server.raw_websocket("/flood").socket)
            with server.raw_websocket("/fail") as ws:
                ws.send(frame(0x81))
                assert ws.receive() == (0x88, b"\x03\xf3")
            with server.socket() as sock:
                sock.sendall(b"GET /sleep?s=0.01 HTTP/1.1\r\nHost: x\r\n\r\n")
                abort(sock)

    def at_rest() -> dict[str, int]:
        state = server.state()
        return {name: state[name] for name in ("pid", "tasks", "fds")}

    some(20)
    before = eventually(at_rest, "")
    memory = rss(before["pid"])
    threads = server.state()["threads"]
    some(400)
    eventually(lambda: at_rest() == before, f"it is as before, {before}")
    assert server.state()["threads"] <= threads
    assert rss(before["pid"]) - memory < 20 << 20


def rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
