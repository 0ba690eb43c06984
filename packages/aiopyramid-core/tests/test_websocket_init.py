from __future__ import annotations

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request

from aiopyramid.config import CoroutineOrExecutorMapper
from aiopyramid.websocket import WebsocketPredicate
from aiopyramid.websocket.mapper import WebsocketMapperBase, options_of


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


@pytest.mark.parametrize("mapper", [None, CoroutineOrExecutorMapper])
def test_an_option_on_a_view_that_has_no_websocket_is_refused(mapper):
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_view(plain, max_queue=5, mapper=mapper)
        with pytest.raises(ConfigurationError, match="max_queue: only WebSocket views .* plain"):
            config.commit()


def test_the_mapper_of_a_view_class_counts():
    class View(PlainCall):
        __view_mapper__ = Mapper

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_view(View, attr="talk", max_queue=5)
        config.commit()


def test_a_bad_setting_is_named_when_the_application_is_made():
    with pytest.raises(ConfigurationError, match=r"aiopyramid\.websocket\.max_queue = '0'"):
        make_app(coroutine, settings={"aiopyramid.websocket.max_queue": "0"})


@pytest.mark.parametrize("value", ["yes", 1])
def test_the_predicate_takes_true_or_false(value):
    with pytest.raises(ConfigurationError, match=r"websocket = .* must be True or False"):
        make_app(coroutine, websocket=value)


def test_the_predicates_of_page_and_socket_do_not_conflict():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_view(coroutine, route_name="ws", mapper=Mapper, websocket=True)
        config.add_view(lambda request: None, route_name="ws", websocket=False)
        config.make_wsgi_app()


def test_the_predicate_asks_for_the_upgrade():
    for value in (True, False):
        predicate = WebsocketPredicate(value, None)
        assert predicate.text() == predicate.phash() == f"websocket = {value}"
        assert predicate(None, Request.blank("/", headers={"Upgrade": "WebSocket"})) is value
        assert predicate(None, Request.blank("/")) is not value


def test_a_mapper_that_is_a_function_may_make_any():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_view(PlainCall, attr="talk", max_queue=5, mapper=lambda **kw: Mapper(**kw))


def test_settings_that_change_after_a_commit_count():
    config = Configurator()
    config.include("aiopyramid")
    config.commit()
    config.add_settings({"aiopyramid.websocket.max_queue": "5"})
    assert options_of(config.make_wsgi_app().registry).max_queue == 5
