from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import websocket_views
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from testing_app import make_app

from aiopyramid import homes
from aiopyramid.testing import client
from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.view import WebsocketConnectionView


class View(WebsocketConnectionView):
    def __init__(self, context=None, request=None):
        super().__init__(context, request)
        self.calls = []
        self.fail = {}

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


async def talk(kind, *messages, **fail):
    """Send messages to a view, and return it, the close code and what is raised in the test."""
    views = []

    class Recorded(kind):
        def __init__(self, context, request):
            super().__init__(context, request)
            self.fail = fail
            views.append(self)

    raised = None
    async with client(make_app(Recorded), raise_exceptions=True) as c:
        ws = None
        try:
            async with c.websocket("/ws") as ws:
                for message in messages:
                    await ws.send(message)
                if fail:
                    await ws.wait_closed()
        except Exception as exc:
            raised = exc
    return views[0], ws.close_code, raised


@pytest.mark.parametrize("kind", [Coroutines, Plain])
async def test_callbacks_are_called_in_order(kind):
    view, code, raised = await talk(kind, "a", "b")
    assert view.calls == ALL
    assert (code, raised) == (1000, None)


async def test_the_defaults_do_nothing():
    class View(WebsocketConnectionView):
        async def on_open(self):
            assert await self.on_handshake() is None
            await super().on_open()
            await self.send(self.request.path)
            assert self.context is self.ws.context

    async with client(make_app(View)) as c, c.websocket("/ws") as ws:
        assert await ws.receive() == "/ws"
        await ws.send("ignored")
        await ws.receive_nothing(timeout=0.01)


@pytest.mark.parametrize("kind", [Coroutines, Plain])
@pytest.mark.parametrize("name", ["on_open", "on_message"])
@pytest.mark.parametrize(("exc", "code"), [(KeyError(), 1011), (WebsocketClosed(), 1000)])
async def test_on_close_is_called_after_a_callback_that_fails(kind, name, exc, code):
    view, closed, raised = await talk(kind, "a", **{name: exc})
    assert view.calls == [*ALL[: 1 if name == "on_open" else 2], ("on_close",)]
    assert closed == code
    assert raised is (exc if code == 1011 else None)


async def test_the_first_exception_is_the_one_to_be_seen():
    _, _, raised = await talk(Coroutines, on_open=KeyError(), on_close=ValueError("v"))
    assert isinstance(raised, KeyError)
    assert raised.__notes__ == ["Then on_close raised ValueError('v')."]
    _, _, raised = await talk(Coroutines, on_open=KeyError(), on_close=WebsocketClosed())
    assert isinstance(raised, KeyError)
    assert not hasattr(raised, "__notes__")
    _, _, raised = await talk(Coroutines, on_open=WebsocketClosed(), on_close=ValueError("v"))
    assert isinstance(raised, ValueError)


class Ended:
    """A connection that has ended already."""

    def __init__(self, grace):
        self.protocol = SimpleNamespace(options=WebsocketOptions(disconnect_grace=grace))

    def close_nowait(self, code, reason):
        """Nothing is open."""


@pytest.mark.parametrize("grace", [0.0, 60.0])
async def test_plain_callbacks_run_once_and_in_order_though_no_thread_is_free(grace):
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        home = homes.home_here()
        home.callbacks = executor
        try:
            executor.submit(release.wait)
            view = Plain()
            task = asyncio.ensure_future(view(Ended(grace)))
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


# Decorators


@pytest.fixture
def config():
    with Configurator() as config:
        config.include("aiopyramid")
        for name in "abcd":
            config.add_route(name, f"/{name}")
        yield config


def options_of(config):
    views = [entry["introspectable"] for entry in config.introspector.get_category("views")]
    return [
        (view["callable"], view["route_name"], view["attr"], view["websocket_options"])
        for view in sorted(views, key=lambda view: (view["route_name"] or "", view.order))
        if "websocket_options" in view
    ]


def test_a_scan_finds_functions_and_methods(config):
    config.scan(websocket_views, categories=["pyramid"])
    config.commit()
    echo, room = websocket_views.echo, websocket_views.Room
    assert sorted(map(str, options_of(config))) == sorted(
        map(
            str,
            [
                (echo, "a", None, {"max_queue": 5}),
                (echo, "b", None, {"origins": ["https://a.example"]}),
                (room, "c", "talk", {"max_queue": 5}),
                (room, "c", "talk", {"max_queue": 6}),
            ],
        )
    )


async def test_page_and_sockets_of_a_class(config):
    config.scan(websocket_views, categories=["pyramid", "rooms"])
    async with client(config.make_wsgi_app()) as c:
        assert (await c.get("/c")).text == "the page"
        for path in ("/c", "/c?more=1"):
            async with c.websocket(path) as ws:
                assert await ws.receive() == "/c"
        async with c.websocket("/d") as ws:
            assert await ws.receive() == "special"


def test_without_the_include_the_scan_says_so():
    with pytest.raises(ConfigurationError, match=r"config\.include\('aiopyramid'\) comes before"):
        Configurator().scan(websocket_views)


def test_other_decorators_can_be_built_on_it(config):
    config.scan(websocket_views, categories=["rooms"])
    config.commit()
    assert options_of(config) == [(websocket_views.special, "d", None, {})]


def test_a_conflict_tells_the_lines_of_the_decorators(config):
    config.scan(websocket_views)
    config.add_websocket_view(websocket_views.special, route_name="a", request_param="yes")
    with pytest.raises(ConfigurationConflictError) as conflict:
        config.commit()
    assert '@websocket_view_config(route_name="a", max_queue=5' in str(conflict.value)
