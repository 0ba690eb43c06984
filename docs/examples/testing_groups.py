"""Tests of the rooms, for pytest."""

import pytest
from groups import main

from aiopyramid.broadcast import groups_of
from aiopyramid.testing import HandshakeRefused, client

SETTINGS = {"session.secret": "of the tests", "aiopyramid.broadcast.history": "room:* = 100"}


@pytest.fixture
def app():
    return main(**SETTINGS)


@pytest.fixture
async def ann(app):
    """A client that has signed in."""
    async with client(app) as c:
        await c.post("/sign_in", {"user": "ann"})
        yield c


async def test_everybody_in_the_room_gets_what_is_said(ann):
    async with ann.websocket("/rooms/kitchen") as one, ann.websocket("/rooms/kitchen") as other:
        for ws in one, other:
            assert "data" not in await ws.receive_json()  # it has joined
        await one.send("hello")
        for ws in one, other:
            assert (await ws.receive_json())["data"] == '{"user": "ann", "text": "hello"}'


async def test_strangers_stay_outside(app):
    async with client(app) as c:
        await c.post("/sign_in", {"user": "bob"})
        with pytest.raises(HandshakeRefused, match="403"):
            async with c.websocket("/rooms/cellar"):
                pass


async def test_who_was_away_gets_what_was_said_meanwhile(ann, app):
    async with ann.websocket("/rooms/kitchen") as ws:
        where = (await ws.receive_json())["id"]
    await groups_of(app.registry).publish("room:kitchen", "dinner")
    async with ann.websocket(f"/rooms/kitchen?after.room:kitchen={where}") as ws:
        assert (await ws.receive_json())["data"] == "dinner"


async def test_an_end_from_elsewhere(ann, app):
    async with ann.websocket("/rooms/kitchen") as ws:
        await ws.receive_json()
        await groups_of(app.registry).close_connections("room:kitchen", 4000, "good night")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4000, "good night")
