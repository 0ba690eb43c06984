"""WebSockets through the real server, with the client of the websockets library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct

import httpx
import pytest
from harness import HANDSHAKE, Server, eventually
from test_http import memory
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close


def changed(**headers: str | None) -> dict[str, str]:
    """The handshake's headers, with some changed or removed."""
    merged = HANDSHAKE | {name.replace("_", "-"): value for name, value in headers.items()}
    return {name: value for name, value in merged.items() if value is not None}


def closed_with(ws) -> Close | None:
    try:
        while True:
            ws.recv()
    except ConnectionClosed as exc:
        return exc.rcvd


# Messages.


def test_text_stays_str_and_binary_stays_bytes(server: Server):
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        ws.send("text")
        assert ws.recv() == "str 4"
        ws.send(b"binary")
        assert ws.recv() == "bytes 6"


def test_fragments_are_joined(server: Server):
    with server.sync_connect("/echo") as ws:
        ws.send(["a", "b", "", "ü"])
        assert ws.recv() == "abü"
        ws.send([b"1", b"2"])
        assert ws.recv() == b"12"


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 2**20])
@pytest.mark.parametrize("path", ["/echo", "/echo_deflate"])
def test_messages_of_all_sizes_are_echoed(server: Server, size: int, path: str):
    with server.sync_connect(path, max_size=None) as ws:
        message = os.urandom(size)
        ws.send(message)
        assert ws.recv() == message


def test_compression_is_on_only_where_a_view_wants_it(server: Server):
    with server.sync_connect("/echo") as ws:
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
    with server.sync_connect("/echo_deflate") as ws:
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]


async def test_many_messages_are_echoed_in_order(server: Server):
    async with server.connect("/echo", max_queue=None) as ws:
        for n in range(5000):
            await ws.send(str(n))
        assert [await ws.recv() for _ in range(5000)] == [str(n) for n in range(5000)]


def test_json_goes_through_pyramids_renderer(server: Server):
    with server.sync_connect("/json") as ws:
        ws.send('{"a": [1, null]}')
        assert ws.recv() == '{"got": {"a": [1, null]}}'


def test_ping_measures_the_latency(server: Server):
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        ws.send("latency")
        assert ws.recv() == "True True"


async def test_thread_locals_are_each_connections_own(server: Server):
    async def talk(n: int) -> None:
        async with server.connect(f"/context?n={n}") as ws:
            for i in range(20):
                await ws.send(str(i))
                assert await ws.recv() == f"True {n} {i}"

    await asyncio.gather(*(talk(n) for n in range(20)))


# The handshake.


def test_one_route_serves_the_page_and_the_socket(server: Server):
    with server.client() as client:
        assert client.get("/page").text == "the page"
    with server.sync_connect("/page") as ws:
        assert ws.recv() == "the socket"


def test_tweens_and_cookies_are_on_the_101(server: Server):
    with server.sync_connect("/constructor") as ws:
        assert ws.response.headers["X-Tween"] == "seen"
        cookies = " ".join(ws.response.headers.get_all("Set-Cookie"))
    assert "tween=yes" in cookies
    assert "constructor=yes" in cookies


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 426),
        (changed(Upgrade=None), 426),
        (changed(Upgrade="h2c"), 426),
        (changed(Connection="keep-alive"), 426),
        (changed(Sec_WebSocket_Version="12"), 426),
        (changed(Sec_WebSocket_Version=None), 400),
        (changed(Sec_WebSocket_Key=None), 400),
        (changed(Sec_WebSocket_Key="short"), 400),
        (changed(Sec_WebSocket_Key="!" * 24), 400),
        (changed(Origin="http://evil.example"), 403),
        (changed(Origin="null"), 403),
        (changed(Sec_WebSocket_Protocol="a, ;"), 400),
        (changed(Content_Length="2"), 400),
    ],
)
def test_a_request_that_is_no_good_handshake_is_refused(
    server: Server, headers: dict[str, str], status: int
):
    with server.client() as client:
        body = b"xx" if "Content-Length" in headers else None
        response = client.request("GET", "/echo", headers=headers, content=body)
    assert response.status_code == status
    assert response.headers["x-tween"] == "seen"
    if status == 426:
        assert "upgrade" in response.headers["connection"].lower().split(", ")
        assert response.headers["upgrade"] == "websocket"
        assert response.headers["sec-websocket-version"] == "13"


def test_another_method_gets_405(server: Server):
    with server.client() as client:
        response = client.post("/echo", headers=HANDSHAKE)
    assert (response.status_code, response.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("host", [b"", b"Host: a b\r\n", b"Host: x\r\nHost: y\r\n"])
def test_a_missing_or_bad_host_gets_400(server: Server, host: bytes):
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in HANDSHAKE.items())
    with server.socket() as sock:
        sock.sendall(b"GET /echo HTTP/1.1\r\n" + host + head + b"\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_http_1_0_cannot_become_a_websocket(server: Server):
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in HANDSHAKE.items())
    with server.socket() as sock:
        sock.sendall(b"GET /echo HTTP/1.0\r\nHost: x\r\n" + head + b"\r\n")
        assert sock.recv(65536).split()[1] == b"400"


