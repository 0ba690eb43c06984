from __future__ import annotations

import asyncio
import json
import logging

import pytest
from testing_app import make_app

from aiopyramid.testing import client
from aiopyramid.websocket.codecs import JSONCodec
from aiopyramid.websocket.connection import WebsocketConnection
from aiopyramid.websocket.filtered import FilteredConnection, connection_class
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.view import WebsocketConnectionView


class Reversed:
    """Text turned round, of which the letter x is not allowed."""

    errors = (LookupError, ArithmeticError)

    def encode(self, obj):
        return obj[::-1].encode()

    def decode(self, message):
        if "x" in message:
            raise LookupError("there is an x")
        if message == "fault":
            raise TypeError("a fault of the codec")
        return message[::-1]

    def error_message(self, exc):
        return f"sorry, {exc}"


class Numbers:
    binary = True

    def encode(self, obj):
        return obj.to_bytes(2, "big")

    def decode(self, message):
        return int.from_bytes(message, "big")


async def double(ws):
    async for obj in ws:
        await ws.send(obj * 2)


def test_only_what_filters_costs():
    assert connection_class(WebsocketOptions()) is WebsocketConnection
    for options in ({"codec": Reversed()}, {"max_message_rate": 1.0}, {"max_byte_rate": 1.0}):
        assert connection_class(WebsocketOptions(**options)) is FilteredConnection


async def test_views_have_objects_and_clients_text():
    async with client(make_app(double, codec=JSONCodec)) as c, c.websocket("/ws") as ws:
        for value in ({"a": 1}, None, [1]):
            if isinstance(value, list):
                await ws.send(json.dumps(value))
                assert json.loads(await ws.receive()) == [1, 1]


async def test_null_does_not_look_like_the_end():
    async def view(ws):
        assert await ws.recv() is None
        assert not ws.closed
        received = [message async for message in ws]
        assert await ws.recv() is None
        assert ws.closed
        results.append(received)

    results = []
    async with client(make_app(view, codec=JSONCodec)) as c:
        async with c.websocket("/ws") as ws:
            for message in ("null", "1", "null", "2"):
                await ws.send(message)
        await ws.wait_closed()
    assert results == [[1, None, 2]]


async def test_json_can_be_sent_and_received_beside_a_codec():
    async def view(ws):
        await ws.send_json(await ws.recv_json())
        await ws.send(await ws.recv())

    async with client(make_app(view, codec=Reversed())) as c, c.websocket("/ws") as ws:
        await ws.send_json({"a": 1})
        assert await ws.receive_json() == {"a": 1}
        await ws.send("abc")
        assert await ws.receive() == "abc"


async def test_a_binary_codec_has_binary_messages():
    async with client(make_app(double, codec=Numbers())) as c, c.websocket("/ws") as ws:
        await ws.send(b"\x01\x02")
        assert await ws.receive() == b"\x02\x04"
        await ws.send("text")
        await ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1003, "expected a binary message")


@pytest.mark.parametrize("invalid_message", ["close", "answer"])
async def test_a_codec_of_text_has_no_binary_messages(invalid_message):
    app = make_app(double, codec=Reversed(), invalid_message=invalid_message)
    async with client(app) as c, c.websocket("/ws") as ws:
        await ws.send(b"a")
        await ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1003, "expected a text message")


async def test_a_message_that_does_not_fit_closes_the_connection(caplog):
    ended = []

    async def view(ws):
        ended.append([obj async for obj in ws])

    async with client(make_app(view, codec=Reversed())) as c, c.websocket("/ws") as ws:
        await ws.send("ok")
        await ws.send("a x")
        await ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1007, "invalid message: there is an x")
    assert ended == [["ko"]]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_message_that_does_not_fit_is_answered_if_that_is_asked():
    app = make_app(double, codec=Reversed(), invalid_message="answer")
    async with client(app) as c, c.websocket("/ws") as ws:
        await ws.send("a x")
        assert (await ws.receive())[::-1] == "sorry, there is an x"
        await ws.send("ab")
        assert await ws.receive() == "abab"


async def test_the_default_answer_is_in_json():
    app = make_app(double, codec=JSONCodec, invalid_message="answer")
    async with client(app) as c, c.websocket("/ws") as ws:
        await ws.send("{")
        answer = await ws.receive_json()
        assert answer["error"] == "invalid message"
        assert "column 2" in answer["detail"]
        await ws.send("[" * 100_000)
        assert (await ws.receive_json())["detail"] == "too deeply nested"


