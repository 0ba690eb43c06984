from __future__ import annotations

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPNotFound
from pyramid.request import Request
from pyramid.response import Response

from aiopyramid.testing import HandshakeRefused, sync_client
from aiopyramid.websocket.predicates import WebsocketPredicate


async def socket(ws):
    await ws.send("socket")


def page(request):
    return Response("page")


def make_app(*views, settings=None):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        for add in views:
            add(config)
        return config.make_wsgi_app()


def add_socket(config, **options):
    config.add_websocket_view(socket, route_name="ws", **options)


def add_page(config, **options):
    config.add_view(page, route_name="ws", **options)


@pytest.mark.parametrize("value", ["yes", 1])
def test_the_predicate_takes_true_or_false(value):
    with pytest.raises(ConfigurationError, match=r"websocket = .* must be True or False"):
        make_app(lambda config: add_page(config, websocket=value))


def test_the_predicate_asks_for_the_upgrade():
    for value in (True, False):
        predicate = WebsocketPredicate(value, None)
        assert predicate.text() == predicate.phash() == f"websocket = {value}"
        assert predicate(None, Request.blank("/", headers={"Upgrade": "WebSocket"})) is value
        assert predicate(None, Request.blank("/")) is not value


@pytest.mark.parametrize("method", ["get", "head"])
def test_a_plain_request_where_there_is_only_a_socket_gets_426(method):
    with sync_client(make_app(add_socket)) as c:
        response = getattr(c, method)("/ws", status=426)
    assert response.headers["Upgrade"] == "websocket"
    assert response.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize("options", [{}, {"websocket": False}, {"request_method": "GET"}])
def test_the_page_at_the_same_address_is_found(options):
    with sync_client(make_app(add_socket, lambda config: add_page(config, **options))) as c:
        assert c.get("/ws").text == "page"
        with c.websocket("/ws") as ws:
            assert ws.receive() == "socket"


def test_a_page_with_other_predicates_leaves_426_for_the_rest():
    def add_form(config):
        add_page(config, request_method="POST")

    with sync_client(make_app(add_socket, add_form)) as c:
        assert c.post("/ws").text == "page"
        c.get("/ws", status=426)
        c.put("/ws", status=404)


def test_a_socket_that_does_not_match_either_is_not_promised():
    with sync_client(make_app(lambda config: add_socket(config, request_param="room"))) as c:
        c.get("/ws", status=404)
        c.get("/ws?room=1", status=426)
        with pytest.raises(HandshakeRefused) as refused, c.websocket("/ws"):
            pass
        assert refused.value.response.status_int == 404


def test_the_exception_views_of_the_application_see_the_426():
    def add_errors(config):
        config.add_notfound_view(lambda exc, request: Response("not here", status=404))

        def error(exc, request):
            return Response(f"an error page: {exc.code}", status=exc.code)

        config.add_exception_view(error, context="pyramid.httpexceptions.HTTPClientError")

    def add_picky_page(config):
        config.add_view(page, name="picky", request_param="needed")

    with sync_client(make_app(add_socket, add_errors, add_picky_page)) as c:
        assert c.get("/ws", status=426).text == "an error page: 426"
        assert c.get("/nowhere", status=404).text == "not here"
        assert c.get("/picky", status=404).text == "not here"


def test_the_application_can_answer_itself():
    def add_own(config):
        config.add_exception_view(
            lambda request: Response("its own", status=404),
            context="pyramid.exceptions.PredicateMismatch",
        )

    with sync_client(make_app(add_socket, add_own)) as c:
        assert c.get("/ws", status=404).text == "its own"


def test_a_less_specific_page_is_found():
    class Root:
        def __getitem__(self, name):
            if name != "room":
                raise KeyError(name)
            return Room()

    class Room:
        pass

    with Configurator(root_factory=lambda request: Root()) as config:
        config.include("aiopyramid")
        config.add_websocket_view(socket, context=Room)
        config.add_view(page)
    with sync_client(config.make_wsgi_app()) as c:
        assert c.get("/room").text == "page"
        with c.websocket("/room") as ws:
            assert ws.receive() == "socket"


def test_not_found_stays_not_found():
    def missing(request):
        raise HTTPNotFound("no such room")

    def add_missing(config):
        config.add_view(missing, route_name="ws")

    with sync_client(make_app(add_socket, add_missing)) as c:
        assert "no such room" in c.get("/ws", status=404).text
