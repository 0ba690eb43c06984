from __future__ import annotations

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from aiopyramid.config import CoroutineOrExecutorMapper
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
        config.add_view(plain, websocket_options={"max_queue": 5}, mapper=mapper)
        with pytest.raises(ConfigurationError, match="websocket_options = .*only .* plain"):
            config.commit()


def test_the_mapper_of_a_view_class_counts():
    class View(PlainCall):
        __view_mapper__ = Mapper

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_view(View, attr="talk", websocket_options={"max_queue": 5})
        config.commit()


def test_a_bad_setting_is_named_when_the_application_is_made():
    with pytest.raises(ConfigurationError, match=r"aiopyramid\.websocket\.max_queue = '0'"):
        make_app(coroutine, settings={"aiopyramid.websocket.max_queue": "0"})


def test_a_mapper_that_is_a_function_may_make_any():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_view(
            PlainCall,
            attr="talk",
            websocket_options={"max_queue": 5},
            mapper=lambda **kw: Mapper(**kw),
        )


def test_settings_that_change_after_a_commit_count():
    config = Configurator()
    config.include("aiopyramid")
    config.commit()
    config.add_settings({"aiopyramid.websocket.max_queue": "5"})
    assert options_of(config.make_wsgi_app().registry).max_queue == 5
