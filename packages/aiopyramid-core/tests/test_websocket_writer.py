from __future__ import annotations

import asyncio

import pytest
from websocket_peer import Peer, Transport, frame, until

from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.protocol import LOST
from aiopyramid.websocket.writer import BURST_SIZE, Writer


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


async def test_where_eof_cannot_be_written_the_transport_is_closed():
    peer = Peer(eof=False)
    peer.feed(frame(0x88))
    assert "close" in peer.transport.calls
    peer.lose()


@pytest.fixture
async def transport():
    return Transport()


@pytest.fixture
async def writer(transport):
    writer = Writer(asyncio.get_running_loop(), 0, lambda: None)
    writer.start(transport)
    return writer


async def test_a_large_burst_is_written_before_the_turn_ends(writer, transport):
    for _ in range(3):
        writer.write(bytes(BURST_SIZE // 2))
    assert transport.writes == 2
    assert writer.bytes_sent == len(transport.written) == 3 * (BURST_SIZE // 2)


async def test_after_a_burst_a_sender_lets_others_run(writer):
    writer.write(b"first")
    writer.write(bytes(BURST_SIZE))
    assert writer.unyielded >= BURST_SIZE
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, True)
    await writer.drain()
    assert ran
    assert writer.unyielded == 0


async def test_waiting_senders_go_on_when_the_transport_takes_more(writer):
    writer.pause()
    waiting = asyncio.ensure_future(writer.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    writer.resume()
    await waiting


@pytest.mark.parametrize("eof", [True, False])
async def test_nothing_is_written_after_the_end(writer, transport, eof):
    transport.eof = eof
    writer.pause()
    writer.write_pong(b"pong")
    writer.write(b"a")
    writer.write(b"b")
    assert writer.finish() is eof
    assert transport.calls == ["write_eof" if eof else "close"]
    writer.write(b"c")
    writer.resume()
    writer.flush()
    assert transport.written == b"ab"


async def test_nothing_is_written_to_a_transport_that_is_gone(writer, transport):
    writer.write(b"a")
    writer.write(b"b")
    writer.pause()
    writer.stop()
    assert writer.writable is None
    writer.write(b"c")
    await asyncio.sleep(0)
    assert transport.written == b"a"


async def test_what_others_get_as_well_is_written_at_once_and_begins_no_burst():
    peer = Peer()
    for _ in range(3):
        peer.protocol.writer.write_shared(b"\x81\x01a")
    assert peer.transport.writes == 3
    peer.protocol.send_message(0x81, b"b")
    peer.protocol.send_message(0x81, b"c")
    peer.protocol.writer.write_shared(b"\x81\x01d")
    await until(lambda: len(peer.frames()) == 6)
    assert [payload for _, payload in peer.frames()] == [b"a", b"a", b"a", b"b", b"c", b"d"]
    assert peer.protocol.writer.bytes_sent == 18
    peer.lose()
    peer.protocol.writer.write_shared(b"\x81\x01e")
    assert peer.protocol.writer.bytes_sent == 18


async def test_who_has_more_to_write_is_told_when_the_transport_takes_more():
    peer = Peer()
    told = []
    peer.protocol.writer.resumed = lambda: told.append(peer.protocol.writer.writable)
    peer.protocol.pause_writing()
    peer.protocol.resume_writing()
    assert told == [None]
