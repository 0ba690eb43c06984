from __future__ import annotations

import asyncio

import pytest

from aiopyramid.websocket.exceptions import WebsocketClosed, closing_code, is_closed, is_quiet

CLOSED = WebsocketClosed(1000)
GROUP = BaseExceptionGroup("tasks", [CLOSED, BaseExceptionGroup("more", [CLOSED])])
MIXED = BaseExceptionGroup("tasks", [CLOSED, ValueError()])


def test_the_error_says_how_the_connection_was_closed():
    assert str(WebsocketClosed()) == "the WebSocket connection is closed with code 1006"
    assert str(WebsocketClosed(4000, "bye")).endswith("with code 4000 (bye)")


@pytest.mark.parametrize(
    ("exc", "closed", "code"),
    [(CLOSED, True, 1000), (GROUP, True, 1000), (MIXED, False, 1011), (ValueError(), False, 1011)],
)
async def test_a_view_may_let_the_error_pass(exc, closed, code):
    assert is_closed(exc) is closed
    assert is_quiet(exc) is closed
    assert closing_code(exc) == code


async def test_a_cancelled_view_goes_away_quietly():
    async def view():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as exc:
            return is_quiet(exc), closing_code(exc)

    task = asyncio.ensure_future(view())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == (True, 1001)
