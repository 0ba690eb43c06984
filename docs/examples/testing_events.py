"""Tests of the news feed, for pytest."""

import pytest
from events import main

from aiopyramid.testing import client


@pytest.fixture
def app():
    return main()


async def test_a_page_that_comes_again_gets_what_it_has_missed(app):
    async with client(app) as c:
        for text in ("it rains", "it pours", "the sun shines"):
            await c.post("/news", {"text": text})
        async with c.events("/events", last_event_id="2") as events:
            event = await events.receive()
            assert (event.id, event.data) == ("3", "the sun shines")
            await c.post("/news", {"text": "it snows"})
            assert (await events.receive()).data == "it snows"
