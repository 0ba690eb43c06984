from __future__ import annotations

import asyncio
import threading

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPForbidden

from aiopyramid.testing import HandshakeRefused, client
from aiopyramid.websocket.mapper import WebsocketMapperBase, options_of
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.sessions import sessions
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


def make_app(view, *, include=True, settings=None, attr=None, **options):
    with Configurator(settings=settings or {}) as config:
        if include:
            config.include("aiopyramid")
        config.add_route("ws", "/ws")
        if options:
            options = {"websocket_options": options}
        config.add_view(view, route_name="ws", mapper=Mapper, attr=attr, **options)
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

    assert options_of(app.registry) == WebsocketOptions(max_queue=5)


@pytest.mark.parametrize("chosen", ["chat", "news", None])
async def test_a_view_chooses_among_the_subprotocols(chosen):
    offers = []

    class View(WebsocketConnectionView):
        def select_subprotocol(self, offered):
            offers.append(list(offered))
            return chosen

    offered = ["chat", "news"]
    async with client(make_app(View)) as c, c.websocket("/ws", subprotocols=offered) as ws:
        assert ws.subprotocol == chosen
    assert offers == [["chat", "news"]]


async def test_a_view_may_refuse_all_subprotocols():
    class View(WebsocketConnectionView):
        def select_subprotocol(self, offered):
            raise HTTPForbidden("not today")

    async with client(make_app(View)) as c:
        with pytest.raises(HandshakeRefused, match="403 Forbidden") as caught:
            await c.websocket("/ws").__aenter__()
    assert "not today" in caught.value.response


async def test_threads_do_not_overrun_the_limit_of_connections():
    everyone = threading.Barrier(4)

    class View(WebsocketConnectionView):
        def select_subprotocol(self, offered):
            everyone.wait(10)  # all have found room, and nobody has taken it

    assert sessions.has_room(1)
    async with client(make_app(View, max_connections=2), timeout=30) as c:
        connecting = (c.websocket("/ws").__aenter__() for _ in range(4))
        results = await asyncio.gather(*connecting, return_exceptions=True)
        refused = [each for each in results if isinstance(each, HandshakeRefused)]
        assert [each.response.status_int for each in refused] == [503, 503]
        assert not sessions.has_room(2)
    assert sessions.has_room(1)


# Admission


def by_name(request):
    return {("name", request.params["name"]): 2, "all": 3}


async def test_connections_count_for_what_admission_says():
    async with (
        client(make_app(WebsocketConnectionView, admission=by_name)) as c,
        c.websocket("/ws?name=ann"),
        c.websocket("/ws?name=ann") as second,
    ):
        await refuses(c, "/ws?name=ann", 429)
        async with c.websocket("/ws?name=bob"):
            await refuses(c, "/ws?name=cid", 429)
        await second.close()
        async with c.websocket("/ws?name=ann"):
            pass
    assert not sessions._counts


async def test_admission_may_be_a_coroutine_and_may_refuse_by_itself():
    async def admission(request):
        await asyncio.sleep(0)
        if "name" not in request.params:
            raise HTTPForbidden("who are you?")

    async with client(make_app(WebsocketConnectionView, admission=admission)) as c:
        async with c.websocket("/ws?name=ann"):
            pass
        await refuses(c, "/ws", 403)


async def test_admission_that_returns_something_else_is_a_fault():
    app = make_app(WebsocketConnectionView, admission=lambda request: 5)
    async with client(app) as c:
        with pytest.raises(TypeError, match="admission returned 5 and not a mapping"):
            async with c.websocket("/ws"):
                pass


async def test_a_handshake_that_fails_after_admission_counts_for_nothing():
    class View(WebsocketConnectionView):
        def select_subprotocol(self, offered):
            raise HTTPForbidden("no")

    async with client(make_app(View, admission=by_name)) as c:
        await refuses(c, "/ws?name=ann", 403)
    assert not sessions._counts


async def refuses(c, path, status):
    with pytest.raises(HandshakeRefused) as refused:
        async with c.websocket(path):
            pass
    assert refused.value.response.status_int == status
