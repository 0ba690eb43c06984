"""What an application can tell of the differences between uWSGI's modes."""

from __future__ import annotations

import uwsgi
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPOk
from uwsgidecorators import timer

ticks = []


@timer(1)
def tick(signum):
    ticks.append(signum)


def ask():
    """Call what is about the request."""
    try:
        return f"request {uwsgi.request_id() >= 0}"
    except SystemError:
        return "SystemError"


async def coroutine(request):
    return ask()


def plain(request):
    uwsgi.cache_update("key", b"value")  # is not about the request
    return f"{ask()}, {uwsgi.cache_get('key').decode()}"


def tween_factory(handler, registry):
    def tween(request):
        return HTTPOk(ask()) if request.path == "/tween" else handler(request)

    return tween


def main():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_tween(f"{__name__}.tween_factory")
        views = {"up": lambda request: "up", "ticks": lambda request: str(len(ticks))}
        for name, view in (views | {"coroutine": coroutine, "plain": plain}).items():
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name, renderer="string")
        return config.make_wsgi_app()
