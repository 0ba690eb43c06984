from __future__ import annotations

import asyncio
from sys import getsizeof

import pytest

from aiopyramid.websocket.messages import MessageQueue


def put(queue, *messages):
    for message in messages:
        queue.messages.append(message)
        queue.added(1, len(message.encode()) if isinstance(message, str) else len(message))


@pytest.fixture
async def queue():
    return MessageQueue(asyncio.get_running_loop(), 4, 10_000)


async def test_a_queue_is_full_by_number_and_has_room_again_at_half(queue):
    assert queue.room() == 4
    put(queue, "a", "b", "c", "d")
    assert queue.room() == 0
    queue.messages.popleft()
    assert not queue.has_room_again()
    queue.messages.popleft()
    assert queue.has_room_again()
    assert queue.room() == 2


@pytest.mark.parametrize("message", [bytes(9_967), "\N{PILE OF POO}" + "x" * 2_490])
async def test_a_queue_is_full_by_the_memory_of_its_messages(queue, message):
    assert getsizeof(message) >= 10_000
    put(queue, message[:-200])
    assert queue.room() == 3
    queue.messages.popleft()
    put(queue, message)
    assert queue.room() == 0
    assert not queue.has_room_again()
    queue.messages.popleft()
    assert queue.has_room_again()
    assert queue.room() == 4


async def test_many_messages_in_turn_do_not_fill_a_queue(queue):
    for _ in range(1000):
        put(queue, bytes(3000))
        assert queue.room() == 3
        queue.messages.popleft()
    assert queue.received == 1000


async def test_one_task_may_wait(queue):
    waiting = queue.wait()
    with pytest.raises(RuntimeError, match="another task"):
        queue.wait()
    put(queue, "a")
    await waiting
    waiting = queue.wait()
    waiting.cancel()
    waiting = queue.wait()
    queue.wake()
    await waiting
    queue.wake()


async def test_a_queue_can_be_cleared(queue):
    put(queue, bytes(20_000))
    queue.clear()
    assert not queue.messages
    assert queue.room() == 4
