from __future__ import annotations

import asyncio
import itertools
import os
import zlib
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket_peer import Peer, frame, until
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close
from websockets.protocol import CLIENT, Protocol

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.frames import encode_header
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.protocol import LOST, OPEN, READY


def run(coroutine: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await coroutine

    return asyncio.run(main())


# Reading.


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
async def test_a_message_of_any_size_is_delivered(size):
    peer = Peer()
    payload = os.urandom(size)
    peer.feed(frame(0x82, payload))
    assert peer.messages() == [payload]


async def test_text_is_decoded():
    peer = Peer()
    peer.feed(frame(0x81, "grüße".encode()))
    assert peer.messages() == ["grüße"]


async def test_fragments_with_control_frames_between_are_joined():
    peer = Peer()
    text = "grüße".encode()
    peer.feed(frame(0x01, text[:3]), frame(0x89, b"?"), frame(0x00, text[3:]), frame(0x80))
    assert peer.messages() == ["grüße"]
    assert peer.frames() == [(0x8A, b"?")]


async def test_compressed_messages_are_inflated():
    peer = Peer(extensions=[PerMessageDeflate(False, False, 12, 12)])
    client = Protocol(CLIENT)
    client.extensions = [PerMessageDeflate(False, False, 12, 12)]
    for message in (b"x" * 1000, b"y"):
        client.send_text(message)
        peer.feed(b"".join(client.data_to_send()))
    assert peer.messages() == ["x" * 1000, "y"]


async def test_a_message_that_compression_makes_larger_is_accepted_up_to_the_limit():
    limit = 50_000
    options = WebsocketOptions(max_message_size=limit, ping_interval=0)
    for size, ok in ((limit, True), (limit + 1, False)):
        peer = Peer(options, [PerMessageDeflate(False, False, 12, 12)])
        deflate = zlib.compressobj(9, zlib.DEFLATED, -12, 1)
        payload = os.urandom(size)
        data = (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert len(data) > limit
        peer.feed(frame(0xC2, data))
        assert peer.messages() == ([payload] if ok else [])
        assert peer.ws.close_code == (None if ok else 1009)
        peer.lose()


async def test_reading_pauses_when_enough_messages_wait_and_resumes_at_half():
    peer = Peer(WebsocketOptions(max_queue=4, ping_interval=0))
    peer.feed(b"".join(frame(0x81, str(n).encode()) for n in range(10)))
    assert peer.messages() == ["0", "1", "2", "3"]
    assert peer.transport.calls == ["resume_reading"]  # it reads ahead
    peer.feed(frame(0x82, bytes(100_000)))
    assert peer.transport.calls == ["resume_reading", "pause_reading"]
    assert [await peer.ws.recv() for _ in range(10)] == [str(n) for n in range(10)]
    assert await peer.ws.recv() == bytes(100_000)
    await until(lambda: peer.protocol.reading is READY)
    assert peer.transport.calls[-1] == "resume_reading"


@pytest.mark.parametrize("pieces", [1, 2, 1000])
async def test_a_close_frame_behind_waiting_messages_is_seen_at_once(pieces):
    peer = Peer(WebsocketOptions(max_queue=2, ping_interval=0))
    data = b"".join(frame(0x82, bytes(200)) for n in range(5))
    peer.feed(*split(data + frame(0x88, b"\x03\xe8"), list(range(0, 1100, 1100 // pieces))))
    await until(lambda: peer.ws.closed)
    assert peer.ws.close_code == 1000
    assert [await peer.ws.recv() for _ in range(6)] == [bytes(200)] * 5 + [None]
    peer.lose()


async def test_what_waits_behind_a_view_that_gives_way_is_bounded():
    peer = Peer()

    async def view() -> None:
        while await peer.ws.recv() is not None:
            pass

    viewing = asyncio.ensure_future(view())
    await asyncio.sleep(0)
    peer.feed((frame(0x81, b"x") + frame(0x89)) * 100)
    assert peer.transport.calls[-1] == "pause_reading"
    await until(lambda: not peer.protocol.buffer)
    assert peer.transport.calls[-1] == "resume_reading"
    assert len(peer.frames()) == 100
    peer.lose()
    await viewing


async def test_what_arrives_while_reading_is_paused_is_kept():
    peer = Peer(WebsocketOptions(max_queue=1, ping_interval=0))
    data = b"".join(frame(0x82, bytes([n]) * 300) for n in range(5))
    peer.feed(data[:100], data[100:350], data[350:700], data[700:])
    assert [await peer.ws.recv() for _ in range(5)] == [bytes([n]) * 300 for n in range(5)]


async def test_messages_before_a_close_frame_are_received_and_then_none():
    peer = Peer()
    peer.feed(frame(0x81, b"last words") + frame(0x88, Close(1000, "bye").serialize()))
    assert await peer.ws.recv() == "last words"
    assert await peer.ws.recv() is None
    assert await peer.ws.recv() is None
    assert (peer.ws.close_code, peer.ws.close_reason) == (1000, "bye")
    assert peer.frames() == [(0x88, Close(1000, "bye").serialize())]
    peer.lose()


async def test_a_close_frame_inside_of_a_message_is_answered_normally():
    peer = Peer()
    peer.feed(frame(0x01, b"half") + frame(0x88, Close(1000, "").serialize()))
    assert peer.messages() == []
    assert peer.frames() == [(0x88, Close(1000, "").serialize())]
    peer.lose()


async def test_only_one_task_may_receive():
    peer = Peer()
    first = asyncio.ensure_future(peer.ws.recv())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await peer.ws.recv()
    peer.feed(frame(0x81, b"x"))
    assert await first == "x"


async def test_recv_may_be_called_right_after_another_was_cancelled():
    peer = Peer()
    first = asyncio.ensure_future(peer.ws.recv())
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(peer.ws.recv())
    await asyncio.sleep(0)
    peer.feed(frame(0x81, b"x"))
    assert await second == "x"
    assert first.cancelled()


async def test_a_cancelled_recv_loses_no_message():
    peer = Peer()
    receiving = asyncio.ensure_future(peer.ws.recv())
    await asyncio.sleep(0)
    peer.feed(frame(0x81, b"x"))
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert await peer.ws.recv() == "x"


# Writing.


async def test_all_kinds_of_messages_are_sent():
    peer = Peer()
    for message in ("text", b"bytes", bytearray(b"array"), memoryview(b"view")):
        await peer.ws.send(message)
    assert peer.frames() == [(0x81, b"text"), (0x82, b"bytes"), (0x82, b"array"), (0x82, b"view")]


async def test_other_types_are_refused():
    peer = Peer()
    with pytest.raises(TypeError, match="bytearray or memoryview, not int"):
        await peer.ws.send(1)
    assert peer.frames() == []


async def test_a_memoryview_of_larger_items_is_sent_as_its_bytes():
    import array

    numbers = array.array("I", [1, 2, 3])
    peer = Peer()
    await peer.ws.send(memoryview(numbers))
    assert peer.frames() == [(0x82, numbers.tobytes())]


async def test_a_burst_is_written_in_few_pieces_and_in_order():
    peer = Peer()
    for n in range(100):
        await peer.ws.send(str(n))
    assert peer.transport.writes < 5
    assert [payload for _, payload in peer.frames()] == [str(n).encode() for n in range(100)]


async def test_an_answer_is_written_at_once():
    peer = Peer()
    peer.feed(frame(0x81, b"?"))
    await peer.ws.send("!")
    assert peer.transport.written == b"\x81\x01!"


async def test_send_waits_while_the_peer_does_not_read():
    peer = Peer()
    peer.protocol.pause_writing()
    sending = asyncio.ensure_future(peer.ws.send("x"))
    await asyncio.sleep(0)
    assert not sending.done()
    peer.protocol.resume_writing()
    await sending


async def test_a_send_that_waits_fails_when_the_connection_is_lost():
    peer = Peer()
    peer.protocol.pause_writing()
    sending = asyncio.ensure_future(peer.ws.send("x"))
    await asyncio.sleep(0)
    peer.lose()
    with pytest.raises(WebsocketClosed, match="1006"):
        await sending


async def test_a_peer_that_does_not_read_is_dropped_after_the_send_timeout():
    peer = Peer(WebsocketOptions(send_timeout=0.01, ping_interval=0))
    peer.protocol.pause_writing()
    await until(lambda: peer.protocol.state is LOST)
    assert (peer.ws.close_code, peer.ws.close_reason) == (
        1006,
        "the peer does not read what it is sent",
    )


async def test_a_peer_that_does_not_read_gets_one_pong_for_many_pings():
    peer = Peer()
    peer.protocol.pause_writing()
    for n in range(1000):
        peer.feed(frame(0x89, str(n).encode()))
    assert peer.frames() == []
    peer.protocol.resume_writing()
    assert peer.frames() == [(0x8A, b"999")]


async def test_a_view_that_only_sends_lets_others_run():
    peer = Peer()
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    for _ in range(100):
        await peer.ws.send(bytes(10_000))
        if ran.is_set():
            break
    else:
        raise AssertionError("the sender never gave way")


# Pings.


async def test_ping_returns_the_latency():
    peer = Peer()
    pinging = asyncio.ensure_future(peer.ws.ping())
    await asyncio.sleep(0)
    ((first_byte, payload),) = peer.frames()
    assert first_byte == 0x89
    peer.feed(frame(0x8A, b"unsolicited"))
    await asyncio.sleep(0)
    assert not pinging.done()
    peer.feed(frame(0x8A, payload))
    assert await pinging == peer.ws.latency > 0
    assert not peer.protocol.keepalive._pings


async def test_a_pong_answers_all_earlier_pings():
    peer = Peer()
    pinging = [asyncio.ensure_future(peer.ws.ping()) for _ in range(3)]
    await asyncio.sleep(0)
    peer.feed(frame(0x8A, peer.frames()[1][1]))
    await asyncio.sleep(0)
    assert [ping.done() for ping in pinging] == [True, True, False]
    peer.lose()
    with pytest.raises(WebsocketClosed):
        await pinging[2]
    await asyncio.gather(*pinging[:2])


async def test_ping_of_a_closed_connection_raises():
    peer = Peer()
    peer.lose()
    with pytest.raises(WebsocketClosed):
        await peer.ws.ping()


async def test_a_cancelled_ping_is_forgotten():
    peer = Peer()
    pinging = asyncio.ensure_future(peer.ws.ping())
    await asyncio.sleep(0)
    pinging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pinging
    assert not peer.protocol.keepalive._pings


async def test_a_silent_peer_is_failed_with_1011_and_then_dropped():
    peer = Peer(WebsocketOptions(ping_interval=0.01, ping_timeout=0.01, close_timeout=0.01))
    await until(lambda: peer.protocol.state is LOST)
    assert [first_byte for first_byte, _ in peer.frames()] == [0x89, 0x88]
    assert (peer.ws.close_code, peer.ws.close_reason) == (1011, "no pong in time")
    assert peer.events == ["opened", "closing", "lost"]


async def test_a_peer_that_answers_is_pinged_again_and_again():
    peer = Peer(WebsocketOptions(ping_interval=0.001, ping_timeout=1000))
    for n in range(1, 4):
        await until(lambda n=n: len(peer.frames()) == n)
        peer.feed(frame(0x8A, peer.frames()[-1][1]))
    assert peer.protocol.state is OPEN
    peer.lose()


async def test_while_the_queue_is_full_a_pong_cannot_be_seen_and_is_not_missed():
    peer = Peer(WebsocketOptions(ping_interval=0.001, ping_timeout=0.001, max_queue=1))
    peer.feed(frame(0x81, b"waits") + frame(0x81, b"behind"))
    await until(lambda: len(peer.frames()) > 3)
    assert peer.protocol.state is OPEN
    peer.lose()


async def test_a_peer_whose_pong_stands_behind_data_is_not_silent():
    peer = Peer(WebsocketOptions(ping_interval=0.001, ping_timeout=0.001))
    data = frame(0x82, bytes(1000))
    for n in range(5):
        await until(lambda n=n: len(peer.frames()) > n)
        peer.feed(data[n * 100 : n * 100 + 100])
    assert peer.protocol.state is OPEN
    peer.lose()


async def test_without_a_ping_timeout_pings_are_sent_and_not_awaited():
    peer = Peer(WebsocketOptions(ping_interval=0.001, ping_timeout=0))
    await until(lambda: len(peer.frames()) > 3)
    assert not peer.protocol.keepalive._pings
    peer.lose()


# The end.


async def test_close_waits_for_the_peer_and_a_second_close_does_nothing():
    peer = Peer()
    closing = [asyncio.ensure_future(peer.ws.close(4000 + n, "reason")) for n in range(2)]
    await asyncio.sleep(0)
    assert peer.frames() == [(0x88, Close(4000, "reason").serialize())]
    assert not closing[0].done()
    peer.feed(frame(0x88, Close(4000, "").serialize()))
    assert "write_eof" in peer.transport.calls
    peer.lose()
    await asyncio.gather(*closing)
    await peer.ws.close()
    assert (peer.ws.close_code, peer.ws.close_reason) == (4000, "reason")
    assert peer.protocol.state is LOST
    assert peer.events == ["opened", "closing", "lost"]


async def test_close_is_bounded_in_time():
    peer = Peer(WebsocketOptions(close_timeout=0.01, ping_interval=0))
    await peer.ws.close()
    assert "abort" in peer.transport.calls
    assert peer.ws.close_code == 1000


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)]
)
async def test_a_code_or_reason_that_no_close_frame_may_carry_is_refused(code, reason):
    peer = Peer()
    with pytest.raises(ValueError, match=f"cannot close with code {code}"):
        await peer.ws.close(code, reason)
    assert not peer.ws.closed
    peer.lose()


async def test_where_eof_cannot_be_written_the_transport_is_closed():
    peer = Peer(eof=False)
    peer.feed(frame(0x88))
    assert "close" in peer.transport.calls
    peer.lose()


async def test_an_empty_close_frame_means_1005():
    peer = Peer()
    peer.feed(frame(0x88))
    assert peer.ws.close_code == 1005
    assert peer.frames() == [(0x88, b"")]
    peer.lose()


async def test_messages_after_our_close_are_dropped_and_its_answer_is_seen():
    peer = Peer(WebsocketOptions(max_queue=1, ping_interval=0))
    peer.feed(frame(0x81, b"waits") + frame(0x81, b"behind"))
    peer.ws.close_nowait(1001)
    assert await peer.ws.recv() is None
    peer.feed(frame(0x81, b"too late"), frame(0x01, b"half"), frame(0x88, b"\x03\xe9"))
    await until(lambda: "write_eof" in peer.transport.calls)
    assert peer.messages() == []
    peer.lose()


async def test_sending_on_a_closed_connection_raises():
    peer = Peer()
    peer.feed(frame(0x88, Close(4321, "gone").serialize()))
    with pytest.raises(WebsocketClosed, match=r"code 4321 \(gone\)") as info:
        await peer.ws.send("x")
    assert (info.value.code, info.value.reason) == (4321, "gone")
    peer.lose()


async def test_nothing_is_left_when_the_connection_is_lost():
    peer = Peer(WebsocketOptions(ping_interval=1000))
    closing = asyncio.ensure_future(peer.ws.close())
    await asyncio.sleep(0)
    peer.protocol.pause_writing()
    peer.lose()
    await closing
    protocol = peer.protocol
    timers = (protocol._close_timer, protocol.writer._timer, protocol.keepalive._timer)
    assert timers == (None, None, None)
    assert len(asyncio.all_tasks()) == 1


async def test_json_and_iteration():
    from pyramid import testing

    with testing.testConfig() as config:
        config.add_renderer("json", "pyramid.renderers.json_renderer_factory")
        peer = Peer()
        peer.ws.request = testing.DummyRequest()
        await peer.ws.send_json({"a": 1})
        assert peer.frames() == [(0x81, b'{"a": 1}')]
    peer.feed(frame(0x81, b'{"b": 2}'), frame(0x81, b"{"))
    assert await peer.ws.recv_json() == {"b": 2}
    with pytest.raises(ValueError, match="Expecting"):
        await peer.ws.recv_json()
    peer.feed(frame(0x81, b"x"), frame(0x88))
    assert [message async for message in peer.ws] == ["x"]
    assert await peer.ws.recv_json() is None
    peer.lose()


# Properties.

payloads = st.one_of(
    st.binary(max_size=140), st.text(max_size=40).map(str.encode), st.just(b"\xff" * 3)
)
closes = st.one_of(
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.integers(0, 65535),
        st.one_of(st.binary(max_size=123), st.text(max_size=30).map(str.encode)),
    ),
    st.binary(max_size=4),
)
legal = st.one_of(
    st.builds(frame, st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80]), payloads),
    st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125)),
)
any_frame = st.one_of(
    legal,
    legal,
    st.builds(frame, st.just(0x88), closes),
    st.builds(frame, st.integers(0, 255), payloads),
    st.builds(
        lambda first_byte, payload: encode_header(first_byte, len(payload)) + payload,
        st.integers(0, 255),
        payloads,
    ),
    st.builds(
        lambda head, length, size: (
            bytes([head, 0xFF if size == 8 else 0xFE]) + length.to_bytes(size, "big")
        ),
        st.integers(0, 255),
        st.integers(0, 65535),
        st.sampled_from([2, 8]),
    ),
    st.binary(max_size=20),
)
streams = st.lists(any_frame, max_size=12).map(b"".join)


