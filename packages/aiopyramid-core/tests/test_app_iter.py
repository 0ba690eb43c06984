import asyncio
import threading

import pytest

from aiopyramid.app_iter import CoroutineAppIter, ExecutorAppIter, run
from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import spawn_greenlet, synchronize, use_executor


async def chunks(steps=None, count=3):
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield b"chunk %d" % number
    finally:
        await asyncio.sleep(0)
        if steps is not None:
            steps.append("finally")


# Bodies made by asynchronous iterators


async def test_an_async_generator_gives_all_its_chunks_and_ends():
    steps = []
    body = CoroutineAppIter(chunks(steps))
    assert iter(body) is body
    assert await spawn_greenlet(list, body) == [b"chunk 0", b"chunk 1", b"chunk 2"]
    assert steps == ["finally"]
    assert await spawn_greenlet(list, body) == []


async def test_the_chunks_of_an_async_generator_can_be_read_in_a_thread():
    assert await use_executor(list)(CoroutineAppIter(chunks())) == [
        b"chunk 0",
        b"chunk 1",
        b"chunk 2",
    ]


async def test_each_chunk_is_made_when_it_is_asked_for():
    made = []

    async def numbers():
        for number in range(3):
            made.append(number)
            yield b"%d" % number

    body = CoroutineAppIter(numbers())
    assert made == []
    assert await spawn_greenlet(next, body) == b"0"
    assert made == [0]


async def test_closing_runs_the_finally_of_a_begun_async_generator():
    steps = []
    body = CoroutineAppIter(chunks(steps))
    await spawn_greenlet(next, body)
    assert steps == []
    await spawn_greenlet(body.close)
    assert steps == ["finally"]
    await spawn_greenlet(body.close)
    assert steps == ["finally"]
    assert await spawn_greenlet(list, body) == []


async def test_closing_an_async_generator_that_was_never_begun_does_nothing(no_warnings):
    steps = []
    body = CoroutineAppIter(chunks(steps))
    await spawn_greenlet(body.close)
    assert steps == []
    assert await spawn_greenlet(list, body) == []


async def test_an_exception_of_an_async_generator_comes_out():
    async def broken():
        yield b"first"
        raise KeyError("broken")

    body = CoroutineAppIter(broken())
    assert await spawn_greenlet(next, body) == b"first"
    with pytest.raises(KeyError, match="broken"):
        await spawn_greenlet(next, body)


async def test_an_async_iterator_that_is_no_generator_works():
    class Countdown:
        def __init__(self):
            self.left = 2

        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.sleep(0)
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return b"%d" % self.left

    body = CoroutineAppIter(Countdown())
    assert await spawn_greenlet(list, body) == [b"1", b"0"]
    await spawn_greenlet(body.close)


async def test_plain_code_that_an_async_generator_calls_can_read_another_body():
    async def outer():
        for chunk in CoroutineAppIter(chunks(count=2)):
            yield b"outer " + chunk

    body = CoroutineAppIter(outer())
    assert await spawn_greenlet(list, body) == [b"outer chunk 0", b"outer chunk 1"]


async def test_a_body_cannot_be_read_on_the_loop_itself(no_warnings):
    body = CoroutineAppIter(chunks())
    with pytest.raises(ScopeError):
        next(body)


# Bodies made by plain iterables


async def test_a_plain_generator_gives_its_chunks_and_is_closed_in_other_threads():
    threads = []

    def numbers():
        try:
            for number in range(10):
                threads.append(threading.current_thread())
                yield b"%d" % number
        finally:
            threads.append(threading.current_thread())

    body = ExecutorAppIter(numbers())
    assert iter(body) is body
    assert await spawn_greenlet(lambda: [next(body), next(body)]) == [b"0", b"1"]
    await spawn_greenlet(body.close)
    assert len(threads) == 3
    assert threading.current_thread() not in threads


async def test_a_plain_iterable_ends():
    body = ExecutorAppIter((b"one", b"two"))
    assert await spawn_greenlet(list, body) == [b"one", b"two"]
    with pytest.raises(RuntimeError):  # StopIteration, on its way through a coroutine
        await spawn_greenlet(next, body)
    await spawn_greenlet(body.close)  # a tuple has nothing to close


async def test_none_and_empty_chunks_do_not_end_a_plain_iterable():
    body = ExecutorAppIter(iter([b"", None, b"end"]))
    assert await spawn_greenlet(list, body) == [b"", None, b"end"]


async def test_the_iterable_is_closed_and_not_its_iterator():
    closed = []

    class Body:
        def __iter__(self):
            return iter([b"chunk"])

        def close(self):
            closed.append(threading.current_thread())

    body = ExecutorAppIter(Body())
    assert await spawn_greenlet(list, body) == [b"chunk"]
    await spawn_greenlet(body.close)
    assert len(closed) == 1
    assert closed[0] is not threading.current_thread()


async def test_an_exception_of_a_plain_generator_comes_out():
    def broken():
        yield b"first"
        raise KeyError("broken")

    body = ExecutorAppIter(broken())
    with pytest.raises(KeyError, match="broken"):
        await spawn_greenlet(list, body)


async def test_a_plain_generator_can_wait_for_coroutines():
    @synchronize
    async def double(number):
        await asyncio.sleep(0)
        return b"%d" % (2 * number)

    body = ExecutorAppIter(double(number) for number in range(3))
    assert await spawn_greenlet(list, body) == [b"0", b"2", b"4"]


# Running in a thread


async def test_plain_code_on_the_loop_is_run_in_a_thread():
    thread = await spawn_greenlet(run, threading.current_thread)
    assert thread is not threading.current_thread()


async def test_plain_code_in_a_thread_is_run_there():
    def in_thread():
        return threading.current_thread(), run(threading.current_thread)

    one, other = await use_executor(in_thread)()
    assert one is other


def test_plain_code_without_a_loop_is_run_directly():
    assert run(threading.current_thread) is threading.current_thread()
