"""Request threads under gunicorn: places, clients that leave, and the worker's end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import signal
import socket
import struct
import time

import pytest
from harness import Server, eventually

APP = "apps.request_threads:main()"


@pytest.fixture(scope="session", params=["gunicorn-uvloop", "gunicorn-asyncio"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def app() -> str:
    return APP


def ask(server: Server, path: str) -> socket.socket:
    """Send a request, and do not wait for its answer."""
    sock = server.socket()
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# Clients that leave.


INTERRUPTED = ["view got ClientDisconnected, OSError: True", "view ended"]


def test_a_reset_with_loop_requests_interrupts_tweens_as_well(launch):
    server = launch(app=APP, variant="gunicorn-loop")
    sock = ask(server, "/waits_in_tween")
    server.eventually_state(lambda state: state["steps"], "the tween waits")
    reset(sock)
    steps = ["begun", "cancelled", "coroutine ended", *INTERRUPTED]
    server.eventually_state(lambda state: state["steps"] == steps, f"steps are {steps}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/waits_in_tween", INTERRUPTED),
        ("/waits", INTERRUPTED),
        ("/waits_async", []),
        ("/waits_below", [*INTERRUPTED, "coroutine view ended"]),
    ],
)
def test_a_reset_ends_the_coroutine_and_then_the_code_that_waits_for_it(
    server: Server, path: str, expected: list[str]
):
    before = len(server.state()["steps"])
    sock = ask(server, path)
    server.eventually_state(lambda state: len(state["steps"]) > before, "the view waits")
    reset(sock)
    steps = ["begun", "cancelled", "coroutine ended", *expected]
    server.eventually_state(lambda state: state["steps"][before:] == steps, f"steps are {steps}")
    assert "Error handling" not in server.log.rsplit(path, 1)[-1]


def test_plain_code_that_does_not_wait_is_not_interrupted(server: Server):
    before = len(server.state()["steps"])
    sock = ask(server, "/busy")
    server.eventually_state(lambda state: len(state["steps"]) > before, "the view is busy")
    reset(sock)
    with server.client() as client:
        client.get("/release")
    server.eventually_state(lambda state: state["steps"][-1] == "view ended", "the view ends")


def test_a_client_that_has_only_half_closed_gets_its_answers(server: Server):
    with server.socket() as sock:
        sock.sendall(b"GET /sleep?s=0.1 HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_has_half_closed_is_given_up_after_the_grace_period(launch, variant: str):
    server = launch(app=APP, variant=variant, args=["--asgi-disconnect-grace-period", "1"])
    with ask(server, "/waits") as sock:
        server.eventually_state(lambda state: state["steps"] == ["begun"], "the view waits")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(65536) == b""
    server.eventually_state(lambda state: state["steps"][-1] == "view ended", "the view ends")


# Places.


def test_requests_that_wait_take_no_places(launch, variant: str):
    server = launch(app=APP, variant=variant, args=["--threads", "8"])

    def duration(clients: int) -> float:
        """How long as many clients wait that each ask for 0.2 s of sleep, side by side."""
        begin = time.monotonic()
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(ask(server, "/sleep?s=0.2")) for _ in range(clients)]
            for sock in socks:
                assert sock.recv(65536).endswith(b"slept")
        return time.monotonic() - begin

    # With 8 at a time, it would be 62 times as long.
    assert duration(500) < 15 * duration(1)


async def test_a_waiting_request_goes_on_though_all_places_are_taken(launch, variant: str):
    server = launch(app=APP, variant=variant, args=["--threads", "4"])
    async with server.async_client() as client:
        holder = asyncio.create_task(client.get("/holds?others=4"))
        await asyncio.to_thread(
            server.eventually_state, lambda state: state["counts"].get("holds"), "it has the lock"
        )
        # As many as there are places now wait for the lock, and hold their places.
        others = await asyncio.gather(*(client.get("/wants") for _ in range(8)))
        assert {answer.text for answer in others} == {"had it"}
        assert (await holder).text == "held"


async def test_executor_calls_and_plain_callbacks_wait_for_no_place(launch, variant: str):
    server = launch(app=APP, variant=variant, args=["--threads", "2"])
    with contextlib.ExitStack() as stack, server.sync_connect("/socket") as ws:
        ws.recv()
        for _ in range(2):
            stack.enter_context(ask(server, "/stuck"))
        # Requests queue now, so nobody can be asked.
        ws.send("which thread?")
        assert ws.recv().startswith("aiopyramid-callback")
        server.signal(signal.SIGQUIT)


def test_websockets_do_not_count_against_worker_connections(launch, variant: str):
    server = launch(app=APP, variant=variant, args=["--worker-connections", "2"])
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            ws = stack.enter_context(server.sync_connect("/echo"))
            ws.send("open")
            assert ws.recv() == "open"
        with server.client() as client:
            assert client.get("/up").status_code == 200


def test_others_are_served_while_plain_views_compute(launch, variant: str, tmp_path):
    conf = tmp_path / "python.py"
    # An interval that somebody has chosen is left alone, if it is not Python's own.
    conf.write_text("import sys\ndef post_fork(server, worker): sys.setswitchinterval(0.00501)\n")

    def echoes(*args: str) -> tuple[int, float]:
        """Count echoes while 40 requests compute for a second each, 16 at a time."""
        server = launch(app=APP, variant=variant, args=list(args))
        times = []
        with contextlib.ExitStack() as stack, server.sync_connect("/echo") as ws:
            busy = [stack.enter_context(ask(server, "/spin?s=1")) for _ in range(40)]
            while select.select(busy, [], [], 0)[0] != busy:
                begin = time.monotonic()
                ws.send("echo")
                ws.recv()
                times.append(time.monotonic() - begin)
                time.sleep(0.005)
            for sock in busy:
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        return len(times), max(times)

    (ours, our_worst), (python_s, python_s_worst) = echoes(), echoes("--config", str(conf))
    # It is about six times as many, where nothing else runs.
    assert ours > python_s
    assert our_worst < python_s_worst


# The worker's end.


@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "gunicorn-loop"])
def test_a_stop_waits_for_plain_code_whose_client_has_left(launch, variant: str):
    server = launch(app=APP, variant=variant)
    sock = ask(server, "/lasts?s=3")
    server.eventually_state(lambda state: state["counts"].get("lasts"), "the view runs")
    reset(sock)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "the view has ended" in server.log
    assert "did not end in time" not in server.log


def test_requests_of_a_recycled_worker_may_last_longer_than_its_heartbeat(launch, variant: str):
    args = ["--max-requests", "3", "--timeout", "2", "--graceful-timeout", "30"]
    server = launch(app=APP, variant=variant, args=args)
    pid = server.state()["pid"]
    with ask(server, "/sleep?s=6") as sock:
        server.eventually_state(lambda state: state["pid"] != pid, "a new worker answers")
        assert sock.recv(65536).endswith(b"slept")
    assert "WORKER TIMEOUT" not in server.log


def with_hook(tmp_path) -> list[str]:
    conf = tmp_path / "conf.py"
    conf.write_text("def worker_exit(server, worker): print('hook: worker exit', flush=True)\n")
    return ["--config", str(conf)]


@pytest.mark.parametrize(
    ("path", "variant"),
    [
        ("/stuck", "gunicorn-uvloop"),
        ("/stuck", "gunicorn-asyncio"),
        ("/stuck", "gunicorn-loop"),  # in the executor
        ("/stuck_in_executor", "gunicorn-uvloop"),
        ("/stuck_in_executor", "gunicorn-asyncio"),
    ],
)
def test_threads_that_never_end_are_logged_and_do_not_hold_up_a_stop(
    launch, variant: str, tmp_path, path: str
):
    args = [*with_hook(tmp_path), "--graceful-timeout", "2"]
    server = launch(app=APP, variant=variant, args=args)
    with ask(server, path):
        server.eventually_state(lambda state: state["counts"].get("stuck"), "it is stuck")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "1 requests did not end in time and are cancelled. All threads:" in server.log
    assert ", in stuck\n" in server.log
    assert "hook: worker exit" in server.log
    assert "SIGKILL" not in server.log


def test_a_worker_whose_places_are_all_stuck_is_replaced(launch, variant: str):
    server = launch(app=APP, variant=variant, args=["--threads", "2", "--timeout", "2"])
    pid = server.state()["pid"]
    with ask(server, "/stuck"):
        # One alone is no reason.
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            assert server.state()["pid"] == pid
        with ask(server, "/stuck"):
            with ask(server, "/up"):
                server.wait_for_log("No request has made progress for 2 s, and 1 requests")
            eventually(lambda: server.answers() and server.state()["pid"] != pid, "a new worker")
    assert ", in stuck\n" in server.log
    assert "WORKER TIMEOUT" in server.log


def test_the_number_of_places_is_logged(launch, variant: str):
    for args, number in ([], 16), (["--threads", "5"], 5):
        server = launch(app=APP, variant=variant, args=args)
        assert re.search(rf"aiopyramid: {number} request threads", server.log)
