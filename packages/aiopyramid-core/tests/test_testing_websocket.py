from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import ContextVar

import pytest
import webtest
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response
from testing_app import echo, make_app

from aiopyramid.bridge import run_coroutine, spawn_greenlet
from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import synchronize, use_executor, use_request_thread
from aiopyramid.testing import HandshakeRefused, client, sync_client
from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.sessions import sessions

pytestmark = pytest.mark.both_loops

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Oops(Exception):
    pass


async def forever():
    await asyncio.get_running_loop().create_future()


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert not sessions.open
    assert not sessions._accepted


# The handshake


async def test_the_handshake_is_a_request_with_cookies_and_environ():
    seen = []

    class View:
        def __init__(self, request):
            seen.append(dict(request.cookies, **request.headers, agent=request.environ["agent"]))
            request.response.set_cookie("from_ws", "2")

        async def __call__(self, ws):
            await ws.send(ws.request.path_qs)

    app = webtest.TestApp(make_app(View), extra_environ={"agent": "test"})
    app.set_cookie("session", "1")
    headers = {"X-One": "one", "Accept-Language": "eo"}
    async with (
        client(app) as c,
        c.websocket("/ws?room=1", headers=headers, origin="http://localhost") as ws,
    ):
        assert await ws.receive() == "/ws?room=1"
    (environ,) = seen
    assert environ["session"] == "1"
    assert environ["agent"] == "test"
    assert environ["X-One"] == "one"
    assert environ["Accept-Language"] == "eo"
    assert environ["Origin"] == "http://localhost"
    assert ws.response.status == "101 Switching Protocols"
    assert app.cookies["from_ws"] == "2"


async def test_the_address_may_be_a_whole_one():
    async def view(ws):
        await ws.send(ws.request.url)

    async with client(make_app(view)) as c:
        async with c.websocket("wss://example.org/ws", origin="https://example.org") as ws:
            assert await ws.receive() == "https://example.org/ws"
        async with c.websocket("/ws", extra_environ={"HTTP_HOST": "example.com"}) as ws:
            assert await ws.receive() == "http://example.com/ws"


async def test_a_subprotocol_is_agreed_upon():
    app = make_app(subprotocols=["chat.v2", "chat.v1"])
    async with client(app) as c:
        async with c.websocket("/ws", subprotocols=["chat.v1", "other"]) as ws:
            assert ws.subprotocol == "chat.v1"
        async with c.websocket("/ws") as ws:
            assert ws.subprotocol is None


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_compression_is_offered_unless_switched_off(compression):
    app = make_app(compression="deflate")
    async with client(app) as c, c.websocket("/ws", compression=compression) as ws:
        assert ("Sec-WebSocket-Extensions" in ws.response.headers) is (compression == "deflate")
        text = "compress me " * 10000
        await ws.send(text)
        assert await ws.receive() == text


async def test_another_compression_does_not_exist():
    async with client(make_app()) as c:
        with pytest.raises(ValueError, match="compression is 'deflate' or None, not 'gzip'"):
            c.websocket("/ws", compression="gzip")


async def test_a_foreign_origin_is_refused():
    async with client(make_app()) as c:
        with pytest.raises(HandshakeRefused, match="403 Forbidden: .*evil.example") as caught:
            async with c.websocket("/ws", origin="https://evil.example"):
                pass
    assert caught.value.response.status_int == 403
    assert "Origin" in caught.value.response.request.headers


async def test_a_path_without_a_view_is_refused():
    async with client(make_app()) as c:
        with pytest.raises(HandshakeRefused, match="was answered with 404 Not Found"):
            async with c.websocket("/nothing"):
                pass


async def test_a_101_response_of_another_view_is_refused():
    def other(request):
        return Response(status=101)

    async with client(make_app(views=[other])) as c:
        with pytest.raises(HandshakeRefused, match="101 .*does not come from a WebSocket view"):
            async with c.websocket("/other"):
                pass


