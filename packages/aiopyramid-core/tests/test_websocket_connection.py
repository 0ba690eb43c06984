from __future__ import annotations

import asyncio

import pytest
from websocket_peer import Peer, frame
from websockets.frames import Close

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.protocol import LOST


async def test_messages_before_a_close_frame_are_received_and_then_none():
    peer = Peer()
    peer.feed(frame(0x81, b"last words") + frame(0x88, Close(1000, "bye").serialize()))
    assert await peer.ws.recv() == "last words"
    assert await peer.ws.recv() is None
    assert await peer.ws.recv() is None
    assert (peer.ws.close_code, peer.ws.close_reason) == (1000, "bye")
    assert peer.frames() == [(0x88, Close(1000, "bye").serialize())]
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


async def test_ping_of_a_closed_connection_raises():
    peer = Peer()
    peer.lose()
    with pytest.raises(WebsocketClosed):
        await peer.ws.ping()


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


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)]
)
async def test_a_code_or_reason_that_no_close_frame_may_carry_is_refused(code, reason):
    peer = Peer()
    with pytest.raises(ValueError, match=f"cannot close with code {code}"):
        await peer.ws.close(code, reason)
    assert not peer.ws.closed
    peer.lose()


async def test_sending_on_a_closed_connection_raises():
    peer = Peer()
    peer.feed(frame(0x88, Close(4321, "gone").serialize()))
    with pytest.raises(WebsocketClosed, match=r"code 4321 \(gone\)") as info:
        await peer.ws.send("x")
    assert (info.value.code, info.value.reason) == (4321, "gone")
    peer.lose()


async def test_json_and_iteration():
    from pyramid import testing

    with testing.testConfig() as config:
        config.add_renderer("json", "pyramid.renderers.json_renderer_factory")
        peer = Peer()
        peer.ws._request = testing.DummyRequest()
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


async def test_the_end_of_a_connection_is_announced_once():
    peer = Peer()
    told = []
    for name in "ab":
        peer.ws.add_ending(lambda name=name: told.append(name))
    assert not peer.ws.is_ending
    peer.ws.announce_ending()
    peer.ws.announce_ending()
    assert told == ["a", "b"]
    assert peer.ws.is_ending
