"""A gallery with two faults: a view that holds the event loop, and one that waits for itself."""

import asyncio
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config


def resize(image):
    for _ in range(200):
        image = bytes(255 - value for value in image)
    return image


@view_config(route_name="thumbnail")
async def thumbnail(request):
    image = await asyncio.to_thread(request.registry.load)
    return Response(resize(image))  # computes on the loop, and all others wait


@view_config(route_name="report")
async def report(request):
    async with request.registry.pool:  # takes the only connection
        return Response(f"{await count(request)} images")


async def count(request):
    async with request.registry.pool:  # waits for another one
        return 3


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("thumbnail", "/thumbnail")
        config.add_route("report", "/report")
        config.scan()
        registry: Any = config.registry
        registry.load = lambda: bytes(200_000)
        registry.pool = asyncio.Semaphore(1)
        return config.make_wsgi_app()
