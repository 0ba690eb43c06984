"""An application made of Pyramid's add-ons, and one under the debug toolbar."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections import Counter, defaultdict

from cornice import Service
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from pyramid_retry import RetryableException

from aiopyramid.helpers import synchronize

log = logging.getLogger(__name__)
attempts: defaultdict[str, list[str]] = defaultdict(list)


def up(request):
    return "up"


# Retries.

service = Service(name="flaky", path="/flaky")


@service.post()
def flaky(request):
    """Fail twice, and tell what the body was in each attempt."""
    bodies = attempts[request.GET["name"]]
    bodies.append(hashlib.sha256(request.body).hexdigest())
    if len(bodies) < 3:
        raise RetryableException("try again")
    return {"bodies": bodies}


async def flaky_async(request):
    await asyncio.sleep(0.001)
    return flaky(request)


def flaky_synchronized(request):
    synchronize(asyncio.sleep)(0.001)
    return flaky(request)


# Errors, and the views for them.


class LoggedError(Exception):
    pass


class ReraisedError(Exception):
    pass


class CoroutineError(Exception):
    pass


def plain_helper(error):
    raise error("by the helper")


def logged(request):
    plain_helper(LoggedError)


def reraised(request):
    plain_helper(ReraisedError)


def in_coroutine(request):
    plain_helper(CoroutineError)


def broken_view(request):
    plain_helper(RuntimeError)


async def coroutine_helper(error):
    await asyncio.sleep(0.001)
    plain_helper(error)


async def broken_coroutine_view(request):
    await coroutine_helper(RuntimeError)


def broken_synchronized_view(request):
    synchronize(coroutine_helper)(RuntimeError)


async def logged_async(request):
    await coroutine_helper(LoggedError)


async def reraised_async(request):
    await coroutine_helper(ReraisedError)


async def in_coroutine_async(request):
    await coroutine_helper(CoroutineError)


def log_error(exc, request):
    log.exception("this is logged")
    return f"logged {sys.exc_info()[1] is exc}"


def reraise_error(exc, request):
    raise


async def see_error(exc, request):
    before = sys.exc_info()[1] is exc
    await asyncio.sleep(0.001)
    return f"{before} {sys.exc_info()[1] is exc}"


def catching_tween_factory(handler, registry):
    def catching_tween(request):
        try:
            return handler(request)
        except ReraisedError as exc:
            return Response(f"caught: {exc}")

    return catching_tween


# Templates, sessions and tokens.


async def async_name():
    await asyncio.sleep(0.001)
    return "coroutine"


def greeting(request):
    return {"name": lambda: "thread"}


async def greeting_async(request):
    """Leave a wait to the template."""
    await asyncio.sleep(0.001)
    return {"name": synchronize(async_name)}


def token(request):
    return get_csrf_token(request)


def visit(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return str(request.session["visits"])


async def visit_async(request):
    await asyncio.sleep(0.001)
    return visit(request)


# Under the toolbar's performance panel, which lets one request run at a time.

arrived: Counter[str] = Counter()
counting = threading.Lock()
started = time.monotonic()
LONG = 120  # the tests give up earlier
PAGE = "<html><body>done</body></html>"


def profiled(request):
    while not another_came(request):
        time.sleep(0.01)
    return Response(PAGE)


async def profiled_async(request):
    while not another_came(request):
        await asyncio.sleep(0.01)
    return Response(PAGE)


def profiled_synchronized(request):
    while not another_came(request):
        synchronize(asyncio.sleep)(0.01)
    return Response(PAGE)


def another_came(request):
    assert time.monotonic() - started < LONG, "no other request came"
    return arrived[request.path] > 1


def count_arrivals(app):
    def counting_app(environ, start_response):
        with counting:
            arrived[environ["PATH_INFO"]] += 1
        return app(environ, start_response)

    return counting_app


def add_views(config, views, **options):
    for view in views:
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__, **options)


def main():
    settings = json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"])
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.include("pyramid_retry")
        config.include("pyramid_jinja2")
        config.set_session_factory(SignedCookieSessionFactory("secret"))
        config.add_tween(f"{__name__}.catching_tween_factory")
        if "cornice" in settings.get("pyramid.includes", ""):
            config.add_cornice_service(service)
        add_views(config, [flaky_async, flaky_synchronized], renderer="json")
        add_views(config, [up, logged, reraised, in_coroutine, broken_view], renderer="string")
        add_views(config, [broken_coroutine_view, broken_synchronized_view], renderer="string")
        add_views(config, [logged_async, reraised_async, in_coroutine_async], renderer="string")
        add_views(config, [greeting, greeting_async], renderer="greeting.jinja2")
        add_views(config, [token], renderer="string")
        add_views(config, [visit, visit_async], renderer="string", require_csrf=True)
        config.add_exception_view(log_error, context=LoggedError, renderer="string")
        config.add_exception_view(reraise_error, context=ReraisedError)
        config.add_exception_view(see_error, context=CoroutineError, renderer="string")
        return config.make_wsgi_app()


def toolbar_main():
    settings = {"debugtoolbar.hosts": "127.0.0.1"}
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.include("pyramid_debugtoolbar")
        add_views(config, [up], renderer="string")
        add_views(config, [profiled, profiled_async, profiled_synchronized])
        return count_arrivals(config.make_wsgi_app())