async def test_messages_after_the_end_hold_up_nobody():
    """Nor are they answered."""
    turns, answered, decoded, ended = 0, [], [], []

    class Counting(Reversed):
        def decode(self, message):
            decoded.append(turns)
            return super().decode(message)

        def error_message(self, exc):
            answered.append(exc)
            return "sorry"

    def turn():
        nonlocal turns
        turns += 1
        if not ended:
            asyncio.get_running_loop().call_soon(turn)

    async def view(ws):
        while not ws.closed:
            await asyncio.sleep(0)
        turn()
        ended.append([message async for message in ws])

    app = make_app(view, codec=Counting(), invalid_message="answer", disconnect_grace=60)
    async with client(app) as c, c.websocket("/ws") as ws:
        for _ in range(15):
            await ws.send("x")
    assert ended == [[]]
    assert answered == []
    assert len(set(decoded)) == len(decoded) == 15  # each in a turn of its own


async def test_a_reason_that_cannot_be_encoded_is_no_fault_of_the_view():
    class Echoing(Reversed):
        def decode(self, message):
            raise LookupError("\ud800")

    async with client(make_app(double, codec=Echoing())) as c, c.websocket("/ws") as ws:
        await ws.send("a")
        await ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1007, "invalid message: ?")


async def test_a_long_reason_is_cut():
    class Wordy(Reversed):
        errors = ValueError

        def decode(self, message):
            raise ValueError("ü" * 200)

    async with client(make_app(double, codec=Wordy())) as c, c.websocket("/ws") as ws:
        await ws.send("a")
        await ws.wait_closed()
    assert ws.close_reason == "invalid message: " + "ü" * 53


async def test_a_fault_of_the_codec_is_an_error_of_the_view(caplog):
    async with client(make_app(double, codec=Reversed())) as c, c.websocket("/ws") as ws:
        await ws.send("fault")
        await ws.wait_closed()
    assert ws.close_code == 1011
    assert caplog.text.count("TypeError: a fault of the codec") == 1


async def test_callbacks_have_objects_too():
    class View(WebsocketConnectionView):
        async def on_message(self, message):
            await self.send(message["a"])

    async with client(make_app(View, codec=JSONCodec)) as c, c.websocket("/ws") as ws:
        await ws.send('{"a": [1]}')
        assert await ws.receive() == "[1]"


# Rates


async def received_by(ws, count):
    for number in range(count):
        await ws.send(str(number))
    return [await ws.receive() for _ in range(count)]


async def test_what_comes_too_fast_is_delayed():
    loop = asyncio.get_running_loop()
    app = make_app(max_message_rate=50, rate_burst=0.1)
    async with client(app) as c, c.websocket("/ws") as ws:
        begin = loop.time()
        assert await received_by(ws, 15) == [str(number) for number in range(15)]
        # It can only take longer: five at once, and then 50 a second.
        assert loop.time() - begin >= 0.19


async def test_a_delayed_view_sees_the_end_at_once():
    ended = asyncio.Event()

    async def view(ws):
        received = [message async for message in ws]
        assert received == ["0", "1", "2"]
        ended.set()

    app = make_app(view, max_message_rate=0.001, disconnect_grace=0)
    async with client(app) as c:
        async with c.websocket("/ws") as ws:
            for number in range(3):
                await ws.send(str(number))
        await asyncio.wait_for(ended.wait(), 20)


async def test_what_comes_too_fast_is_dropped_and_counted():
    seen = []

    async def view(ws):
        await ws.recv()
        async for message in ws:
            seen.append(message)
        counts.append(ws.messages_dropped)

    counts = []
    app = make_app(view, max_message_rate=0.001, rate_burst=2000, rate_policy="drop")
    async with client(app) as c:
        async with c.websocket("/ws") as ws:
            for number in range(6):
                await ws.send(str(number))
        await ws.wait_closed()
    assert seen == ["1"]
    assert counts == [4]


@pytest.mark.parametrize("big", ["x" * 11, "ü" * 6, b"x" * 11])
async def test_what_comes_too_fast_closes_the_connection(big):
    app = make_app(max_byte_rate=0.01, rate_burst=1000, rate_policy="close")
    async with client(app) as c, c.websocket("/ws") as ws:
        await ws.send("x" * 5)
        await ws.send(big)
        assert await ws.receive() == "x" * 5
        await ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1008, "messages come too fast")
