"""A small application to deploy: it tells that it is up, and echoes."""

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.websocket.view import websocket_view_config


@view_config(route_name="up")
async def up(request):
    return Response("up")


@websocket_view_config(route_name="echo")
async def echo(ws):
    async for message in ws:
        await ws.send(message)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("up", "/up")
        config.add_route("echo", "/echo")
        config.scan(__name__)
        return config.make_wsgi_app()
