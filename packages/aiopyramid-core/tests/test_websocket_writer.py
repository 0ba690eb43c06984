from __future__ import annotations

from websocket_peer import Peer, frame, until

from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.protocol import LOST


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
