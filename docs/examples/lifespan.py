"""A shop: a database, a client for HTTP, Redis, and a feed of exchange rates."""

import asyncio
from contextlib import asynccontextmanager, suppress

import httpx
from pyramid.config import Configurator
from pyramid.view import view_config
from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_engine_from_config, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.view import websocket_view_config

# A pool of connections to a database.


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"

    name: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[float]


@asynccontextmanager
async def database(registry):
    engine = async_engine_from_config(registry.settings, "sqlalchemy.")
    try:
        async with engine.connect() as connection:
            await connection.scalar(select(1))  # no worker without a database
        registry.new_session = async_sessionmaker(engine)
        yield
    finally:
        await engine.dispose()


@view_config(route_name="products", request_method="GET", renderer="json")
async def products(request):
    async with request.registry.new_session() as session:
        found = await session.scalars(select(Product).order_by(Product.name))
        return {product.name: product.price for product in found}


# A client for another server, which keeps its connections.


@asynccontextmanager
async def http_client(registry):
    url = registry.settings["rates.url"]
    async with httpx.AsyncClient(base_url=url, timeout=5) as client:
        registry.http = client
        yield


@view_config(route_name="history", renderer="json")
async def history(request):
    answer = await request.registry.http.get(f"/history/{request.matchdict['currency']}")
    answer.raise_for_status()
    return answer.json()


# A client for Redis: what all workers share.


@asynccontextmanager
async def redis_client(registry):
    async with Redis.from_url(registry.settings["redis.url"], decode_responses=True) as redis:
        await redis.ping()  # no worker without it
        registry.redis = redis
        yield


@view_config(route_name="visits", renderer="json")
async def visits(request):
    return await request.registry.redis.incr("visits")


# A background task: it asks for the rates again and again, and tells who is connected.


async def tell(ws, rates):
    with suppress(WebsocketClosed):  # of one that has left just now
        await ws.send_json(rates)


async def follow_rates(registry):
    while True:
        answer = await registry.http.get("/rates")
        answer.raise_for_status()  # logged, and tried again after a second
        rates = answer.json()
        if rates != registry.rates:
            registry.rates = rates
            await asyncio.gather(*[tell(ws, rates) for ws in registry.watchers])
        await asyncio.sleep(float(registry.settings["rates.interval"]))


@view_config(route_name="rates", websocket=False, renderer="json")
async def rates(request):
    return request.registry.rates


@websocket_view_config(route_name="rates")
async def watch_rates(ws):
    registry = ws.request.registry
    registry.watchers.add(ws)
    try:
        await ws.send_json(registry.rates)
        async for _ in ws:
            pass  # until the client leaves
    finally:
        registry.watchers.discard(ws)


def include_rates(config):
    config.registry.rates = {}  # until they are known
    config.registry.watchers = set()
    config.add_lifespan(http_client)
    config.add_background_task(follow_rates)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_lifespan(database)
        config.add_lifespan(redis_client)
        config.include(include_rates)
        for name in ("products", "visits", "rates"):
            config.add_route(name, f"/{name}")
        config.add_route("history", "/history/{currency}")
        config.scan(__name__)
        return config.make_wsgi_app()
