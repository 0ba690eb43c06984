"""What uWSGI's options mean, with a stand-in for the module that only uWSGI has."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
import uvloop
from pyramid.exceptions import ConfigurationError


@pytest.fixture
def options(load):
    return load("options")


def test_threads_are_thread_mode(options, uwsgi):
    uwsgi.opt = {"threads": b"8"}
    assert not options.is_loop_mode()


def test_asyncio_with_greenlet_is_loop_mode(options, uwsgi):
    uwsgi.loop, uwsgi.opt = b"asyncio", {"asyncio": b"50", "greenlet": True}
    assert options.is_loop_mode()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"has_threads": 0}, "uWSGI runs without threads"),
        ({"loop": b"asyncio", "opt": {"asyncio": b"5"}}, "could not wait: set greenlet = true"),
        ({"loop": b"gevent", "opt": {"gevent": b"5"}}, "uWSGI runs with gevent"),
        ({"opt": {"async": b"5", "ugreen": True}}, "uWSGI runs with async"),
        ({"opt": {"asyncio": b"5", "greenlet": True}}, "uWSGI ignores asyncio, .* set threads"),
        (
            {"loop": b"asyncio", "opt": {"asyncio": b"5", "greenlet": True, "threads": b"2"}},
            "uWSGI runs with asyncio and threads = 2, and crashes then: leave threads out",
        ),
        ({"opt": {"aiopyramid-lop": b"uvloop"}}, "aiopyramid-lop is not an option of aiopyramid"),
    ],
)
def test_where_nothing_can_wait_is_an_error(options, uwsgi, state, message):
    vars(uwsgi).update(state)
    with pytest.raises(ConfigurationError, match=message):
        options.is_loop_mode()


@pytest.mark.parametrize(
    ("value", "factory"),
    [
        ({}, uvloop.new_event_loop),
        ({"aiopyramid-loop": b"uvloop"}, uvloop.new_event_loop),
        ({"aiopyramid-loop": [b"uvloop", b"asyncio"]}, asyncio.new_event_loop),
    ],
)
def test_the_loop_is_the_one_asked_for(options, uwsgi, value, factory):
    uwsgi.opt = value
    assert options.loop_factory() is factory


def test_without_uvloop_the_loop_is_asyncios_unless_uvloop_is_asked_for(
    options, uwsgi, monkeypatch
):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert options.loop_factory() is asyncio.new_event_loop
    uwsgi.opt = {"aiopyramid-loop": b"uvloop"}
    with pytest.raises(ConfigurationError, match="aiopyramid-loop = uvloop, which is not inst"):
        options.loop_factory()


def test_an_unknown_loop_is_an_error(options, uwsgi):
    uwsgi.opt = {"aiopyramid-loop": b"twisted"}
    with pytest.raises(ConfigurationError, match="aiopyramid-loop = twisted must be asyncio or"):
        options.loop_factory()


def test_the_executor_has_as_many_threads_as_there_are_requests(options, uwsgi):
    assert options.executor_threads() == 8
    uwsgi.cores = 1000
    assert options.executor_threads() == 64
    uwsgi.opt = {"aiopyramid-threads": b"100"}
    assert options.executor_threads() == 100


@pytest.mark.parametrize("value", [b"0", b"-1", b"many", b""])
def test_a_bad_number_of_threads_is_an_error(options, uwsgi, value):
    uwsgi.opt = {"aiopyramid-threads": value}
    with pytest.raises(ConfigurationError, match=f"aiopyramid-threads = {value.decode()} must be"):
        options.executor_threads()


@pytest.mark.parametrize(
    ("opt", "environ", "address", "obstacle"),
    [
        ({"http-socket": b":80"}, {}, ("127.0.0.1", 80), ""),
        ({"https-socket": b":443,cert,key"}, {}, ("127.0.0.1", 443), "encrypts"),
        ({"https-socket": [b":80,c,k", b"[::1]:443,c,k"]}, {}, ("::1", 443, 0, 0), "encrypts"),
        ({"https-socket": b":443,cert,key"}, {}, ("127.0.0.1", 80), ""),
        ({"https-socket": b"=0,cert,key"}, {}, ("127.0.0.1", 80), "encrypts"),
        ({"https-socket": b":0,cert,key"}, {}, ("127.0.0.1", 80), "encrypts"),
        ({"ssl-socket": b"/run/x.sock,cert,key"}, {}, "/run/x.sock", "encrypts"),
        ({"ssl-socket": b"/run/x.sock,cert,key"}, {}, "/run/y.sock", ""),
        ({"http": b":80"}, {"UWSGI_ROUTER": "http"}, "", "set http-websockets = true"),
        ({"https": b":443,c,k"}, {"UWSGI_ROUTER": "http"}, "", "set http-websockets = true"),
        ({"http": b":80", "http-websockets": True}, {"UWSGI_ROUTER": "http"}, "", ""),
        ({"socket": b":3031"}, {"UWSGI_ROUTER": "http"}, "", ""),  # a router of its own
    ],
)
def test_what_keeps_a_websocket_from_working(options, uwsgi, opt, environ, address, obstacle):
    uwsgi.opt = opt
    found = options.obstacle(environ, address)
    assert obstacle in found
    assert bool(found) is bool(obstacle)


@pytest.mark.parametrize(
    ("opt", "environ", "keeps"),
    [
        ({"http-socket": b":80"}, {}, False),
        ({"http11-socket": b":80"}, {}, True),
        ({"http": b":80"}, {"UWSGI_ROUTER": "http"}, False),
        ({"http": b":80", "http-keepalive": True}, {"UWSGI_ROUTER": "http"}, True),
        ({"socket": b":80"}, {"UWSGI_ROUTER": "http"}, True),  # who knows
    ],
)
def test_whether_uwsgi_keeps_a_connection(options, uwsgi, opt, environ, keeps):
    uwsgi.opt = opt
    assert options.keeps_connections(environ) is keeps


@pytest.mark.parametrize(
    ("opt", "facts", "recycled"),
    [
        ({}, {}, False),
        ({"max-requests": b"10"}, {"delta_requests": 9}, False),
        ({"max-requests": b"10"}, {"delta_requests": 10}, True),
        ({"max-requests": b"10", "max-requests-delta": b"5"}, {"delta_requests": 14}, False),
        ({"max-requests": b"10", "max-requests-delta": b"5"}, {"delta_requests": 15}, True),
        ({"max-requests": b"10", "min-worker-lifetime": b"200"}, {"delta_requests": 10}, False),
        ({"max-worker-lifetime": b"101"}, {}, False),
        ({"max-worker-lifetime": b"99"}, {}, True),
        ({"max-worker-lifetime": b"99", "max-worker-lifetime-delta": b"9"}, {}, False),
        ({"reload-on-rss": b"2"}, {"rss": 2**21 - 1}, False),
        ({"reload-on-rss": b"2"}, {"rss": 2**21}, True),
        ({"reload-on-as": b"2"}, {"vsz": 2**21}, True),
        ({"cheaper": b"1"}, {"status": b"cheap"}, True),
    ],
)
def test_uwsgi_wants_to_recycle_this_worker(options, uwsgi, opt, facts, recycled):
    me = {"status": b"idle", "delta_requests": 0, "rss": 0, "vsz": 0}
    me["last_spawn"] = time.time() - 100
    uwsgi.opt = opt
    uwsgi.workers = lambda: ({}, me | facts)
    assert options.is_recycled() is recycled
    assert options.may_recycle() is bool(opt)
