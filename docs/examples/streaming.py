"""Uploads and downloads that are never held in memory as a whole."""

import asyncio
import hashlib
from typing import Any

from pyramid.config import Configurator
from pyramid.response import FileResponse, Response
from pyramid.view import view_config

from aiopyramid.helpers import use_executor


@view_config(route_name="numbers")
async def numbers(request):
    async def lines():
        for number in range(10):
            yield f"{number}\n".encode()
            await asyncio.sleep(0.1)

    body: Any = lines()
    return Response(app_iter=body, content_type="text/plain")


@view_config(route_name="upload", request_method="PUT", renderer="json")
def upload(request):
    digest = hashlib.sha256()
    while chunk := request.body_file.read(65536):
        digest.update(chunk)
    return {"sha256": digest.hexdigest()}


@view_config(route_name="source")
def source(request):
    return FileResponse(__file__, request=request, content_type="text/plain")


@use_executor
def make_report():
    return "slow, blocking work"


@view_config(route_name="report", renderer="string")
async def report(request):
    return await make_report()


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        for name in ("numbers", "upload", "source", "report"):
            config.add_route(name, f"/{name}")
        config.scan(__name__)
        return config.make_wsgi_app()
