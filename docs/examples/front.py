"""Three kinds of views in one application, as the front page shows them."""

import asyncio

from pyramid.config import Configurator
from pyramid.view import view_config

from aiopyramid.websocket.view import websocket_view_config

ORDERS = {"7": "seven parcels"}


async def ask_carrier(number):
    """Stand for a service that takes its time."""
    await asyncio.sleep(0.05)
    return "on its way"


@view_config(route_name="order", renderer="json")
def order(request):  # in a thread, with your transaction, as ever
    return {"order": ORDERS[request.matchdict["id"]]}


@view_config(route_name="parcel", renderer="json")
async def parcel(request):  # on the event loop, where a thousand may wait
    return {"parcel": await ask_carrier(request.matchdict["id"])}


@websocket_view_config(route_name="news")
async def news(ws):  # with your routes, sessions and permissions
    await ws.request.groups.join("news", ws)
    async for message in ws:
        ws.request.groups.publish("news", message)  # to all, in all workers


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("order", "/orders/{id}")
        config.add_route("parcel", "/parcels/{id}")
        config.add_route("news", "/news")
        config.scan(__name__)
        return config.make_wsgi_app()
