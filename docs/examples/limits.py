"""A chat that nobody can flood: rates, ages and numbers of connections."""

from pyramid.config import Configurator

from aiopyramid.websocket.view import websocket_view_config


def admission(request):
    return {
        f"address {request.remote_addr}": 20,
        f"user {request.params.get('user')}": 3,
    }


@websocket_view_config(
    route_name="chat",
    admission=admission,
    max_message_rate=5,
    max_byte_rate=10_000,
    rate_burst=4,
    rate_policy="close",
    max_age=3600,
    max_age_jitter=0.2,
)
async def chat(ws):
    async for message in ws:
        await ws.send(message)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("chat", "/chat")
        config.scan(__name__)
        return config.make_wsgi_app()
