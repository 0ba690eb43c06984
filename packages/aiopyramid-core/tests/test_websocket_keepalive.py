from __future__ import annotations

import asyncio

import pytest
from websocket_peer import Peer, frame, until

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.protocol import LOST, OPEN


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