def test_the_own_origin_is_accepted(server: Server):
    with server.sync_connect("/echo", origin=server.url) as ws:
        ws.send("same origin")
        assert ws.recv() == "same origin"


ORIGINS = {
    "aiopyramid.websocket.origins": "https://a.example\nhttps://*.b.example:8443 null",
    "pyramid.csrf_trusted_origins": "c.example .d.example",
}


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        ("http://x", True),
        ("https://x", False),
        ("http://x:81", False),
        ("https://a.example", True),
        ("http://a.example", False),
        ("https://a.example:444", False),
        ("https://www.a.example", False),
        ("https://deep.www.b.example:8443", True),
        ("https://b.example:8443", False),
        ("https://evilb.example:8443", False),
        ("http://c.example", True),
        ("http://d.example", True),
        ("http://www.d.example", True),
        ("http://evil.example/?http://x", False),
        ("null", True),
    ],
)
def test_origins_are_those_of_the_settings(origins_server, origin: str, accepted: bool):
    with origins_server.raw_websocket("/echo", Origin=origin) as ws:
        assert ws.status == (101 if accepted else 403)


@pytest.fixture(scope="module")
def origins_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("origins") / "server.log")
    server.launch(settings=ORIGINS)
    server.wait_until_up()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        ("https://www.example.com", True),
        ("https://www.example.com:443", True),
        ("http://www.example.com", False),
        ("https://www.example.com:8443", False),
    ],
)
def test_behind_a_proxy_the_origin_is_compared_with_what_it_forwards(
    server: Server, origin: str, accepted: bool
):
    forwarded = {"Host": "www.example.com", "X_Forwarded_Proto": "https"}
    with server.raw_websocket("/echo", Origin=origin, **forwarded) as ws:
        assert ws.status == (101 if accepted else 403)


def test_all_origins_can_be_allowed(launch):
    server = launch(settings={"aiopyramid.websocket.origins": "*"})
    with server.raw_websocket("/echo", Origin="http://anything.example") as ws:
        assert ws.status == 101


@pytest.mark.parametrize("query", ["constructor", "hook"])
def test_a_view_refuses_before_it_is_opened(server: Server, query: str):
    before = server.state()["counts"].get("event opened", 0)
    with pytest.raises(InvalidStatus) as info, server.sync_connect(f"/constructor?{query}"):
        pass
    assert info.value.response.status_code == 403
    assert f"the {query} says no".encode() in info.value.response.body
    assert server.state()["counts"].get("event opened", 0) == before


def test_exception_views_answer_for_a_handshake(server: Server):
    with pytest.raises(InvalidStatus) as info, server.sync_connect("/constructor?error"):
        pass
    assert info.value.response.status_code == 418


def test_the_permission_is_checked_before(server: Server):
    with pytest.raises(InvalidStatus) as info, server.sync_connect("/secret?user=al"):
        pass
    assert info.value.response.status_code == 403
    with server.sync_connect("/secret?user=jo") as ws:
        assert ws.recv() == "welcome"


@pytest.mark.parametrize(
    ("path", "offered", "chosen"),
    [
        ("/subprotocols", ["a", "b"], "b"),
        ("/subprotocols", ["c", "a"], "a"),
        ("/subprotocols", ["c"], None),
        ("/subprotocols", None, None),
        ("/constructor", ["x", "y"], "y"),
        ("/constructor", None, None),
    ],
)
def test_the_subprotocol_is_chosen(server: Server, path: str, offered, chosen):
    with server.sync_connect(path, subprotocols=offered) as ws:
        assert ws.subprotocol == chosen
        assert ws.recv() == str(chosen)


def test_a_method_of_a_class_can_be_the_view(server: Server):
    with server.sync_connect("/attr") as ws:
        assert ws.recv() == "talked"


def test_plain_callbacks_run_in_threads(server: Server):
    with server.sync_connect("/callbacks") as ws:
        assert ws.recv().startswith("aiopyramid")
        ws.send("seen")
        assert ws.recv() == "seen True"


# The end.


def recorded(server: Server, record: list[object]) -> None:
    server.eventually_state(lambda state: record in state["records"], f"{record} is recorded")


def test_a_view_that_returns_closes_with_1000(server: Server):
    with server.sync_connect("/page") as ws:
        assert ws.recv() == "the socket"
        assert closed_with(ws) == Close(1000, "")


def test_a_view_closes_with_its_code_and_reason_once(server: Server):
    with server.sync_connect("/recorder") as ws:
        ws.send("close")
        assert closed_with(ws) == Close(4001, "asked for")
    recorded(server, [4001, "asked for"])


def test_a_view_sees_the_clients_code_and_reason(server: Server):
    with server.sync_connect("/recorder") as ws:
        ws.close(4321, "client's reason")
        assert ws.close_code == 4321
    recorded(server, [4321, "client's reason"])


