"""A first application with coroutine views."""

import asyncio
import time

from pyramid.config import Configurator
from pyramid.view import view_config


@view_config(route_name="coroutine", renderer="json")
async def coroutine_view(request):
    await asyncio.sleep(0.2)  # other requests go on meanwhile
    return {"hello": request.matchdict["name"]}


@view_config(route_name="plain", renderer="json")
def plain_view(request):
    time.sleep(0.2)  # runs in its request's thread, so other requests go on as well
    return {"hello": request.matchdict["name"]}


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("coroutine", "/coroutine/{name}")
        config.add_route("plain", "/plain/{name}")
        config.scan(__name__)
        return config.make_wsgi_app()
