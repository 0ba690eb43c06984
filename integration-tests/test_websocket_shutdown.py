"""Stop, reload and recycling of a server with open connections."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest
from harness import PATIENCE, eventually, frame
from test_websocket import closed_with
from websockets.exceptions import ConnectionClosed


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_closes_with_1001(launch, signum: int, variant: str):
    server = launch(variant=variant)
    with server.sync_connect("/recorder") as ws, server.sync_connect("/echo") as other:
        assert ws.recv() == "opened"
        other.send("open")
        assert other.recv() == "open"
        server.signal(signum)
        assert closed_with(ws).code == 1001
        assert closed_with(other).code == 1001
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_a_reload_closes_with_1012(launch, variant: str):
    server = launch(variant=variant)
    old = Path(f"/proc/{server.state()['pid']}")
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        server.signal(signal.SIGHUP)
        assert closed_with(ws).code == 1012
    # Until it ends, a worker of uWSGI may accept one more connection, and close it likewise.
    eventually(lambda: not old.exists(), "the old worker is gone")
    eventually(server.answers, "the server answers")
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        server.signal(signal.SIGTERM)
        assert closed_with(ws).code == 1001  # a stop after a reload is a stop
    assert server.wait() == 0


def test_recycling_closes_with_1012_and_counts_websockets(launch, variant: str):
    server = launch(variant=variant, workers={"max_requests": 6})
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        for _ in range(10):
            with contextlib.suppress(OSError, ConnectionClosed), server.sync_connect("/echo"):
                pass
        assert closed_with(ws).code == 1012


def test_on_close_runs_when_the_server_stops(launch, variant: str):
    server = launch(variant=variant, app="apps.closing:main()")
    with server.sync_connect("/waiting") as ws:
        assert ws.recv() == "opened"
        server.signal(signal.SIGTERM)
        assert closed_with(ws).code == 1001
    assert server.wait() == 0
    assert server.log.count("on_close ran: 1001") == 1


def test_a_view_that_does_not_end_is_cancelled_within_the_graceful_timeout(launch, variant: str):
    settings = {GRACE: "3600"}
    server = launch(variant=variant, workers={"graceful_timeout": 2}, settings=settings)
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        ws.send("sleep")
        server.eventually_state(lambda state: state["counts"].get("sleeping"), "it sleeps")
        server.signal(signal.SIGTERM)
        assert closed_with(ws).code == 1001
    assert server.wait() == 0


GRACE = "aiopyramid.websocket.disconnect_grace"


def test_a_peer_that_does_not_answer_the_close_does_not_hold_up_the_stop(launch, variant: str):
    server = launch(variant=variant, workers={"graceful_timeout": 2})
    with server.raw_websocket("/recorder") as ws:
        ws.send(frame(0x81, b"x"))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert ws.close_code() == 1001


async def test_reloads_under_load_lose_no_acknowledged_message(launch, variant: str):
    """
    Clients send numbered messages, and again those that were not echoed.

    What has been echoed was received; a message that went down with a
    connection is sent again after the reconnect. So in the end the echoes have
    each number, and all of them in order within a connection.
    """
    server = launch(variant=variant, workers={"workers": 2, "graceful_timeout": 10})
    reloads = 3
    enough = asyncio.Event()
    codes: list[int | None] = []
    echoing: set[int] = set()  # clients with a connection that works

    async def client(number: int) -> int:
        acknowledged = 0
        while not enough.is_set() or acknowledged < 50:
            try:
                async with server.connect("/echo") as ws:
                    while not enough.is_set() or acknowledged < 50:
                        await ws.send(str(acknowledged + 1))
                        assert await ws.recv() == str(acknowledged + 1)
                        acknowledged += 1
                        echoing.add(number)
            except ConnectionClosed as exc:
                echoing.discard(number)
                # None if there was no close frame.
                codes.append(exc.rcvd and exc.rcvd.code)
        return acknowledged

    tasks = [asyncio.create_task(client(number)) for number in range(10)]
    for _ in range(reloads):
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while len(echoing) < len(tasks):
            assert asyncio.get_running_loop().time() < deadline, server.log
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # under load
        booted, closed = server.log.count(server.workers_started) + 2, len(codes) + len(tasks)
        server.signal(signal.SIGHUP)
        while server.log.count(server.workers_started) < booted or len(codes) < closed:
            assert asyncio.get_running_loop().time() < deadline, server.log
            await asyncio.sleep(0.02)
    enough.set()
    assert all(count >= 50 for count in await asyncio.gather(*tasks))
    assert set(codes) == {1012}
