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

from aiopyramid.websocket.frames import encode_header
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.protocol import FULL, LOST, OPEN, READY, WAITING
from aiopyramid.websocket.turns import BUDGET, FRAME_SIZE


def run(coroutine: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await coroutine

    return asyncio.run(main())


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


async def test_a_close_frame_inside_of_a_message_is_answered_normally():
    peer = Peer()
    peer.feed(frame(0x01, b"half") + frame(0x88, Close(1000, "").serialize()))
    assert peer.messages() == []
    assert peer.frames() == [(0x88, Close(1000, "").serialize())]
    peer.lose()


async def test_close_is_bounded_in_time():
    peer = Peer(WebsocketOptions(close_timeout=0.01, ping_interval=0))
    await peer.ws.close()
    assert "abort" in peer.transport.calls
    assert peer.ws.close_code == 1000


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


async def test_after_our_close_a_paused_transport_reads_on():
    peer = Peer(WebsocketOptions(max_queue=1, ping_interval=0))
    peer.feed(frame(0x81, b"waits") + frame(0x82, bytes(100_000)) + frame(0x82))
    assert peer.transport.calls[-1] == "pause_reading"
    peer.ws.close_nowait(1001)
    await until(lambda: peer.transport.calls[-1] == "resume_reading")
    peer.feed(frame(0x88, b"\x03\xe9"))
    assert "write_eof" in peer.transport.calls
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


# What a peer can make the loop do.


def waiting(peer: Peer) -> int:
    """How many bytes wait to be parsed."""
    return len(peer.protocol.buffer) - peer.protocol.position


@pytest.mark.parametrize(
    "flood",
    [frame(0x89), frame(0x8A), frame(0x00), frame(0x81), frame(0x82, b"x")],
    ids=["pings", "pongs", "continuations", "empty messages", "messages"],
)
async def test_a_flood_of_frames_is_handled_in_many_turns_of_the_loop(flood):
    peer = Peer(WebsocketOptions(max_queue=10_000, ping_interval=0))
    if flood == frame(0x00):
        peer.feed(frame(0x01))
    peer.feed(flood * 1000)
    left = waiting(peer)
    assert left >= (1000 - BUDGET) * len(flood)
    while left:
        assert peer.transport.calls[-1] == "pause_reading"
        await asyncio.sleep(0)
        before, left = left, waiting(peer)
        assert before - left <= BUDGET * len(flood)
    assert peer.transport.calls[-1] == "resume_reading"
    assert peer.protocol.state is OPEN
    peer.lose()


async def test_large_frames_count_as_several():
    peer = Peer(WebsocketOptions(max_message_size=2**24, ping_interval=0))
    peer.feed(frame(0x02, bytes(FRAME_SIZE * BUDGET)) + frame(0x80))
    assert peer.messages() == []
    await until(peer.messages)
    peer.lose()


async def test_connections_with_much_to_handle_take_turns():
    peers = [Peer() for _ in range(5)]
    for peer in peers:
        peer.feed(frame(0x8A) * 1000)
    before = sum(map(waiting, peers))
    await asyncio.sleep(0)
    assert before - sum(map(waiting, peers)) <= BUDGET * len(frame(0x8A))
    await until(lambda: not any(peer.protocol.buffer for peer in peers))
    for peer in peers:
        peer.lose()


async def test_looking_ahead_over_many_small_frames_takes_turns_as_well():
    peer = Peer(WebsocketOptions(max_queue=1, ping_interval=0))
    peer.feed(frame(0x82) * 5000)
    assert peer.protocol.reading is WAITING
    await until(lambda: peer.protocol.reading is FULL)
    assert peer.transport.calls[-1] == "resume_reading"  # less than it may read ahead
    peer.feed(frame(0x88))
    await until(lambda: peer.ws.closed)
    assert len(peer.messages()) == 5000
    peer.lose()


# The end of the stream.


@pytest.mark.parametrize("eof", [True, False])
async def test_all_that_came_before_the_end_of_the_stream_is_delivered(eof):
    peer = Peer(eof=eof)
    peer.feed(frame(0x81, b"x") * 1000 + frame(0x01, b"half") + frame(0x80, b"whole") + b"\x81")
    assert peer.protocol.eof_received() is eof  # TLS knows no half-closed connections
    if not eof:
        peer.lose()
    assert not peer.ws.closed
    await until(lambda: peer.ws.closed)
    assert peer.messages() == ["x"] * 1000 + ["halfwhole"]
    assert peer.ws.close_code == 1006
    if eof:
        assert peer.transport.calls[-1] == "close"
        peer.lose()
    assert peer.events == ["opened", "closing", "lost"]
    assert peer.protocol.state is LOST


@pytest.mark.parametrize("end", ["close frame", "end of stream", "lost"])
async def test_what_inflates_behind_a_full_queue_is_bounded_whatever_ends_it(end):
    options = WebsocketOptions(max_queue_size=100_000, ping_interval=0)
    peer = Peer(options, [PerMessageDeflate(False, False, 12, 12)])
    client = Protocol(CLIENT)
    client.extensions = [PerMessageDeflate(False, False, 12, 12)]
    for _ in range(100):
        client.send_binary(bytes(50_000))
    peer.feed(b"".join(client.data_to_send()) + (frame(0x88) if end == "close frame" else b""))
    if end == "end of stream":
        assert peer.protocol.eof_received()
    elif end == "lost":
        peer.lose()
    await until(lambda: "closing" in peer.events)  # the view has its time to end
    assert sum(map(len, peer.messages())) <= 150_000
    received = []
    while (message := await peer.ws.recv()) is not None:
        received.append(message)
    assert received == [bytes(50_000)] * 100
    assert peer.ws.close_code == (1005 if end == "close frame" else 1006)
    peer.lose()
    assert peer.events == ["opened", "closing", "lost"]


async def test_a_close_frame_before_the_end_of_the_stream_counts():
    peer = Peer(WebsocketOptions(max_queue=1, ping_interval=0))
    peer.feed(frame(0x81, b"x") * 100 + frame(0x88, b"\x03\xe8"))
    assert peer.protocol.eof_received()
    await until(lambda: peer.ws.closed)
    assert peer.frames()[-1] == (0x88, b"\x03\xe8")
    assert peer.ws.close_code == 1000
    assert len(peer.messages()) == 100
    peer.lose()


async def test_with_nothing_left_the_end_of_the_stream_ends_the_connection():
    peer = Peer()
    peer.feed(frame(0x81, b"x"))
    assert not peer.protocol.eof_received()
    assert peer.ws.closed
    peer.feed(frame(0x81, b"late"))
    assert peer.messages() == ["x"]
    peer.lose()


async def test_a_view_that_closes_a_lost_connection_waits_for_nothing():
    peer = Peer(WebsocketOptions(max_queue=1, ping_interval=0))
    peer.feed(frame(0x81, b"x") * 100)
    peer.lose()
    assert not peer.ws.closed
    await peer.ws.close()
    assert peer.ws.close_code == 1006
    assert peer.events == ["opened", "closing", "lost"]
    await asyncio.sleep(0)


async def test_after_the_end_of_writing_nothing_is_written():
    peer = Peer()
    peer.protocol.pause_writing()
    peer.feed(frame(0x89, b"ping") + frame(0x88, b"\x03\xe8"))
    assert peer.transport.calls[-2:] == ["write_eof", "resume_reading"]
    size = len(peer.transport.written)
    peer.protocol.resume_writing()
    assert len(peer.transport.written) == size
    assert peer.frames() == [(0x88, b"\x03\xe8")]
    peer.lose()


async def test_what_comes_after_the_end_is_not_kept():
    peer = Peer()
    peer.feed(frame(0x83), frame(0x82, bytes(1000)), bytes(1000))
    assert peer.ws.close_code == 1002
    assert not peer.protocol.buffer
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