async def test_an_invalid_101_response_is_refused():
    async with client(make_app(tweens=[f"{__name__}.without_accept"])) as c:
        with pytest.raises(HandshakeRefused, match="response is invalid .*Sec-WebSocket-Accept"):
            async with c.websocket("/ws"):
                pass


def without_accept(handler, registry):
    def tween(request):
        response = handler(request)
        del response.headers["Sec-WebSocket-Accept"]
        return response

    return tween


async def test_an_exception_view_answers_a_handshake():
    class View:
        def __init__(self, request):
            raise HTTPForbidden("members only")

        __call__ = echo

    async with client(make_app(View)) as c:
        with pytest.raises(HandshakeRefused, match="403 Forbidden: .*members only"):
            async with c.websocket("/ws"):
                pass


async def test_what_the_application_raises_comes_out():
    class View:
        def __init__(self, request):
            raise Oops

        async def __call__(self, ws):
            pass

    async with client(make_app(View)) as c:
        with pytest.raises(Oops):
            async with c.websocket("/ws"):
                pass


# Messages


async def test_text_and_bytes_and_json_go_both_ways():
    async with client(make_app()) as c, c.websocket("/ws") as ws:
        await ws.send("text é")
        assert await ws.receive() == "text é"
        for message in (b"bytes", bytearray(b"bytes"), memoryview(b"bytes")):
            await ws.send(message)
            assert await ws.receive() == b"bytes"
        await ws.send_json({"a": [1]})
        assert await ws.receive_json() == {"a": [1]}
        with pytest.raises(TypeError, match="not int"):
            await ws.send(1)
        assert repr(ws) == "<Websocket /ws open>"
    assert repr(ws) == "<Websocket /ws closed>"


async def test_json_is_made_by_the_encoder_of_the_test_app():
    class Encoder(webtest.app.json.JSONEncoder):
        def default(self, value):
            return str(value)

    app = webtest.TestApp(make_app(), json_encoder=Encoder)
    async with client(app) as c, c.websocket("/ws") as ws:
        await ws.send_json({"path": Oops("x")})
        assert await ws.receive_json() == {"path": "x"}


async def test_a_message_that_is_not_json_is_shown():
    async with client(make_app()) as c, c.websocket("/ws") as ws:
        await ws.send("no json")
        with pytest.raises(ValueError, match=r"the message is not JSON \(.*\): 'no json'"):
            await ws.receive_json()


async def test_the_client_takes_messages_of_any_size():
    async def view(ws):
        await ws.send(b"x" * 5_000_000)

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        assert len(await ws.receive()) == 5_000_000


async def test_the_limits_of_the_view_are_those_of_the_server():
    async with client(make_app(max_message_size=10)) as c, c.websocket("/ws") as ws:
        await ws.send("x" * 11)
        with pytest.raises(WebsocketClosed, match="1009"):
            await ws.receive()


async def test_fragments_are_joined():
    async def view(ws):
        transport = ws.protocol.transport
        transport.write(b"\x01\x01a")  # text, to be continued
        transport.write(b"\x89\x00")  # a ping in between
        transport.write(b"\x80\x02bc")
        await ws.send(b"\x00")

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        assert await ws.receive() == "abc"
        assert await ws.receive() == b"\x00"


async def test_pings_are_answered_both_ways():
    pinged = asyncio.Event()

    async def view(ws):
        assert await ws.ping() >= 0
        pinged.set()
        await ws.recv()

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        await ws.ping()
        await ws.ping()
        await pinged.wait()


async def test_receiving_nothing_waits_and_shows_what_comes():
    async with client(make_app()) as c, c.websocket("/ws") as ws:
        await ws.receive_nothing(timeout=0.01)
        await ws.send("something")
        with pytest.raises(AssertionError, match="where none was expected: 'something'"):
            await ws.receive_nothing(timeout=10)
        assert await ws.receive() == "something"
        await ws.close()
        with pytest.raises(WebsocketClosed):
            await ws.receive_nothing()


