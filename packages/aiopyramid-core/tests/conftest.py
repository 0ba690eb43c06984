"""Fixtures of all tests of aiopyramid-core."""

import asyncio
import gc
import warnings

import pytest
import uvloop
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.threadlocal import manager

from aiopyramid import homes, lifespan, threadlocal
from aiopyramid.bridge import spawn_greenlet
from aiopyramid.sse import streams


def pytest_configure(config):
    config.addinivalue_line("markers", "both_loops: run on asyncio's event loop and on uvloop's")


def pytest_asyncio_loop_factories(config, item):
    factories = {"asyncio": asyncio.new_event_loop}
    if item.get_closest_marker("both_loops") is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(autouse=True)
def threadlocals_as_found():
    """Undo what ``config.include("aiopyramid")`` does to the whole process."""
    threadlocal.uninstall()  # other tests may have run before, in this process
    yield
    threadlocal.uninstall()
    manager.clear()


@pytest.fixture(autouse=True)
def no_loop_of_another_test(monkeypatch):
    """Begin without a loop of the process's own, and end the one that a test has started."""
    for name in ("process_home", "obstacle", "prepare", "new_home"):
        monkeypatch.setattr(homes, name, getattr(homes, name))
    monkeypatch.setattr(lifespan, "_lifespans", [])  # nor applications
    monkeypatch.setattr(streams, "_ending", False)  # nor the end of a worker
    yield
    homes.own_loop.end()


@pytest.fixture
def no_warnings():
    """Fail if anything, such as a coroutine that was never awaited, is warned about."""
    gc.freeze()  # what is there already, garbage of other tests included, is not looked at
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        yield
        gc.collect()
    gc.unfreeze()
    assert [str(warning.message) for warning in caught] == []


@pytest.fixture
def config():
    """A Configurator that is set up as applications are."""
    config = Configurator()
    config.include("aiopyramid")
    return config


@pytest.fixture
def fetch():
    """Call a WSGI application in a greenlet, as servers do, and read its whole answer."""

    async def fetch(app, path="/", **kwargs):
        request = Request.blank(path, **kwargs)

        def call():
            response = request.get_response(app)
            assert isinstance(response.body, bytes)  # read and closed here
            return response

        return await spawn_greenlet(call)

    return fetch
