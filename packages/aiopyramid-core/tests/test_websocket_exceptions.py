from __future__ import annotations

import asyncio

import pytest

from aiopyramid.websocket.exceptions import (
    CloseWebsocket,
    WebsocketClosed,
    check_close,
    closing,
    is_closed,
    is_quiet,
)

CLOSED = WebsocketClosed(1000)
GROUP = BaseExceptionGroup("tasks", [CLOSED, BaseExceptionGroup("more", [CLOSED])])
MIXED = BaseExceptionGroup("tasks", [CLOSED, ValueError()])
CLOSE = CloseWebsocket(4401, "signed out")


def test_the_error_says_how_the_connection_was_closed():
    assert str(WebsocketClosed()) == "the WebSocket connection is closed with code 1006"
    assert str(WebsocketClosed(4000, "bye")).endswith("with code 4000 (bye)")


@pytest.mark.parametrize(
    ("exc", "closed", "status"),
    [
        (CLOSED, True, (1000, "")),
        (WebsocketClosed(4000, "another connection"), True, (1000, "")),
        (GROUP, True, (1000, "")),
        (CLOSE, True, (4401, "signed out")),
        (BaseExceptionGroup("tasks", [CLOSE]), True, (4401, "signed out")),
        (MIXED, False, (1011, "")),
        (ValueError(), False, (1011, "")),
    ],
)
async def test_a_view_may_let_the_error_pass(exc, closed, status):
    assert is_closed(exc) is closed
    assert is_quiet(exc) is closed
    assert closing(exc) == status


def test_codes_and_reasons_are_checked():
    check_close(1000, "x" * 123)
    for code, reason in [(1005, ""), (999, ""), (5000, ""), (1000, "x" * 124)]:
        with pytest.raises(ValueError, match=f"cannot close with code {code}"):
            check_close(code, reason)
        with pytest.raises(ValueError, match=f"cannot close with code {code}"):
            CloseWebsocket(code, reason)


async def test_a_cancelled_view_goes_away_quietly():
    async def view():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as exc:
            return is_quiet(exc), closing(exc)

    task = asyncio.ensure_future(view())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == (True, (1001, ""))