async def test_a_message_that_comes_as_the_time_is_over_is_received():
    async with client(make_app()) as c, c.websocket("/ws") as ws:
        await ws.send("x")
        await ws.ping()
        assert await ws.receive(timeout=0) == "x"


async def test_a_view_has_a_context_of_its_own():
    async def view(ws):
        await ws.send(variable.get())
        with pytest.raises(ScopeError):
            await use_request_thread(print)()

    token = variable.set("by the test")
    try:
        async with client(make_app(view), raise_exceptions=True) as c, c.websocket("/ws") as ws:
            assert await ws.receive() == "unset"
    finally:
        variable.reset(token)


# Timeouts


async def test_a_receive_that_hangs_says_where_the_view_is():
    async def view(ws):
        await forever()

    app = make_app(view, disconnect_grace=0)
    async with client(app) as c, c.websocket("/ws") as ws:
        with pytest.raises(TimeoutError, match="no message came within 0.2 s") as caught:
            await ws.receive(timeout=0.2)
    message = str(caught.value)
    assert "timeout=None waits without limit" in message
    assert "await forever()" in message
    assert "in view\n" in message
    assert message.rstrip().endswith("await asyncio.get_running_loop().create_future()")
    assert "aiopyramid/testing" not in message


async def test_the_place_of_a_generator_view_is_found():
    def view(ws):
        yield from ws.recv().__await__()

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        with pytest.raises(TimeoutError, match="in view\n +yield from ws.recv"):
            await ws.receive(timeout=0.2)


@pytest.mark.parametrize("wait", [synchronize(forever), lambda: run_coroutine(forever())])
async def test_the_place_of_plain_code_that_waits_in_a_greenlet_is_found(wait):
    def plain():
        wait()

    async def view(ws):
        await spawn_greenlet(plain)

    app = make_app(view, disconnect_grace=0)
    async with client(app) as c, c.websocket("/ws") as ws:
        with pytest.raises(
            TimeoutError, match="(?s)in view\n.* in plain\n +wait.*in forever\n[^\n]*create_future"
        ):
            await ws.receive(timeout=0.01)


async def test_a_timeout_of_a_call_is_stronger_than_that_of_the_connection():
    async with client(make_app(), timeout=None) as c, c.websocket("/ws", timeout=60) as ws:
        with pytest.raises(TimeoutError, match="within 0.01 s"):
            await ws.receive(timeout=0.01)
        await ws.send("x")
        assert await ws.receive(timeout=None) == "x"


async def test_without_a_timeout_a_receive_waits_on():
    go_on = asyncio.Event()

    async def view(ws):
        await go_on.wait()
        await ws.send("late")

    async with client(make_app(view), timeout=None) as c, c.websocket("/ws") as ws:
        receiving = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        go_on.set()
        assert await receiving == "late"


async def test_a_view_that_has_ended_is_no_place():
    async with client(make_app()) as c, c.websocket("/ws") as ws:
        ws.pause_reading()
        ws._task.cancel()
        await asyncio.wait([ws._task])
        with pytest.raises(
            TimeoutError, match=r"(?s)no pong came.*The view has ended.*resume_reading"
        ):
            await ws.ping(timeout=0.01)


# Slow peers


async def test_a_client_that_reads_nothing_makes_the_view_wait():
    sent = []

    async def view(ws):
        for number in range(10):
            await ws.send(b"x" * 100_000)
            sent.append(number)

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        ws.pause_reading()
        with pytest.raises(TimeoutError, match=r"(?s)call resume_reading\(\) first.*writer.drain"):
            await ws.receive(timeout=0.05)
        assert len(sent) < 3
        ws.resume_reading()
        assert [len(await ws.receive()) for _ in range(10)] == [100_000] * 10
    assert len(sent) == 10


async def test_a_client_that_reads_nothing_is_dropped_after_the_send_timeout():
    async def view(ws):
        while True:
            await ws.send(b"x" * 100_000)

    app = make_app(view, send_timeout=0.05)
    async with client(app) as c, c.websocket("/ws") as ws:
        ws.pause_reading()
        await ws.wait_closed()
        assert ws.close_code == 1006


