from __future__ import annotations

import asyncio

import pytest

from aiopyramid.exceptions import ClientDisconnected, is_cancellation


def test_a_client_that_has_left_is_an_error_of_the_connection():
    assert issubclass(ClientDisconnected, ConnectionResetError)


async def test_only_the_cancellation_of_this_task_is_one():
    other = asyncio.ensure_future(asyncio.sleep(3600))
    other.cancel()
    with pytest.raises(asyncio.CancelledError) as info:
        await other
    assert not is_cancellation(info.value)

    async def cancelled():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as exc:
            return is_cancellation(exc), is_cancellation(ValueError())

    task = asyncio.ensure_future(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == (True, False)


def test_without_a_loop_nothing_is_cancelled():
    with pytest.raises(RuntimeError):
        is_cancellation(asyncio.CancelledError())
