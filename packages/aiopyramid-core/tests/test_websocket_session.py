from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
from types import SimpleNamespace

import pytest
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.threadlocal import get_current_registry, get_current_request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from zope import interface

from aiopyramid import threadlocal
from aiopyramid.helpers import synchronize
from aiopyramid.websocket.events import WebsocketEnded, WebsocketOpened
from aiopyramid.websocket.exceptions import CloseWebsocket, WebsocketClosed
from aiopyramid.websocket.handshake import Handshake
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.session import Session
from aiopyramid.websocket.sessions import sessions
from aiopyramid.websocket.view import WebsocketConnectionView

OPTIONS = WebsocketOptions(ping_interval=0, close_timeout=5, disconnect_grace=0.01)
CLOSE = b"\x88\x80\0\0\0\0"


@pytest.fixture(autouse=True)
def not_ending(monkeypatch):
    monkeypatch.setattr("aiopyramid.websocket.session.sessions.ending", None)


@pytest.fixture
def registry():
    return Registry("test")


@pytest.fixture
def start(registry):
    """Run a view over a real connection; give the client's end of it."""

    @contextlib.asynccontextmanager
    async def started(view, options=OPTIONS):
        request = SimpleNamespace(
            registry=registry, method="GET", path="/path", remote_addr="1.2.3.4"
        )
        handshake = Handshake([], [], ServerProtocol(state=OPEN))
        session = Session(view, None, request, options, handshake)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(session.open, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        async with asyncio.timeout(10):
            while session.task is None:
                await asyncio.sleep(0)
        try:
            yield SimpleNamespace(session=session, reader=reader, writer=writer, request=request)
        finally:
            writer.close()
            server.close()
            await session.task
            await asyncio.sleep(0)
            assert session not in sessions.open

    return started


def errors(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_view_has_a_request_context_of_its_own(start, registry):
    threadlocal.install()
    seen = []

    async def view(ws):
        seen.append((get_current_request(), get_current_registry()))

    async with start(view) as client:
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xe8"
        client.writer.write(CLOSE)
    assert seen == [(client.request, registry)]
    assert get_current_request() is None


async def test_nothing_is_kept_that_was_for_the_response(registry):
    request = Request.blank("/path")
    request.registry = registry
    response = request.response
    request.add_response_callback(lambda request, response: None)
    request.add_finished_callback(lambda request: None)
    request.custom = "kept"
    handshake = Handshake([("Upgrade", "websocket")], ["chat"], ServerProtocol(state=OPEN))
    handshake.choose("chat")
    session = Session(None, None, request, OPTIONS, handshake)
    session.open()
    assert request.custom == "kept"
    assert request.response is not response
    assert not request.response_callbacks
    assert not request.finished_callbacks
    assert session.ws.subprotocol == "chat"
    assert handshake not in gc.get_referents(session, vars(session))


async def test_subscribers_are_told_and_may_wait(start, registry):
    told = []

    @synchronize
    async def wait(event):
        await asyncio.sleep(0)
        told.append(event)

    async def view(ws):
        assert len(told) == 1
        await ws.send("x")
        await ws.recv()

    registry.registerHandler(wait, (interface.Interface,))
    async with start(view) as client:
        assert await client.reader.readexactly(3) == b"\x81\x01x"
        client.writer.write(b"\x81\x81\0\0\0\0y")
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xe8"
        client.writer.write(CLOSE)
    opened, ended = told
    assert (opened.ws, opened.request) == (client.session.ws, client.request)
    assert (ended.code, ended.messages_received, ended.messages_sent) == (1000, 1, 1)
    assert (ended.bytes_received, ended.bytes_sent) == (7 + 6, 3 + 4)
    assert ended.duration > 0


async def test_a_subscriber_to_the_opening_that_fails_closes_with_1011(start, registry, caplog):
    def fail(event):
        if isinstance(event, WebsocketOpened):
            raise RuntimeError("subscriber")

    registry.registerHandler(fail, (interface.Interface,))
    called = []

    async def view(ws):
        called.append(ws)

    async with start(view) as client:
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xf3"
        client.writer.write(CLOSE)
    assert not called
    assert len(errors(caplog)) == 1


async def test_a_subscriber_to_the_end_that_fails_is_logged(start, registry, caplog):
    def fail(event):
        if isinstance(event, WebsocketEnded):
            raise RuntimeError("subscriber")

    registry.registerHandler(fail, (interface.Interface,))

    async def view(ws):
        pass

    async with start(view) as client:
        client.writer.write(CLOSE)
    (record,) = errors(caplog)
    assert "a subscriber to WebsocketEnded raised an exception" in record.getMessage()


async def test_an_exception_is_logged_once_with_its_traceback(start, caplog):
    async def view(ws):
        raise RuntimeError("view")

    async with start(view) as client:
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xf3"
        client.writer.write(CLOSE)
    (record,) = errors(caplog)
    assert record.getMessage() == ("WebSocket GET /path from 1.2.3.4: its view raised an exception")
    assert "RuntimeError: view" in caplog.text


async def test_websocket_closed_may_pass(start, caplog):
    async def view(ws):
        raise WebsocketClosed

    async with start(view) as client:
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xe8"
        client.writer.write(CLOSE)
    assert not errors(caplog)


async def test_the_line_at_the_end_has_the_facts(start, caplog):
    caplog.set_level(logging.INFO, "aiopyramid.websocket")

    async def view(ws):
        await ws.close(4000, "done")

    async with start(view) as client:
        await client.reader.readexactly(2)
        client.writer.write(CLOSE)
    (record,) = caplog.records
    assert record.websocket["code"] == 4000
    assert "WebSocket /path from 1.2.3.4 closed: code=4000 reason='done'" in record.getMessage()


async def test_a_view_that_goes_on_is_cancelled_after_the_grace(start):
    ended = []

    async def view(ws):
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(ws.close_code)

    async with start(view) as client:
        client.writer.transport.abort()
        await client.session.task
    assert ended == [1006]


async def test_after_its_own_close_a_view_has_the_grace_as_well(start):
    ended = []

    async def view(ws):
        await ws.close()
        ended.append("closed")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with start(view) as client:
        await client.reader.readexactly(2)
        client.writer.write(CLOSE)
        client.writer.close()
        await client.session.task
    assert ended == ["closed", "cancelled"]


async def test_a_task_group_may_end_with_the_connection(start, caplog):
    async def view(ws):
        async def read():
            while await ws.recv() is not None:
                pass
            raise WebsocketClosed

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(asyncio.sleep(3600))

    async with start(view) as client:
        client.writer.write(CLOSE)
        await client.reader.read()
    assert not errors(caplog)


async def test_a_cancellation_of_something_else_is_an_error(start, caplog):
    async def view(ws):
        task = asyncio.create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    async with start(view) as client:
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xf3"
        client.writer.write(CLOSE)
    assert len(errors(caplog)) == 1


class Callbacks(WebsocketConnectionView):
    def __init__(self, fail=()):
        self.fail = fail
        self.calls = []

    async def _called(self, name):
        self.calls.append((name, self.ws.close_code))
        if name in self.fail:
            raise RuntimeError(name)

    async def on_open(self):
        await self._called("on_open")

    async def on_message(self, message):
        await self._called("on_message")

    async def on_close(self):
        await self._called("on_close")


@pytest.mark.parametrize(
    ("fail", "calls"),
    [
        ([], [("on_open", None), ("on_message", None), ("on_close", 1005)]),
        (["on_open"], [("on_open", None), ("on_close", 1011)]),
        (["on_message"], [("on_open", None), ("on_message", None), ("on_close", 1011)]),
        (
            ["on_message", "on_close"],
            [("on_open", None), ("on_message", None), ("on_close", 1011)],
        ),
        (["on_close"], [("on_open", None), ("on_message", None), ("on_close", 1005)]),
    ],
)
async def test_on_close_runs_once_whatever_fails(start, caplog, fail, calls):
    view = Callbacks(fail)
    async with start(view) as client:
        client.writer.write(b"\x81\x81\0\0\0\0x" + CLOSE)
        await client.reader.readexactly(2)
    assert view.calls == calls
    assert len(errors(caplog)) == bool(fail)


async def test_sessions_end_with_the_code_of_the_server(start):
    view = Callbacks()
    async with start(view) as client:
        while not view.calls:
            await asyncio.sleep(0)
        ending = asyncio.ensure_future(sessions.end(1012, 5))
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xf4"
        client.writer.write(CLOSE)
        await ending
        assert view.calls == [("on_open", None), ("on_close", 1012)]
        assert not sessions.open
    await sessions.end(1001, 5)  # none left


async def test_a_session_that_was_accepted_before_the_end_is_closed_when_it_opens(start):
    view = Callbacks()
    request = SimpleNamespace(method="GET", path="/path", remote_addr="1.2.3.4")
    waiting = Session(view, None, request, OPTIONS, Handshake([], [], ServerProtocol(state=OPEN)))
    assert sessions.admit(waiting, 1)
    ending = asyncio.ensure_future(sessions.end(1012, 5))
    await asyncio.sleep(0)
    assert not ending.done()
    async with start(view) as client:
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xf4"
        client.writer.write(CLOSE)
        sessions.forget(waiting)  # its response did not go out
        await ending
    assert view.calls == [("on_open", 1012), ("on_close", 1012)]


async def test_a_session_that_does_not_end_is_cancelled_in_time(start):
    calls = []

    async def view(ws):
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            calls.append(ws.close_code)

    patient = WebsocketOptions(ping_interval=0, disconnect_grace=3600)
    async with start(view, patient) as client:
        await asyncio.sleep(0)
        await sessions.end(1001, 0.05)
        assert calls == [1001]
        assert client.session.task.done()


async def test_an_exception_is_logged_though_on_close_finds_the_connection_closed(start, caplog):
    class View(Callbacks):
        async def on_close(self):
            await self.send("bye")  # raises WebsocketClosed

    async with start(View(["on_message"])) as client:
        client.writer.write(b"\x81\x81\0\0\0\0x" + CLOSE)
        await client.reader.read()
    assert len(errors(caplog)) == 1
    assert "RuntimeError: on_message" in caplog.text


async def test_an_on_close_that_fails_after_a_quiet_end_is_logged(start, caplog):
    class View(Callbacks):
        async def on_message(self, message):
            raise WebsocketClosed

    async with start(View(["on_close"])) as client:
        client.writer.write(b"\x81\x81\0\0\0\0x" + CLOSE)
        await client.reader.read()
    assert len(errors(caplog)) == 1
    assert "RuntimeError: on_close" in caplog.text


async def test_an_old_connection_is_closed_for_its_client_to_come_again(start):
    seen = []

    async def view(ws):
        seen.append([message async for message in ws])
        seen.append((ws.close_code, ws.close_reason))

    options = dataclasses.replace(OPTIONS, max_age=0.05, max_age_jitter=0.5)
    async with start(view, options) as run:
        assert await run.reader.readexactly(15) == b"\x88\x0d\x03\xf4maximal age"
        run.writer.write(CLOSE)
        await run.session.task
    assert seen == [[], (1012, "maximal age")]


async def test_the_age_is_forgotten_with_the_connection(start):
    async def view(ws):
        await ws.recv()

    async with start(view, dataclasses.replace(OPTIONS, max_age=3600)) as run:
        aging = run.session.aging
        assert 3600 * 0.8 <= aging.when() - asyncio.get_running_loop().time() <= 3600
        run.writer.write(CLOSE)
        await run.session.task
    await asyncio.sleep(0)
    assert aging.cancelled()


async def test_a_view_can_close_with_a_code_by_an_exception(start, caplog):
    async def view(ws):
        raise CloseWebsocket(4401, "signed out")

    async with start(view) as run:
        assert await run.reader.readexactly(14) == b"\x88\x0c\x11\x31signed out"
        run.writer.write(CLOSE)
    assert not errors(caplog)