async def test_a_client_that_answers_no_pings_is_dropped():
    app = make_app(ping_interval=0.02, ping_timeout=0.02, close_timeout=0.05)
    async with client(app) as c, c.websocket("/ws") as ws:
        ws.pause_reading()
        await ws.wait_closed()
        assert ws.close_code == 1006


async def test_a_view_that_reads_nothing_makes_the_client_wait():
    go_on = asyncio.Event()
    received = []

    async def view(ws):
        await go_on.wait()
        async for message in ws:
            received.append(message)

    async def fill(ws):
        for _ in range(10):
            await ws.send(b"x" * 50_000, timeout=0.02)

    async with client(make_app(view, max_queue=1)) as c, c.websocket("/ws") as ws:
        with pytest.raises(
            TimeoutError, match="(?s)the view did not read within 0.02 s.*go_on.wait"
        ):
            await fill(ws)
        go_on.set()
        await ws.send("last")
        await ws.close()
    assert received[-1] == "last"


# The end


async def test_what_comes_before_the_close_is_received_first():
    async def view(ws):
        await ws.send("one")
        await ws.send("two")
        await ws.close(4000, "enough")

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        assert ws.close_code is ws.close_reason is None
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4000, "enough")
        assert await ws.receive() == "one"
        assert await ws.receive() == "two"
        with pytest.raises(WebsocketClosed, match="closed with code 4000") as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.reason) == (4000, "enough")
        for call in (ws.send("x"), ws.ping(), ws.receive_json()):
            with pytest.raises(WebsocketClosed, match="4000"):
                await call


async def test_a_connection_that_is_lost_while_a_pong_is_awaited():
    async def view(ws):
        ws.protocol.transport.abort()

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        with pytest.raises(WebsocketClosed, match="1006"):
            await ws.ping()


async def test_closing_tells_the_view_code_and_reason():
    ends = []

    async def view(ws):
        assert await ws.recv() is None
        ends.append((ws.close_code, ws.close_reason))

    async with client(make_app(view)) as c:
        async with c.websocket("/ws") as ws:
            await ws.close(4001, "bye")
            assert ws.close_code == 4001
            await ws.close()
        async with c.websocket("/ws") as ws:
            with pytest.raises(ValueError, match="cannot close with code 1006"):
                await ws.close(1006)
        async with c.websocket("/ws") as ws:
            ws.abort()
            with pytest.raises(WebsocketClosed, match="1006"):
                await ws.send("x")
    assert ends == [(4001, "bye"), (1000, ""), (1006, "")]
    assert ws.close_code == 1006


async def test_a_server_that_breaks_the_protocol_is_found_out():
    async def view(ws):
        ws.protocol.transport.write(b"\xff\x00")
        await ws.recv()

    async with client(make_app(view)) as c, c.websocket("/ws") as ws:
        with pytest.raises(WebsocketClosed) as caught:
            await ws.receive()
    assert "invalid opcode" in str(caught.value.__cause__)


async def test_leaving_waits_until_the_view_has_ended():
    done = []

    async def view(ws):
        await ws.recv()
        for _ in range(50):
            await asyncio.sleep(0)
        done.append(ws.close_code)

    async with client(make_app(view)) as c:
        async with c.websocket("/ws"):
            pass
        assert done == [1000]
        async with c.websocket("/ws") as ws:
            ws.pause_reading()
        assert done == [1000, 1000]


async def test_leaving_a_view_that_does_not_end_says_where_it_is(no_warnings):
    cancelled = []

    async def view(ws):
        for _ in range(2):
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled.append(True)

    async with client(make_app(view), timeout=1) as c:
        with pytest.raises(TimeoutError, match="(?s)the view did not end within .*create_future"):
            async with c.websocket("/ws"):
                pass
        assert cancelled == [True] * 2
        with pytest.raises(Oops):
            async with c.websocket("/ws"):
                raise Oops
    assert cancelled == [True] * 4


