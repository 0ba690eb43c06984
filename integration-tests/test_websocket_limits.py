"""Everything that a peer can make large is bounded, and so is its time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib

import pytest
from harness import PATIENCE, WEBSOCKET_VARIANTS, Server, frame
from test_http import MIB, memory
from test_websocket import recorded
from websockets.exceptions import ConnectionClosed, InvalidStatus

FAST = {
    "aiopyramid.websocket.ping_interval": "0.2",
    "aiopyramid.websocket.ping_timeout": "0.2",
    "aiopyramid.websocket.close_timeout": "0.3",
    "aiopyramid.websocket.send_timeout": "0.5",
    "aiopyramid.websocket.disconnect_grace": "0.1",
}


@pytest.fixture(scope="session", params=WEBSOCKET_VARIANTS)
def variant(request):
    return request.param


def peak_grows_less_than(server: Server, limit: int) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def check():
        pid = server.state()["pid"]
        before = memory(pid)
        yield
        assert memory(pid, "VmHWM") - before < limit

    return check()


def bomb(size: int) -> bytes:
    """Compressed zeros, as permessage-deflate has them."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = b"".join(deflate.compress(bytes(MIB)) for _ in range(size // MIB))
    return (data + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_a_small_frame_that_inflates_gets_1009_and_costs_nothing(server: Server):
    payload = bomb(512 * MIB)
    assert len(payload) < MIB
    offer = "permessage-deflate; client_max_window_bits"
    with (
        peak_grows_less_than(server, 40 * MIB),
        server.raw_websocket("/echo_deflate", Sec_WebSocket_Extensions=offer) as ws,
    ):
        assert b"permessage-deflate" in ws.head
        ws.send(frame(0xC2, payload))
        assert ws.close_code() == 1009


def test_fragments_that_inflate_get_1009(server: Server):
    offer = "permessage-deflate; client_max_window_bits"
    payload = bomb(2 * MIB)
    half = len(payload) // 2
    with server.raw_websocket("/echo_deflate", Sec_WebSocket_Extensions=offer) as ws:
        ws.send(frame(0x42, payload[:half]) + frame(0x80, payload[half:]))
        assert ws.close_code() == 1009


@pytest.mark.parametrize("path", ["/echo", "/echo_deflate"])
def test_the_limit_is_for_the_whole_message(server: Server, path: str):
    with server.raw_websocket(path) as ws:
        ws.send(frame(0x02, bytes(MIB // 2)) + frame(0x00, bytes(MIB // 2)))
        ws.send(frame(0x80, b"x"))
        assert ws.close_code() == 1009


def test_a_view_may_set_its_own_limit(server: Server):
    with server.raw_websocket("/echo_autobahn") as ws:
        ws.send(frame(0x82, bytes(2 * MIB)))
        assert ws.receive() == (0x82, bytes(2 * MIB))


def test_a_million_fragments_cost_no_memory(server: Server):
    with (
        peak_grows_less_than(server, 25 * MIB),
        server.raw_websocket("/echo") as ws,
    ):
        ws.send(frame(0x01))
        for _ in range(100):
            ws.send(frame(0x00) * 5000)
        ws.send(frame(0x00, b"x") * 10_000)
        ws.send(frame(0x80))
        while (answer := ws.receive())[0] == 0x89:  # it may take longer than ping_interval
            pass
        assert answer == (0x81, b"x" * 10_000)


def test_reading_pauses_while_messages_wait(launch, variant: str):
    server = launch(variant=variant)
    data = frame(0x82, bytes(100_000)) * 1000
    with server.raw_websocket("/slow_reader") as ws, view_goes_on(server):
        ws.socket.settimeout(1)
        sent = 0
        with peak_grows_less_than(server, 25 * MIB), contextlib.suppress(TimeoutError):
            # The socket's buffers take some, and then no more.
            while sent < len(data):
                sent += ws.socket.send(data[sent : sent + 65536])
        assert sent < len(data)
        go_on(server)
        ws.socket.settimeout(PATIENCE)
        for n in range(1, sent // 100_014 + 1):
            assert ws.receive() == (0x81, str(n).encode())


def go_on(server: Server) -> None:
    with server.client() as client:
        client.get("/go_on")


@contextlib.contextmanager
def view_goes_on(server: Server):
    """Let the view go on in the end, or its thread would hold up the stop."""
    try:
        yield
    finally:
        go_on(server)


def test_a_flood_of_pings_of_a_peer_that_does_not_read_is_bounded(server: Server):
    with peak_grows_less_than(server, 25 * MIB), server.raw_websocket("/recorder") as ws:
        ws.socket.settimeout(2)
        # On a slow machine, the server drops the peer meanwhile.
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(400):
                ws.send(frame(0x89, bytes(125)) * 1000)


def test_pings_are_answered_while_a_view_does_not_receive(launch, variant: str):
    server = launch(variant=variant)
    with server.sync_connect("/slow_reader") as ws, view_goes_on(server):
        for _ in range(5):
            ws.send("waits")
        assert ws.ping().wait(30)


@pytest.mark.parametrize("activity", [b"send for ever", b"tick"])
def test_a_peer_that_never_reads_is_dropped(launch, activity: bytes, variant: str):
    server = launch(variant=variant, settings=FAST | {PING: "0"})
    with peak_grows_less_than(server, 25 * MIB), server.raw_websocket("/recorder") as ws:
        ws.send(frame(0x81, activity))
        if activity == b"send for ever":
            ended = "the peer does not read what it is sent"
            record = [1006, ended]
            server.eventually_state(lambda state: record in state["records"], ended)
        else:
            server.eventually_state(lambda state: state["counts"].get("opened"), "it is open")
    assert "Traceback" not in server.log


PING = "aiopyramid.websocket.ping_interval"


def test_a_full_worker_refuses_with_503(launch):
    server = launch(settings={"aiopyramid.websocket.max_connections": "2"})
    with server.sync_connect("/echo") as one, server.sync_connect("/echo"):
        with pytest.raises(InvalidStatus) as info, server.sync_connect("/echo"):
            pass
        assert info.value.response.status_code == 503
        one.close()
        server.eventually_state(
            lambda state: state["counts"].get("event ended") == 1, "one connection has ended"
        )
        with server.sync_connect("/echo") as ws:
            ws.send("room again")
            assert ws.recv() == "room again"


async def test_handshakes_that_wait_do_not_overrun_the_limit(server: Server):
    async def handshake() -> int:
        try:
            async with server.connect("/slow_handshake"):
                await asyncio.wait_for(everyone_knows.wait(), PATIENCE)
                return 101
        except InvalidStatus as exc:
            return exc.response.status_code
        finally:
            results.append(None)
            if len(results) >= 6:
                everyone_knows.set()

    results: list[None] = []
    everyone_knows = asyncio.Event()
    statuses = await asyncio.gather(*(handshake() for _ in range(8)))
    assert sorted(statuses) == [101] * 2 + [503] * 6


def test_a_disconnect_behind_waiting_messages_is_seen(launch, variant: str):
    server = launch(variant=variant, settings=FAST | {PING: "0"})
    with server.raw_websocket("/recorder") as ws:
        ws.send(frame(0x81, b"sleep") + frame(0x81, b"x") * 40 + frame(0x88, b"\x03\xe8"))
        assert ws.close_code() == 1000
    with server.raw_websocket("/recorder") as ws:
        ws.send(frame(0x81, b"sleep") + frame(0x81, b"x") * 40)
    recorded(server, [1000, ""])
    recorded(server, [1006, ""])


async def test_pairs_of_message_and_ping_cost_no_memory(server: Server):
    pair = frame(0x81, b"x") + frame(0x89)

    def flood() -> None:
        with server.raw_websocket("/echo") as ws:
            ws.socket.settimeout(0.01)
            for _ in range(300):
                with contextlib.suppress(TimeoutError):
                    ws.send(pair * 1000)
                with contextlib.suppress(TimeoutError):
                    ws.socket.recv(1 << 20)

    with peak_grows_less_than(server, 25 * MIB):
        await asyncio.to_thread(flood)


def test_a_silent_peer_is_dropped(launch, variant: str):
    server = launch(variant=variant, settings=FAST)
    with server.raw_websocket("/recorder") as ws:
        assert ws.close_code() == 1011
    server.eventually_state(
        lambda state: [1011, "no pong in time"] in state["records"], "the view is told"
    )
    assert b"\x89\x04" in ws.rest


def test_a_peer_that_answers_pings_stays(launch, variant: str):
    server = launch(variant=variant, settings=FAST)
    with server.raw_websocket("/echo") as ws:
        for _ in range(5):
            first_byte, payload = ws.receive()
            assert first_byte == 0x89
            ws.send(frame(0x8A, payload))
        ws.send(frame(0x81, b"alive"))
        while (answer := ws.receive())[0] == 0x89:
            ws.send(frame(0x8A, answer[1]))
        assert answer == (0x81, b"alive")


def test_a_peer_that_does_not_finish_closing_is_dropped(launch, variant: str):
    server = launch(variant=variant, settings=FAST | {PING: "0"})
    with server.raw_websocket("/recorder") as ws:
        ws.send(frame(0x81, b"close"))
        assert ws.close_code() == 4001  # and then the end of the stream
        server.eventually_state(
            lambda state: [4001, "asked for"] in state["records"], "on_close has run"
        )


def test_a_huge_frame_while_closing_is_not_buffered(server: Server):
    with peak_grows_less_than(server, 25 * MIB), server.raw_websocket("/recorder") as ws:
        assert ws.receive() == (0x81, b"opened")
        ws.send(frame(0x81, b"close"))
        assert ws.receive() == (0x88, b"\x0f\xa1asked for")
        with contextlib.suppress(OSError):
            ws.send(b"\x82\xff\0\0\0\x01\0\0\0\0\0\0\0\0")
            for _ in range(1000):
                ws.send(bytes(65536))
    recorded(server, [4001, "asked for"])


async def test_one_busy_connection_does_not_starve_others(server: Server):
    async def flood() -> None:
        async with server.connect("/recorder", max_queue=1, close_timeout=0.1) as busy:
            await busy.send("send for ever")
            async for _ in busy:
                pass

    flooding = asyncio.create_task(flood())
    try:
        async with server.connect("/echo") as ws:
            for n in range(50):
                await ws.send(str(n))
                assert await ws.recv() == str(n)
        assert not flooding.done()
    finally:
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
            await flooding


async def test_a_flood_of_small_messages_does_not_starve_others(server: Server):
    with server.raw_websocket("/echo") as busy:
        busy.send(frame(0x81, b"x") * 50_000)
        async with server.connect("/echo") as ws:
            await ws.send("in between")
            assert await ws.recv() == "in between"
