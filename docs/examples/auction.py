"""An auction, which a browser follows by a WebSocket; made to be tested."""

from contextlib import asynccontextmanager, suppress

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import view_config

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config


class Auction:
    def __init__(self, price):
        self.price = price
        self.bidders = set()

    async def bid(self, name, price):
        if price <= self.price:
            return False
        self.price = price
        for bidder in tuple(self.bidders):
            with suppress(WebsocketClosed):  # of one that has left just now
                await bidder.ws.send_json({"name": name, "price": price})
        return True


@asynccontextmanager
async def auction(registry):
    registry.auction = Auction(int(registry.settings["auction.price"]))
    yield
    registry.auction = None


@view_config(route_name="price", renderer="json")
async def price(request):
    return {"price": request.registry.auction.price}


@view_config(route_name="login", request_method="POST", renderer="json")
def login(request):
    request.session["name"] = request.POST["name"]
    return {}


@websocket_view_config(route_name="bids", subprotocols=["bids.v1"])
class Bidder(WebsocketConnectionView):
    async def on_handshake(self):
        self.auction = self.request.registry.auction
        self.name = self.request.session.get("name")
        if self.name is None:
            raise HTTPForbidden("log in first")

    async def on_open(self):
        self.auction.bidders.add(self)

    async def on_message(self, message):
        if not await self.auction.bid(self.name, int(message)):
            await self.ws.close(4000, "too low")

    async def on_close(self):
        self.auction.bidders.discard(self)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.set_session_factory(SignedCookieSessionFactory(settings["auction.secret"]))
        config.include("aiopyramid")
        config.add_lifespan(auction)
        for name in ("price", "login", "bids"):
            config.add_route(name, f"/{name}")
        config.scan(__name__)
        return config.make_wsgi_app()
