from __future__ import annotations

import asyncio
import logging
import threading

import greenlet
import pytest
from debug_log import PATIENCE, Log
from pyramid.request import Request
from pyramid.response import Response

from aiopyramid.debug import requests
from aiopyramid.debug.requests import Running, RunningRequest, watching
from aiopyramid.helpers import use_request_thread
from aiopyramid.homes import Home

LIMIT = 0.05


@pytest.fixture
def log():
    log = Log()
    logger = logging.getLogger("aiopyramid.debug")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)


@pytest.fixture
def until_logged(log):
    """What a request waits for: so it is logged meanwhile, or never."""
    logged = threading.Event()
    log.listeners.append(lambda message: logged.set())
    return logged


@pytest.fixture
def make_app(config):
    def make_app(view, **settings):
        config.add_settings({"aiopyramid.debug.slow_request": LIMIT})
        config.add_view(view)
        return config.make_wsgi_app()

    return make_app


async def is_set(event):
    while not event.is_set():
        await asyncio.sleep(0.001)
    return True


def get(app, path="/?secret", **environ):
    return Request.blank(path, environ).get_response(app).text


def threads():
    return [each for each in threading.enumerate() if each.name == "aiopyramid-debug-requests"]


def test_a_plain_request_is_logged_while_it_runs_and_once(log, until_logged, make_app):
    def view(request):
        return Response(str(until_logged.wait(PATIENCE)))

    assert get(make_app(view)) == "True"
    first, *stack = log.next().splitlines()
    assert first.startswith("GET / has run for 0.")
    assert stack[0] == "  Thread 'MainThread':"
    assert "    return Response(str(until_logged.wait(PATIENCE)))" in stack
    assert "secret" not in first
    assert log.is_empty()


def test_a_request_that_waits_for_a_coroutine_shows_where_that_is(log, until_logged, make_app):
    async def view(request):
        return Response(str(await is_set(until_logged)))

    assert get(make_app(view)) == "True"
    stack = log.next()
    thread, task = stack.index("  Thread 'MainThread':\n"), stack.index("  Task 'Task-")
    assert thread < task < stack.index("    return Response(str(await is_set(until_logged)))\n")


def test_and_what_the_coroutine_runs_in_its_thread(log, until_logged, make_app):
    @use_request_thread
    def plain():
        return until_logged.wait(PATIENCE)

    async def view(request):
        return Response(str(await plain()))

    assert get(make_app(view)) == "True"
    stack = log.next()
    assert "    return until_logged.wait(PATIENCE)\n" in stack[stack.index("await plain()") :]


async def test_a_request_on_the_loop_is_logged_with_its_task(log, until_logged, make_app, fetch):
    async def view(request):
        return Response(str(await is_set(until_logged)))

    assert (await fetch(make_app(view))).text == "True"
    stack = log.next()
    assert stack.splitlines()[1].startswith("  Task ")
    assert "    return Response(str(await is_set(until_logged)))\n" in stack


async def test_a_request_in_a_greenlet_of_somebody_else_is_logged(log, until_logged, make_app):
    """As under uWSGI in its loop mode."""

    async def view(request):
        return Response(str(await is_set(until_logged)))

    app, ended = make_app(view), asyncio.Event()
    texts = []

    def begin():
        greenlet.greenlet(application).switch()

    def application():
        texts.append(get(app))
        ended.set()

    asyncio.get_running_loop().call_soon(begin)  # outside of any task
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    assert texts == ["True"]
    stack = log.next()
    assert stack.splitlines()[1] == "  A greenlet:"
    assert stack.index("  Task ") < stack.index("await is_set(until_logged)")


def test_a_request_that_is_done_is_forgotten(log, make_app):
    def view(request):
        raise ValueError("a view's error")

    app = make_app(view)
    with pytest.raises(ValueError, match="a view's error"):
        get(app)
    assert log.is_empty()


def test_each_request_that_is_slow_is_logged(log, config, make_app):
    both = threading.Barrier(2, timeout=PATIENCE)
    logged = threading.Semaphore(0)
    log.listeners.append(lambda message: logged.release())

    def view(request):
        both.wait()  # they are logged together, or apart
        assert logged.acquire(timeout=PATIENCE)
        both.wait()
        return Response()

    config.add_view(view, name="0")
    config.add_view(view, name="1")
    app = make_app(view)
    get_threads = [threading.Thread(target=get, args=[app, f"/{n}"]) for n in range(2)]
    for thread in get_threads:
        thread.start()
    for thread in get_threads:
        thread.join()
    assert {log.next().split()[1] for _ in range(2)} == {"/0", "/1"}
    assert log.is_empty()


@pytest.fixture
def watch():
    """A watch whose looks are the test's."""
    running = Running(LIMIT)
    return requests.RequestWatch(requests.Stacks(asyncio.new_event_loop(), 0), running), running


def test_it_looks_when_the_next_request_is_due_but_not_all_the_time(log, watch, monkeypatch):
    watch, running = watch
    now = 1000.0
    monkeypatch.setattr(requests.time, "monotonic", lambda: now)
    assert watch.look() == pytest.approx(LIMIT)
    running.requests.add(RunningRequest({}))
    now += LIMIT * 0.4
    assert watch.look() == pytest.approx(LIMIT * 0.6)
    now += LIMIT * 0.59
    assert watch.look() == pytest.approx(LIMIT * requests.REST)
    assert log.is_empty()
    now += LIMIT
    assert watch.look() == pytest.approx(LIMIT)
    assert log.next().startswith(" ")
    assert watch.look() == pytest.approx(LIMIT)
    assert log.is_empty()
    watch.stacks.loop.close()


def test_a_request_that_ends_while_its_stack_is_taken_is_not_logged(log, watch):
    watch, running = watch

    class EndingRequest(RunningRequest):
        def stack(self, stacks):
            running.requests.discard(self)
            return iter(())

    request = EndingRequest({})
    request.begin -= LIMIT
    running.requests.add(request)
    watch.look()
    assert request.reported
    assert log.is_empty()
    watch.stacks.loop.close()


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/app", "PATH_INFO": "/a b"}, "GET /app/a%20b"),
        ({"REQUEST_METHOD": "GET", "PATH_INFO": "/\n\x1b[31m"}, "GET /%0A%1B%5B31m"),
        ({"REQUEST_METHOD": "G\nT", "PATH_INFO": "/\xc3\xa4\xff"}, "G%0AT /%C3%A4%FF"),
        ({"PATH_INFO": "/\u20ac"}, " /%3F"),
    ],
)
def test_what_clients_choose_is_escaped(environ, text):
    assert str(RunningRequest(environ)) == text


def test_the_thread_ends_with_the_loop():
    loop = asyncio.new_event_loop()
    running = Running(LIMIT)
    running.requests.add(RunningRequest({}))  # of the process that this one was forked from
    with watching(Home(loop), running):
        assert len(threads()) == 1
        assert not running.requests
    assert threads() == []
    loop.close()


async def test_a_greenlet_that_is_forgotten_is_not_kept_by_its_request():
    def application():
        policy({}, None)

    def wait(environ, router):
        greenlet.getcurrent().parent.switch()

    running = Running(LIMIT)
    policy = running.policy(wait)

    def begin():
        greenlet.greenlet(application).switch()
        assert running.requests == set()  # GreenletExit has ended it
        done.set()

    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(begin)
    async with asyncio.timeout(PATIENCE):
        await done.wait()
