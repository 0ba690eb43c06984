import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from aiopyramid import fitness

INSTALLED = "comes with the tests' own environment, not with the lowest versions"
pytest.importorskip("pyramid_tm", reason=f"pyramid_tm {INSTALLED}")
pytest.importorskip("pyramid_debugtoolbar", reason=f"pyramid_debugtoolbar {INSTALLED}")

TM = {"pyramid.includes": "pyramid_tm"}
TOOLBAR = {"pyramid.includes": "pyramid_debugtoolbar"}
PANELS = "pyramid_debugtoolbar.panels."
PERFORMANCE = f"{PANELS}performance.PerformanceDebugPanel"
OTHER = f"{PANELS}headers.HeaderDebugPanel"


def make(settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        return config.make_wsgi_app()


@pytest.fixture
def loop_requests(monkeypatch):
    monkeypatch.setattr(fitness, "required", True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TM, "tm.manager_hook is not set.* tm.manager_hook = pyramid_tm.explicit_manager"),
        (TOOLBAR, "debugtoolbar.panels has the performance panel"),
        (TOOLBAR | {"debugtoolbar.panels": f"{OTHER}\n{PERFORMANCE}"}, "debugtoolbar.panels"),
        (
            TOOLBAR | {"debugtoolbar.panels": OTHER, "debugtoolbar.extra_panels": PERFORMANCE},
            "debugtoolbar.panels",
        ),
    ],
)
def test_what_breaks_with_loop_requests_stops_the_start(loop_requests, settings, message):
    with pytest.raises(ConfigurationError, match=f"{message}.*; or use request threads"):
        make(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        TM | {"tm.manager_hook": "pyramid_tm.explicit_manager"},
        TOOLBAR | {"debugtoolbar.panels": OTHER},
        TOOLBAR | {"debugtoolbar.enabled": "false"},
    ],
)
def test_what_is_fit_starts(loop_requests, settings):
    assert make(settings)


@pytest.mark.parametrize("settings", [TM, TOOLBAR])
def test_with_request_threads_all_of_it_starts(settings):
    assert make(settings)
