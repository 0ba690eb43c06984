"""Coroutines that the tests of the bridge wait for."""

import asyncio


class Oops(Exception):
    pass


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


async def fail():
    await asyncio.sleep(0)
    raise Oops


async def rounds(count=5):
    """Let everything else run that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


async def forever(started=None):
    if started is not None:
        started.set()
    await asyncio.get_running_loop().create_future()
