from __future__ import annotations

import sys

import pytest
from pyramid.authorization import ACLHelper, Allow, Everyone
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from pyramid.scripts.pviews import PViewsCommand

from aiopyramid.testing import HandshakeRefused, sync_client
from aiopyramid.websocket.config import AutoWebsocketMapper
from aiopyramid.websocket.mapper import WebsocketMapperBase
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_defaults


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def other(ws):
    await ws.send("other")


class Mapper(WebsocketMapperBase):
    server = "a test server"


@pytest.fixture
def config():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws/{id}")
        yield config


def views_of(config):
    return [entry["introspectable"] for entry in config.introspector.get_category("views", [])]


def test_options_and_mapper_can_be_looked_at(config):
    config.add_websocket_view(echo, route_name="ws", max_queue=5, origins=["https://a.example"])
    config.commit()
    [view] = [v for v in views_of(config) if v["callable"] is echo]
    assert view["mapper"] is AutoWebsocketMapper
    assert view["websocket"] is True
    assert view["websocket_options"] == {"max_queue": 5, "origins": ["https://a.example"]}
    assert [route["name"] for route in config.introspector.related(view) if "pattern" in route]


def test_the_view_may_be_a_dotted_name(config):
    config.add_websocket_view("testing_app:echo", route_name="ws")
    with sync_client(config.make_wsgi_app()) as c, c.websocket("/ws/1") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"


def test_two_sockets_at_one_address_conflict(config):
    config.add_websocket_view(echo, route_name="ws")
    config.add_websocket_view(other, route_name="ws")
    with pytest.raises(ConfigurationConflictError) as conflict:
        config.commit()
    assert str(conflict.value).count("test_websocket_directives.py") == 2


def test_the_including_application_wins(config):
    config.include(lambda config: config.add_websocket_view(other, route_name="ws"))
    config.add_websocket_view(echo, route_name="ws")
    config.commit()
    assert other not in [view["callable"] for view in views_of(config)]


def test_a_later_commit_overrides(config):
    config.add_websocket_view(echo, route_name="ws")
    config.commit()
    config.add_websocket_view(other, route_name="ws")
    with sync_client(config.make_wsgi_app()) as c, c.websocket("/ws/1") as ws:
        assert ws.receive() == "other"


def test_it_takes_all_that_views_take(config):
    class Root:
        __acl__ = ((Allow, Everyone, "join"),)

    calls = []

    def decorator(view):
        def wrapped(context, request):
            calls.append(request.path)
            return view(context, request)

        return wrapped

    class View(WebsocketConnectionView):
        async def talk(self, ws):
            await ws.send(f"{self.context.__class__.__name__} {ws.request.matchdict['id']}")

    class Policy:
        def permits(self, request, context, permission):
            return ACLHelper().permits(context, [Everyone], permission)

    config.set_security_policy(Policy())
    config.add_route("own", "/own/{id}", factory=lambda request: Root())
    for route in ("own", "ws"):
        config.add_websocket_view(
            View,
            attr="talk",
            route_name=route,
            permission="join",
            decorator=decorator,
            request_param="yes",
        )
    with sync_client(config.make_wsgi_app()) as c:
        with c.websocket("/own/7?yes=1") as ws:
            assert ws.receive() == "Root 7"
        assert calls == ["/own/7"]
        for path, status in (("/ws/7?yes=1", 403), ("/own/7", 404)):
            with pytest.raises(HandshakeRefused) as refused, c.websocket(path):
                pass
            assert refused.value.response.status_int == status


def test_a_mapper_of_the_view_s_own_is_kept(config):
    class View(WebsocketConnectionView):
        __view_mapper__ = Mapper

    config.add_websocket_view(View, route_name="ws")
    config.add_websocket_view(echo, route_name="ws", mapper=Mapper, request_param="x")
    config.commit()
    assert [v["mapper"] for v in views_of(config) if v["route_name"]] == [Mapper, Mapper]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"renderer": "json"}, "renderer = 'json': .* a codec is what turns objects"),
        ({"http_cache": 60}, "http_cache = 60: .* no response"),
        ({"websocket": False}, "websocket = False: "),
        ({"max_queue": 0}, "max_queue = 0 is not allowed"),
        ({"max_que": 1}, "Unknown view options: {'max_que': 1}"),
        ({"websocket_options": {"max_que": 1}}, "unknown setting max_que"),
    ],
)
def test_what_is_not_for_sockets_is_refused(config, options, message):
    with pytest.raises(ConfigurationError, match=message):  # noqa: PT012 - either raises
        config.add_websocket_view(echo, route_name="ws", **options)
        config.commit()


def test_bare_names_are_not_options_of_other_views(config):
    config.add_view(lambda request: None, compression="deflate")
    with pytest.raises(ConfigurationError, match="Unknown view options: .*compression"):
        config.commit()


def test_defaults_of_a_class(config):
    @websocket_view_defaults(route_name="ws", max_queue=5, max_message_size=10)
    class View(WebsocketConnectionView):
        pass

    class Narrower(View):
        pass

    config.add_websocket_view(Narrower, max_queue=6)
    config.commit()
    [view] = [v for v in views_of(config) if v["callable"] is Narrower]
    assert view["route_name"] == "ws"
    assert view["websocket_options"] == {"max_queue": 6, "max_message_size": 10}


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws/{id}")
        config.add_websocket_view(echo, route_name="ws")
        config.add_view(lambda request: None, route_name="ws")
        return config.make_wsgi_app()


def test_pviews_shows_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "shown_by_pviews", sys.modules[__name__])
    ini = tmp_path / "app.ini"
    ini.write_text("[app:main]\nuse = call:shown_by_pviews:main\n")
    lines = []
    command = PViewsCommand(["pviews", str(ini), "/ws/1"], quiet=True)
    command.out = lines.append
    assert command.run() == 0
    assert "    shown_by_pviews.echo" in lines or f"    {__name__}.echo" in lines
    assert "    view predicates (websocket = True)" in lines
