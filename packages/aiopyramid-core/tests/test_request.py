from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar

import pytest
from pyramid.config import Configurator
from pyramid.interfaces import IExecutionPolicy
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router

from aiopyramid import homes, request
from aiopyramid.bridge import spawn_greenlet
from aiopyramid.helpers import use_request_thread
from aiopyramid.threads import call_here

variable: ContextVar[str] = ContextVar("variable", default="unset")


def get(app, path="/"):
    return Request.blank(path).get_response(app).text


@pytest.fixture
def app(config):
    async def view(request):
        before = variable.get()
        variable.set("set")
        return Response(before)

    config.add_view(view)
    return config.make_wsgi_app()


def test_a_request_does_not_see_the_context_variables_of_the_one_before(app):
    assert [get(app), get(app), variable.get()] == ["unset"] * 3


def test_a_request_sees_those_of_who_calls_the_application(app):
    token = variable.set("by the test")
    try:
        assert get(app) == "by the test"
    finally:
        variable.reset(token)


def test_in_a_greenlet_of_somebody_else_as_well(app, monkeypatch):
    monkeypatch.setattr(request, "_get_running_loop", lambda: "a loop")
    seen = []

    def policy(environ, router):
        seen.append(variable.get())
        variable.set("set")
        return Response("")

    router = Router(Configurator().registry)
    router.registry.registerUtility(policy, IExecutionPolicy)
    router.execution_policy = policy

    class Event:
        app = router

    request.prepare_requests(Event)
    assert router.registry.getUtility(IExecutionPolicy) is router.execution_policy
    for _ in range(2):
        router.execution_policy({}, router)
    assert seen == ["unset", "unset"]


async def test_in_a_greenlet_of_ours_nothing_is_done(app):
    def plain():
        return get(app), variable.get()

    assert await spawn_greenlet(plain) == ("unset", "set")


def test_a_coroutine_can_use_the_thread_of_its_request(config):
    async def view(request):
        thread = await use_request_thread(threading.current_thread)()
        return Response(f"{thread.name} {threading.current_thread().name}")

    config.add_view(view)
    assert get(config.make_wsgi_app()) == "MainThread aiopyramid-loop"


def test_plain_requests_start_no_loop(config):
    config.add_view(lambda request: Response(repr(call_here() is not None)))
    assert get(config.make_wsgi_app()) == "True"
    assert homes.process_home is None


def test_a_loop_that_runs_already_refuses_what_is_imported_later(config, monkeypatch):
    called = []
    monkeypatch.setattr(request, "refuse_on_loop", lambda: called.append(asyncio.current_task()))
    home = homes.own_loop.start()
    config.make_wsgi_app()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), home.loop).result()
    assert called == [None]


def test_the_first_request_enters_the_lifespans(config):
    entered = []

    @contextlib.asynccontextmanager
    async def lifespan(registry):
        entered.append(registry)
        yield

    config.add_lifespan(lifespan)
    config.add_view(lambda request: Response(str(len(entered))))
    app = config.make_wsgi_app()
    assert [get(app), get(app)] == ["1", "1"]