@pytest.mark.parametrize("grace", [0.0, 3600.0])
async def test_leaving_a_view_that_does_not_look_cancels_it_as_a_server_does(grace):
    cancelled = []

    async def ticker(ws):
        try:
            while True:
                await ws.send("tick")
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(ws.closed)
            raise

    app = make_app(ticker, disconnect_grace=grace)
    async with client(app, timeout=1) as c, c.websocket("/ws") as ws:
        assert await ws.receive() == "tick"
    assert cancelled == [True]


# Exceptions of views


async def failing(ws):
    await ws.send("first")
    await ws.recv()
    raise Oops("of the view")


async def test_an_exception_of_the_view_closes_with_1011_and_is_the_cause(caplog):
    async with client(make_app(failing)) as c, c.websocket("/ws") as ws:
        await ws.send("go")
        assert await ws.receive() == "first"
        with pytest.raises(WebsocketClosed, match="1011") as caught:
            await ws.receive()
        assert str(caught.value.__cause__) == "of the view"
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


async def test_an_exception_of_the_view_is_raised_where_the_test_waits(caplog):
    app = make_app(failing)
    async with client(app, raise_exceptions=True) as c, c.websocket("/ws") as ws:
        await ws.send("go")
        assert await ws.receive() == "first"
        with pytest.raises(Oops, match="of the view"):
            await ws.receive()
        with pytest.raises(WebsocketClosed, match="1011"):
            await ws.receive()
    assert "raised an exception" in caplog.text


async def test_an_exception_of_the_view_is_raised_at_the_end():
    async def use(end=None):
        async with c.websocket("/ws", raise_exceptions=True) as ws:
            await ws.send("go")
            if end is not None:
                raise end

    async with client(make_app(failing)) as c:
        with pytest.raises(Oops):
            await use()
        with pytest.raises(ZeroDivisionError):
            await use(ZeroDivisionError())


async def test_a_quiet_end_of_a_view_is_not_raised():
    async def view(ws):
        await ws.recv()
        await ws.send("too late")

    async with (
        client(make_app(view), raise_exceptions=True) as c,
        c.websocket("/ws") as ws,
    ):
        await ws.close()


# Plain code


def test_plain_tests_have_the_same_connection():
    seen = []

    async def view(ws):
        seen.append(threading.current_thread())
        async for message in ws:
            await ws.send(message)
        seen.append(ws.close_code)

    with sync_client(make_app(view)) as c:
        with c.websocket("/ws", subprotocols=["a"]) as ws:
            ws.send("text")
            assert ws.receive() == "text"
            ws.send_json({"a": 1})
            assert ws.receive_json() == {"a": 1}
            ws.receive_nothing(timeout=0.01)
            ws.ping()
            with pytest.raises(TimeoutError, match="no message came within 0.01 s"):
                ws.receive(timeout=0.01)
            assert ws.subprotocol is None
            assert ws.response.status_int == 101
            assert ws.close_code is ws.close_reason is None
            assert repr(ws) == "<SyncWebsocket /ws open>"
            ws.pause_reading()
            ws.resume_reading()
            ws.close(4000, "bye")
            assert (ws.close_code, ws.close_reason) == (4000, "bye")
        with c.websocket("/ws") as ws:
            ws.abort()
            ws.wait_closed()
            assert ws.close_code == 1006
    assert seen[0] is not threading.current_thread()
    assert seen[1::2] == [4000, 1006]


async def test_plain_tests_may_run_in_a_thread_of_a_loop():
    def plain():
        with sync_client(make_app()) as c, c.websocket("/ws") as ws:
            ws.send("text")
            assert ws.receive() == "text"

    await use_executor(plain)()


def test_methods_for_plain_code_keep_their_names_and_texts():
    from aiopyramid.testing import SyncWebsocket, Websocket

    for name in ("send", "receive", "abort", "pause_reading"):
        method = getattr(SyncWebsocket, name)
        assert method.__name__ == name
        assert method.__doc__ == getattr(Websocket, name).__doc__
