from __future__ import annotations

import pytest
from testing_app import make_app

import aiopyramid.testing
from aiopyramid.testing import client, sync_client

pytestmark = pytest.mark.both_loops


async def page(request):
    return {"name": request.params["name"]}


def test_all_that_is_public_is_there():
    assert set(aiopyramid.testing.__all__) == {
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
    }
    assert all(getattr(aiopyramid.testing, name).__doc__ for name in aiopyramid.testing.__all__)


async def test_pages_and_websockets_in_a_test_that_is_a_coroutine():
    async with client(make_app(views=[page])) as c:
        response = await c.get("/page", {"name": "x"}, status=200)
        assert response.json == {"name": "x"}
        async with c.websocket("/ws") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"


def test_pages_and_websockets_in_a_plain_test():
    with sync_client(make_app(views=[page])) as c:
        assert c.get("/page", {"name": "x"}, status=200).json == {"name": "x"}
        with c.websocket("/ws") as ws:
            ws.send("hello")
            assert ws.receive() == "hello"
