"""An application whose connections are in groups, in several workers and on several servers."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.response import Response

from aiopyramid.broadcast import after
from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.forms import TAGGED

numbers = itertools.count(1)


async def member(ws: Any) -> None:
    """Join the groups of the query; what the client says goes to all of them."""
    groups, query = ws.request.groups, ws.request.params
    names = query.getall("group")
    for name in names:
        kept = after(ws.request, name) if name.startswith("kept") else None
        await groups.join(name, ws, form=TAGGED, after=kept, info=query.get("info"))
    await ws.send('"joined"')
    async for text in ws:
        for name in names:
            groups.publish(name, text, exclude=ws)


async def publish(request: Any) -> Response:
    """Publish the number of a message of this worker to the groups of the query."""
    text = f"{os.getpid()}:{next(numbers)}"
    published = [request.groups.publish(name, text) for name in request.params.getall("group")]
    try:
        for each in published:
            await each
    except BroadcastError as exc:
        raise HTTPServiceUnavailable(str(exc)) from None
    return Response(text)


def plain_publish(request: Any) -> Response:
    """Publish a text from plain code."""
    request.groups.publish(request.params["group"], request.params["text"]).wait()
    return Response("published")


async def who(request: Any) -> Response:
    groups, name = request.groups, request.params["group"]
    workers = await groups.workers()
    return Response(
        json={
            "count": await groups.count(name),
            "members": await groups.members(name),
            "local": groups.local_count(name),
            "workers": {str(worker.pid): worker.connections for worker in workers},
            "draining": [worker.pid for worker in workers if worker.draining],
        }
    )


async def logout(request: Any) -> Response:
    await request.groups.close_connections(request.params["group"], 4001, "logged out")
    return Response("closed")


async def drain(request: Any) -> Response:
    await request.groups.drain(float(request.params["over"]))
    return Response(str(os.getpid()))


def main() -> Any:
    settings = json.loads(os.environ.get("AIOPYRAMID_TEST_SETTINGS", "{}"))
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("up", "/up")
        config.add_view(lambda request: Response(str(os.getpid())), route_name="up")
        config.add_route("ws", "/ws")
        config.add_websocket_view(member, route_name="ws")
        for view in (publish, plain_publish, who, logout, drain):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        return config.make_wsgi_app()
