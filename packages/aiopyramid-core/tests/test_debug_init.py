from __future__ import annotations

import contextlib
import sys
import threading
from types import SimpleNamespace

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.response import Response

from aiopyramid import debug, homes
from aiopyramid.debug import DEVELOPMENT, DebugLifespan, DebugOptions, from_settings
from aiopyramid.lifespan import Lifespan

CALLBACK = "aiopyramid.debug.slow_callback"
REQUEST = "aiopyramid.debug.slow_request"
ON = {CALLBACK: "0.5", REQUEST: "20"}
THREADS = {"aiopyramid-debug-blocks", "aiopyramid-debug-requests"}


@pytest.fixture(autouse=True)
def python(monkeypatch):
    """Python's flags, which tests may be run with as well."""
    flags = SimpleNamespace(dev_mode=False)
    monkeypatch.setattr(debug, "sys", SimpleNamespace(flags=flags, modules=sys.modules))
    return flags


def make_app(settings, *, lifespan=None):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        if lifespan is not None:
            config.add_lifespan(lifespan)
        config.add_view(lambda request: Response("a view"))
        return config.make_wsgi_app()


def get(app):
    assert Request.blank("/").get_response(app).text == "a view"


def threads():
    return THREADS & {thread.name for thread in threading.enumerate()}


# Settings.


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, DebugOptions(0, 0)),
        ({CALLBACK: "0.25"}, DebugOptions(0.25, 0)),
        ({REQUEST: 3}, DebugOptions(0, 3)),
        ({CALLBACK: "0", REQUEST: "0"}, DebugOptions(0, 0)),
        ({"pyramid.reload_templates": True}, DEVELOPMENT),
        ({"pyramid.reload_templates": True, CALLBACK: "0"}, DebugOptions(0, 10)),
        ({"aiopyramid.websocket.max_queue": 3, "debug": "x"}, DebugOptions(0, 0)),
    ],
)
def test_settings_are_read(settings, options):
    assert from_settings(settings) == options


@pytest.mark.parametrize(
    "settings",
    [{}, {"pyramid.reload_templates": "false"}, {"reload_assets": "true"}],
)
def test_elsewhere_nothing_is_logged(settings):
    config = Configurator(settings=settings)
    assert from_settings(config.registry.settings) == DebugOptions(0, 0)


@pytest.mark.parametrize("name", ["pyramid.reload_templates", "reload_templates", "reload_all"])
def test_where_templates_are_reloaded_is_development(name):
    config = Configurator(settings={name: "true"})
    assert from_settings(config.registry.settings) == DEVELOPMENT


def test_where_python_runs_in_its_own_development_mode_as_well(python):
    python.dev_mode = True
    assert from_settings({}) == DEVELOPMENT


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", None, True, 1e300])
@pytest.mark.parametrize("name", [CALLBACK, REQUEST])
def test_a_bad_value_stops_the_start(name, value):
    with pytest.raises(ConfigurationError) as raised:
        make_app({name: value})
    assert (
        f"{name} = {value!r} is not allowed: "
        "it must be a number of seconds above 0, or 0 to switch it off"
    ) in str(raised.value)


def test_an_unknown_name_stops_the_start():
    with pytest.raises(
        ConfigurationError,
        match="unknown setting aiopyramid.debug.slow; the settings are slow_callback, slow_request",
    ):
        make_app({"aiopyramid.debug.slow": "1"})


# The application.


def test_when_off_nothing_is_added():
    app = make_app({})
    assert app.registry.get(Lifespan) is None
    get(app)
    assert homes.process_home is None
    assert threads() == set()


@pytest.mark.parametrize(
    ("settings", "started"),
    [
        (ON, THREADS),
        (ON | {REQUEST: "0"}, {"aiopyramid-debug-blocks"}),
        (ON | {CALLBACK: "0"}, {"aiopyramid-debug-requests"}),
    ],
)
def test_threads_begin_with_the_first_request_and_end_with_the_loop(settings, started):
    app = make_app(settings)
    assert threads() == set()
    get(app)
    assert threads() == started
    homes.own_loop.end()
    assert threads() == set()


def test_they_are_there_while_the_lifespans_of_the_application_are():
    seen = []

    @contextlib.asynccontextmanager
    async def lifespan(registry):
        seen.append(threads())
        yield
        seen.append(threads())

    app = make_app(ON, lifespan=lifespan)
    assert type(app.registry.get(Lifespan)) is Lifespan
    get(app)
    homes.own_loop.end()
    assert seen == [THREADS, THREADS]


def test_settings_may_change_until_the_application_is_created():
    config = Configurator()
    config.include("aiopyramid")
    config.commit()
    config.add_settings(ON)
    app = config.make_wsgi_app()
    assert isinstance(app.registry.get(Lifespan), DebugLifespan)


def test_requests_that_cannot_wait_do_without(monkeypatch):
    """Such as those that an application makes of itself before its server forks."""
    app = make_app(ON)
    monkeypatch.setattr(homes, "obstacle", "{what} cannot be waited for here")
    get(app)
    assert threads() == set()


def test_requests_at_the_end_of_the_process_do_without(monkeypatch):
    app = make_app(ON)
    monkeypatch.setattr(homes.own_loop, "is_ending", True)
    get(app)
    assert threads() == set()


# The toolbar.


def test_the_panel_is_announced_once_and_beside_others():
    config = Configurator(settings={"debugtoolbar.includes": "one\ntwo"})
    for _ in range(2):
        config.include("aiopyramid")
        config.commit()
    assert config.registry.settings["debugtoolbar.includes"] == [
        "one",
        "two",
        "aiopyramid.debug.toolbar",
    ]


@pytest.fixture
def toolbar():
    reason = "comes with the tests' own environment, not with the lowest versions"
    return pytest.importorskip("pyramid_debugtoolbar.toolbar", reason=reason)


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(
    "includes",
    [["aiopyramid", "pyramid_debugtoolbar"], ["pyramid_debugtoolbar", "aiopyramid"]],
)
def test_the_toolbar_has_the_panel_whichever_is_included_first(toolbar, includes, autocommit):
    config = Configurator(autocommit=autocommit)
    for name in includes:
        config.include(name)
    config.make_wsgi_app()
    panels = config.registry.getUtility(toolbar.IToolbarWSGIApp).registry.getUtility(
        toolbar.IPanelMap
    )
    assert ("websockets", True) in panels


def test_an_application_without_the_toolbar_has_none_though_it_is_imported(toolbar):
    app = make_app({})
    assert app.registry.queryUtility(toolbar.IToolbarWSGIApp) is None
