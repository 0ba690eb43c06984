"""Tests of the news feed, for pytest."""

import pytest
from events import main

from aiopyramid.testing import client


@pytest.fixture
def app():
    return main()


async def test_a_page_that_comes_again_gets_what_it_has_missed(app):
    async with client(app) as c:
        await c.post("/news", {"text": "it rains"})
        async with c.events("/events") as events:
            seen = await events.receive()
            assert seen.data == "it rains"
        await c.post("/news", {"text": "it pours"})
        async with c.events("/events", last_event_id=seen.id) as events:
            assert (await events.receive()).data == "it pours"
            await c.post("/news", {"text": "it snows"})
            assert (await events.receive()).data == "it snows"


async def test_a_page_whose_last_news_is_unknown_is_told_of_a_gap(app):
    async with client(app) as c:
        await c.post("/news", {"text": "it rains"})
        async with c.events("/events", last_event_id="from before") as events:
            gap = await events.receive()
            assert (gap.event, gap.data) == ("gap", "history")
            assert (await events.receive()).data == "it rains"
