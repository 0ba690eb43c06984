from __future__ import annotations

import asyncio
import threading

import pytest

from aiopyramid.bridge import await_, spawn_greenlet
from aiopyramid.helpers import is_coroutine_function
from aiopyramid.threads import run_in_executor
from aiopyramid.websocket.callbacks import call_in_request, call_on_loop, mark_generators


def thread():
    return threading.current_thread()


async def in_coroutine(*args):
    await asyncio.sleep(0)
    return thread(), args


def in_generator(*args):
    yield from asyncio.sleep(0)
    return thread(), args


def in_plain_code(*args):
    await_(asyncio.sleep(0))
    return thread(), args


class View:
    generator = in_generator


mark_generators(View)


@pytest.mark.parametrize("callback", [in_coroutine, View().generator])
async def test_coroutines_and_generators_run_on_the_loop(callback):
    called_in, args = await call_on_loop(callback, 1, "a", 2)
    assert called_in is thread()
    assert args[-2:] == ("a", 2)
    assert await spawn_greenlet(call_in_request, callback, "a") == (thread(), (*args[:-2], "a"))


async def test_plain_callbacks_run_in_threads():
    called_in, args = await call_on_loop(in_plain_code, 1, "a", 2)
    assert called_in is not thread()
    assert args == ("a", 2)


async def test_a_plain_callback_of_a_request_runs_in_its_thread():
    def request():
        return thread(), call_in_request(in_plain_code)

    own, (called_in, _) = await run_in_executor(None, request)
    assert called_in is own
    # Requests on the loop have none.
    called_in, _ = await spawn_greenlet(call_in_request, in_plain_code)
    assert called_in is not thread()


def test_generators_of_base_classes_are_marked():
    class Base:
        def on_open(self):
            yield

    class Derived(Base):
        value = 1

    mark_generators(Derived)
    assert is_coroutine_function(Derived.on_open)
