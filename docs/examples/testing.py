"""Tests of the auction, for pytest."""

import asyncio
from typing import Any

import pytest
from auction import Bidder, price
from pyramid.testing import DummyRequest, setUp, tearDown

from aiopyramid.exceptions import ScopeError
from aiopyramid.testing import HandshakeRefused
from aiopyramid.websocket.exceptions import WebsocketClosed

ANN_BIDS = {"name": "ann", "price": 120}


# Plain tests, which need nothing of ours.


def test_price(testapp):
    assert testapp.get("/price").json == {"price": 100}


# A WebSocket, in a coroutine and in a plain test.


async def test_bids(async_client):
    async with async_client as c:
        await c.post("/login", {"name": "ann"})
        async with c.websocket("/bids") as ws:
            await ws.send("120")
            assert await ws.receive_json() == ANN_BIDS


def test_bids_in_a_plain_test(sync_client):
    sync_client.post("/login", {"name": "ann"})
    with sync_client.websocket("/bids") as ws:
        ws.send("120")
        assert ws.receive_json() == ANN_BIDS


# Cookies are those of the TestApp.


def test_who_has_logged_in_may_bid(testapp, sync_client):
    testapp.post("/login", {"name": "ann"})
    with sync_client.websocket("/bids") as ws:
        ws.send("120")
        assert ws.receive_json()["name"] == "ann"


async def test_others_may_not(async_client):
    async with async_client as c:
        with pytest.raises(HandshakeRefused, match="403 Forbidden") as caught:
            async with c.websocket("/bids"):
                pass
        assert "log in first" in caught.value.response.text


@pytest.fixture
async def ann(async_client):
    """A client that has logged in."""
    async with async_client as c:
        await c.post("/login", {"name": "ann"})
        yield c


# The handshake.


async def test_pages_of_other_origins_are_refused(ann):
    async with ann.websocket("/bids", origin="http://example.com"):
        pass
    with pytest.raises(HandshakeRefused) as caught:
        async with ann.websocket("/bids", origin="https://elsewhere.example"):
            pass
    assert caught.value.response.status_int == 403


async def test_a_subprotocol_is_agreed_upon(ann):
    async with ann.websocket("/bids", subprotocols=["bids.v2", "bids.v1"]) as ws:
        assert ws.subprotocol == "bids.v1"


# How a connection ends.


async def test_a_bid_that_is_too_low_ends_the_connection(ann):
    async with ann.websocket("/bids") as ws:
        await ws.send("99")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4000, "too low")
        with pytest.raises(WebsocketClosed):
            await ws.receive()


async def test_nothing_is_told_until_somebody_bids(ann):
    async with ann.websocket("/bids") as ws:
        await ws.receive_nothing()


async def test_a_lost_connection_is_cleaned_up(ann, app):
    async with ann.websocket("/bids") as ws:
        await ws.send("120")
        assert await ws.receive_json() == ANN_BIDS
        ws.abort()  # as if the network was gone
    assert not app.registry.auction.bidders


async def test_who_does_not_read_is_left_behind(ann):
    async with ann.websocket("/bids") as slow, ann.websocket("/bids") as ws:
        slow.pause_reading()
        bid = 120
        while slow.close_code is None:  # until send_timeout is over
            await ws.send(str(bid))
            assert (await ws.receive_json())["price"] == bid
            bid += 1
        assert slow.close_code == 1006


# Exceptions.


async def test_an_exception_closes_with_1011(ann):
    async with ann.websocket("/bids") as ws:
        await ws.send("a lot")
        await ws.wait_closed()
        assert ws.close_code == 1011


async def test_an_exception_can_be_raised_in_the_test(ann):
    async with ann.websocket("/bids", raise_exceptions=True) as ws:
        await ws.send("a lot")
        with pytest.raises(ValueError, match="a lot"):
            await ws.receive()


async def test_a_view_that_says_nothing_is_found(ann):
    async with ann.websocket("/bids", timeout=0.2) as ws:
        with pytest.raises(TimeoutError) as caught:
            await ws.receive()
    assert "no message came within 0.2 s" in str(caught.value)
    assert "The view waits here:" in str(caught.value)


# Several at once, on the loop of the test.


async def test_requests_run_side_by_side(async_client):
    async with async_client as c:
        answers = await asyncio.gather(*[c.get("/price") for _ in range(20)])
        assert {answer.json["price"] for answer in answers} == {100}
        assert c.app.app.registry.auction.price == 100


async def test_a_test_that_is_a_coroutine_must_not_call_the_test_app(testapp):
    with pytest.raises(ScopeError, match="In a test that is a coroutine"):
        testapp.get("/price")


# Without an application.


class AuctionOfTest:
    price = 7


@pytest.fixture
def request_of_test():
    """A request, and a registry of its own."""
    request = DummyRequest()
    registry: Any = setUp(request=request).registry
    registry.auction = AuctionOfTest()
    yield request
    tearDown()


async def test_a_coroutine_view_is_a_function(request_of_test):
    assert await price(request_of_test) == {"price": 7}


async def test_so_is_a_callback(request_of_test):
    request_of_test.session["name"] = "ann"
    bidder = Bidder(None, request_of_test)
    await bidder.on_handshake()
    assert bidder.name == "ann"