def test_an_exception_in_a_view_closes_its_connection_alone(server: Server):
    errors = server.log.count("RuntimeError: on_message fails")
    with server.sync_connect("/recorder") as other, server.sync_connect("/recorder") as ws:
        ws.send("fail")
        assert closed_with(ws).code == 1011
        assert other.recv() == "opened"
        other.send("still there")
        assert other.recv() == "str 11"
    recorded(server, [1011, ""])
    assert server.log.count("RuntimeError: on_message fails") == errors + 1
    assert "WebSocket GET /recorder from 127.0.0.1: its view raised an exception" in server.log


@pytest.mark.parametrize("activity", ["sleep", "tick", "send for ever", "nothing"])
def test_a_lost_connection_ends_its_view(launch, activity: str, variant: str):
    server = launch(
        variant=variant,
        settings={"aiopyramid.websocket.disconnect_grace": "0.1"},
    )
    with server.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        ws.send(activity)
        if activity == "tick":
            assert ws.recv() == "tick"
        elif activity != "nothing":
            what = {"sleep": "sleeping", "send for ever": "sent"}[activity]
            server.eventually_state(lambda state: state["counts"].get(what), "the view is busy")
        # Reset, without a closing handshake.
        ws.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))
        os.close(os.dup(ws.socket.fileno()))
        ws.socket.shutdown(2) if activity == "sleep" else ws.socket.close()
    recorded(server, [1006, ""])
    state = server.state()
    assert state["counts"]["opened"] == state["counts"]["closed"] == 1
    assert state["counts"].get("cancelled", 0) == (activity == "sleep")
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # unknown opcode
        (b"\xc1\x80\0\0\0\0", 1002),  # reserved bit
        (b"\x80\x80\0\0\0\0", 1002),  # continues nothing
        (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),  # a new message inside of another
        (b"\x09\x80\0\0\0\0", 1002),  # fragmented ping
        (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),  # ping of 126 bytes
        (b"\x81\xfe\x00\x02\0\0\0\0hi", 1002),  # length not in its shortest form
        (b"\x81\xff\0\0\0\0\0\0\0\x02\0\0\0\0hi", 1002),
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # not UTF-8
        (b"\x01\x82\0\0\0\0\xc3\x28", 1007),
        (b"\x82\xff\0\0\0\0\0\x10\0\x01\0\0\0\0", 1009),  # over 1 MiB, as it says
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
        (b"\x88\x81\0\0\0\0\x03", 1002),  # close with half a code
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # close with 1005
    ],
)
def test_a_bad_frame_gets_its_close_code(server: Server, frame: bytes, code: int):
    with server.raw_websocket("/echo") as ws:
        ws.send(frame)
        assert ws.close_code() == code


def test_events_and_the_log_line_tell_the_end(server: Server):
    with server.sync_connect("/echo") as ws:
        ws.send("one")
        ws.recv()
        ws.close(4000, "counted")
    recorded(server, ["ended", 4000, "counted", 1, 1])


# Each server, and each kind of transport.
@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "gunicorn-loop", "uwsgi-asyncio"])
async def test_five_thousand_connections_leave_nothing_behind(launch, variant: str):
    # A server of its own: what large messages did to another's heap would show.
    server = launch(variant=variant)

    async def once(n: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            async with server.connect("/recorder") as ws:
                assert await ws.recv() == "opened"
                match n % 4:
                    case 0:
                        await ws.send("fail")
                        await ws.recv()
                    case 1:
                        ws.transport.abort()
                    case 2:
                        await ws.send("close")
                        await ws.recv()

    def settled() -> dict[str, int] | None:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            state = client.get("/state?gc=1").json()
        counts = state["counts"]
        return state if counts["opened"] == counts["closed"] else None

    async def thousand() -> dict[str, int]:
        for _ in range(20):
            await asyncio.gather(*(once(n) for n in range(50)))
        return eventually(settled, "all have closed")

    before = await thousand()
    memory_before = memory(before["pid"])
    for _ in range(5):
        await thousand()
    # A connection that is kept has over 10 KiB.
    assert memory(before["pid"]) - memory_before < 8 * 2**20
    eventually(lambda: settled()["tasks"] <= before["tasks"], "no task is left")
    eventually(lambda: settled()["fds"] <= before["fds"], "no descriptor is left")
    # Each of fifty requests at a time may have had one that is still there.
    assert settled()["threads"] <= max(before["threads"], 50) + 1


def test_the_request_s_headers_outlive_it(server: Server):
    with server.sync_connect("/headers", additional_headers={"X-Test": "kept"}) as ws:
        for _ in range(10):
            with server.client() as client:  # whose environ may take the place of the other
                assert client.get("/up").status_code == 200
            ws.send("headers?")
            assert ws.recv() == "kept" * 2
    server.eventually_state(lambda state: state["counts"].get("ended with kept"), "the event")
