from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request

from aiopyramid.websocket.mapper import WebsocketMapperBase
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.sessions import sessions
from aiopyramid.websocket.upgrade import KEY, Upgrade
from aiopyramid.websocket.view import WebsocketConnectionView


class Mapper(WebsocketMapperBase):
    server = "a test server"


def plain(ws):
    pass


async def coroutine(ws):
    pass


class PlainCall:
    def __init__(self, context, request):
        pass

    def __call__(self, ws):
        pass

    async def talk(self, ws):
        pass


def make_app(view, *, include=True, settings=None, **options):
    with Configurator(settings=settings or {}) as config:
        if include:
            config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_view(view, route_name="ws", mapper=Mapper, **options)
        return config.make_wsgi_app()


@pytest.mark.parametrize("view", [plain, PlainCall, PlainCall(None, None)])
def test_a_view_that_is_no_coroutine_is_refused(view):
    with pytest.raises(ConfigurationError, match="must be a coroutine or generator function"):
        make_app(view)


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match="must be a coroutine or generator function"):
        make_app(PlainCall, attr="missing")


@pytest.mark.parametrize("options", [{}, {"max_queue": 3, "origins": ["https://a.example"]}])
def test_a_coroutine_is_accepted_with_its_options(options):
    make_app(coroutine, **options)
    make_app(PlainCall, attr="talk", **options)
    make_app(WebsocketConnectionView, **options)


def test_a_bad_option_of_a_view_is_named():
    with pytest.raises(ConfigurationError, match="max_queue = 0 is not allowed"):
        make_app(coroutine, max_queue=0)


def test_without_the_include_settings_count_as_well():
    app = make_app(coroutine, include=False, settings={"aiopyramid.websocket.max_queue": "5"})
    from aiopyramid.websocket.mapper import options_of

    assert options_of(app.registry) == WebsocketOptions(max_queue=5)


def test_threads_do_not_overrun_the_limit_of_connections():
    everyone = threading.Barrier(4)

    class View:
        def __init__(self, request):
            pass

        async def __call__(self, ws):
            pass

        def select_subprotocol(self, offered):
            everyone.wait(10)  # all have found room, and nobody has taken it

    assert sessions.has_room(1)
    app = make_app(View, max_connections=2)
    upgrades = []

    def open_handshake(_: int) -> int:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "AAECAwQFBgcICQoLDA0ODw=="
        headers["Sec-WebSocket-Protocol"] = "chat"
        environ = {KEY: Upgrade(), "SERVER_PROTOCOL": "HTTP/1.1"}
        request = Request.blank("/ws", headers=headers, environ=environ)
        upgrades.append(request.environ[KEY])
        return request.get_response(app).status_code

    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(open_handshake, range(4)))
    assert sorted(statuses) == [101, 101, 503, 503]
    assert not sessions.has_room(2)
    for upgrade in upgrades:
        upgrade.forget()
    assert sessions.has_room(1)
