"""
Tests of applications: clients that call them in the same process.

::

    from aiopyramid.testing import client, sync_client

    async def test_chat(app):
        async with client(app) as c:
            response = await c.get("/chat", status=200)
            async with c.websocket("/chat/ws") as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"

    def test_chat_from_plain_code(app):
        with sync_client(app) as c, c.websocket("/chat/ws") as ws:
            ws.send("hello")
            assert ws.receive() == "hello"

Requests are those of WebTest: its methods, its arguments, its responses, through the real
router, tweens and views. WebSocket views run as under a server: the handshake is a request
like any other, and then the view speaks to a real client over a connection in memory. Needs
``pip install "aiopyramid-core[testing]"``.
"""

from .clients import Client, SyncClient, client, sync_client
from .events import Events, NoEvents, SyncEvents
from .websocket import HandshakeRefused, SyncWebsocket, Websocket

__all__ = [
    "Client",
    "Events",
    "HandshakeRefused",
    "NoEvents",
    "SyncClient",
    "SyncEvents",
    "SyncWebsocket",
    "Websocket",
    "client",
    "sync_client",
]
