"""A first WebSocket, with its page on the same route."""

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.websocket.connection import WebsocketConnection
from aiopyramid.websocket.view import websocket_view_config

PAGE = """<!doctype html>
<title>Echo</title>
<input id="text" aria-label="Message"> <ul id="log"></ul>
<script>
const socket = new WebSocket(location.href.replace(/^http/, "ws"));
const log = (text) => {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("log").append(item);
};
socket.onmessage = (event) => log(event.data);
socket.onclose = (event) => log(`closed with code ${event.code}`);
document.getElementById("text").onchange = (event) => socket.send(event.target.value);
</script>
"""


@view_config(route_name="echo", websocket=False)
def page(request):
    return Response(PAGE)


@websocket_view_config(route_name="echo")
async def echo(ws: WebsocketConnection) -> None:
    async for message in ws:
        await ws.send(message)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("echo", "/")
        config.scan(__name__)
        return config.make_wsgi_app()
