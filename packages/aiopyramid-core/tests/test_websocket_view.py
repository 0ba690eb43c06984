from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from aiopyramid import threads
from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.view import WebsocketConnectionView


class Connection:
    """A connection with some messages, after which it is closed."""

    def __init__(self, *messages, grace=60.0):
        options = WebsocketOptions(disconnect_grace=grace)
        self.protocol = SimpleNamespace(options=options)
        self.messages = [*messages, None]
        self.codes = []
        self.sent = []

    async def recv(self):
        return self.messages.pop(0)

    def close_nowait(self, code):
        self.codes.append(code)

    async def send(self, message):
        self.sent.append(message)


class View(WebsocketConnectionView):
    def __init__(self, **fail):
        super().__init__("context", "request")
        self.fail = fail
        self.calls = []

    def called(self, name, *args):
        self.calls.append((name, *args))
        if name in self.fail:
            raise self.fail[name]


class Coroutines(View):
    async def on_open(self):
        self.called("on_open")

    async def on_message(self, message):
        self.called("on_message", message)

    async def on_close(self):
        self.called("on_close")


class Plain(View):
    def on_open(self):
        self.called("on_open")

    def on_message(self, message):
        self.called("on_message", message)

    def on_close(self):
        self.called("on_close")


ALL = [("on_open",), ("on_message", "a"), ("on_message", "b"), ("on_close",)]


@pytest.mark.parametrize("kind", [Coroutines, Plain])
async def test_callbacks_are_called_in_order(kind):
    view = kind()
    await view(Connection("a", "b"))
    assert view.calls == ALL


async def test_the_defaults_do_nothing():
    view = WebsocketConnectionView("context", "request")
    assert await view.on_handshake() is None
    ws = Connection("a")
    await view(ws)
    await view.send("x")
    assert (view.ws, ws.sent) == (ws, ["x"])


@pytest.mark.parametrize("kind", [Coroutines, Plain])
@pytest.mark.parametrize("name", ["on_open", "on_message"])
@pytest.mark.parametrize(("exc", "code"), [(KeyError(), 1011), (WebsocketClosed(), 1000)])
async def test_on_close_is_called_after_a_callback_that_fails(kind, name, exc, code):
    view, ws = kind(**{name: exc}), Connection("a", "b")
    with pytest.raises(type(exc)):
        await view(ws)
    assert view.calls == [*ALL[: 1 if name == "on_open" else 2], ("on_close",)]
    assert ws.codes == [code]


async def test_the_first_exception_is_the_one_to_be_seen():
    with pytest.raises(KeyError) as info:
        await Coroutines(on_open=KeyError(), on_close=ValueError("v"))(Connection())
    assert info.value.__notes__ == ["Then on_close raised ValueError('v')."]
    with pytest.raises(KeyError) as info:
        await Coroutines(on_open=KeyError(), on_close=WebsocketClosed())(Connection())
    assert not hasattr(info.value, "__notes__")
    with pytest.raises(ValueError, match="v"):
        await Coroutines(on_open=WebsocketClosed(), on_close=ValueError("v"))(Connection())


@pytest.mark.parametrize("grace", [0.0, 60.0])
async def test_plain_callbacks_run_once_and_in_order_though_no_thread_is_free(grace):
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        home = threads.home_here()
        home.callbacks = executor
        try:
            executor.submit(release.wait)
            view = Plain()
            task = asyncio.ensure_future(view(Connection("a", grace=grace)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            assert view.calls == []
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            release.set()
            home.callbacks = None
    assert view.calls == [("on_open",), ("on_close",)]
