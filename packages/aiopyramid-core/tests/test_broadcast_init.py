from __future__ import annotations

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.testing import DummyRequest
from webob import Request

from aiopyramid.broadcast import after, groups_of, groups_of_request
from aiopyramid.broadcast.groups import Groups


def configured(**settings):
    given = {f"aiopyramid.broadcast.{name}": value for name, value in settings.items()}
    config = Configurator(settings=given)
    config.include("aiopyramid")
    return config


def test_an_application_has_one():
    config = configured(max_queue="7")
    config.commit()
    groups = groups_of(config.registry)
    assert isinstance(groups, Groups)
    assert groups.settings.max_queue == 7
    request = DummyRequest()
    request.registry = config.registry
    assert groups_of_request(request) is groups


def test_settings_may_change_until_the_application_is_made():
    config = configured()
    config.commit()
    first = groups_of(config.registry)
    config.registry.settings["aiopyramid.broadcast.max_queue"] = "8"
    config.action(None, lambda: None)
    config.include("aiopyramid.broadcast")
    config.make_wsgi_app()
    assert groups_of(config.registry).settings.max_queue == 8
    assert groups_of(config.registry) is not first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "redsi://x"}, r"aiopyramid\.broadcast\.url = 'redsi://x' is not allowed"),
        ({"max_queue": "0"}, r"aiopyramid\.broadcast\.max_queue = '0' is not allowed"),
        ({"maxqueue": "1"}, r"unknown setting aiopyramid\.broadcast\.maxqueue"),
    ],
)
def test_a_bad_setting_stops_the_start(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        configured(**settings).commit()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", None),
        ("after.a=e.1", "e.1"),
        ("after.b=e.1", None),
        ("after.a=%ff", None),
    ],
)
def test_where_a_client_goes_on(query, found):
    assert after(Request.blank(f"/?{query}"), "a") == found