def outcome(pieces: list[bytes], max_queue: int = 1000) -> tuple[Any, ...]:
    """What a connection makes of a stream that comes in these pieces."""

    async def play() -> tuple[Any, ...]:
        errors: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        options = WebsocketOptions(max_message_size=300, max_queue=max_queue, ping_interval=0)
        peer = Peer(options)
        received = []

        async def view() -> None:
            while (message := await peer.ws.recv()) is not None:
                received.append(message)

        viewing = asyncio.ensure_future(view())
        for piece in pieces:
            peer.feed(piece)
            while peer.protocol.buffer and peer.protocol.reading is not READY:
                await asyncio.sleep(0)
        await until(lambda: not peer.messages())
        peer.lose()
        await viewing
        frames = peer.frames()
        assert not errors
        assert len(asyncio.all_tasks()) == 1
        return received, frames, peer.ws.close_code, peer.ws.close_reason

    return run(play())


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(points)]


@settings(deadline=None, max_examples=300)
@given(streams, st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from([1, 2, 1000]))
def test_any_split_of_the_stream_gives_the_same_outcome(data, cuts, max_queue):
    assert outcome(split(data, cuts), max_queue) == outcome([data])


@settings(deadline=None, max_examples=100)
@given(streams)
def test_byte_by_byte_gives_the_same_outcome(data):
    assert outcome([data[i : i + 1] for i in range(len(data))]) == outcome([data])


@settings(deadline=None, max_examples=500)
@given(streams)
def test_any_stream_ends_in_a_legal_close(data):
    _, frames, code, _ = outcome([data])
    closing = [payload for first_byte, payload in frames if first_byte == 0x88]
    assert all(first_byte in (0x8A, 0x88) for first_byte, _ in frames)
    assert len(closing) <= 1
    if closing:
        assert frames[-1] == (0x88, closing[0])
        close = Close.parse(closing[0])
        if closing[0]:
            close.check()
        assert code == close.code
    else:
        assert code == 1006
