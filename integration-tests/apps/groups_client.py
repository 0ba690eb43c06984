"""Groups for a page: what the client in JavaScript connects to."""

from __future__ import annotations

import json
import os

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.broadcast import after
from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.websocket.view import websocket_view_config


@view_config(route_name="page")
def page(request):
    response = Response("<!doctype html><title>Groups</title>")
    # The client asks for nothing that a strict policy forbids.
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response


@view_config(route_name="count", renderer="json")
async def count(request):
    return await request.groups.count(request.GET["group"])


@websocket_view_config(route_name="room")
async def room(ws):
    """Join the groups of the query; then do what the page says."""
    request = ws.request
    for group in request.GET.getall("group"):
        where = after(request, group) if group.startswith("kept:") else None
        await request.groups.join(group, ws, form=TAGGED, after=where)
    # Not of a group: in which process the page is, and what it has asked for.
    await ws.send_json({"pid": os.getpid(), "query": dict(request.GET)})
    async for message in ws:
        if isinstance(message, str) and message.startswith("close "):
            await ws.close(int(message.removeprefix("close ")), "as you say")
        else:
            await ws.send(message)


def main():
    settings = json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"])
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("up", "/up")
        config.add_view(lambda request: Response("up"), route_name="up")
        for name in ("page", "count", "room"):
            config.add_route(name, f"/{name}")
        config.add_static_view("aiopyramid", "aiopyramid:static")
        config.scan(__name__)
        return config.make_wsgi_app()
