"""
Response bodies that are produced while they are sent.

A WSGI server iterates over a body with plain ``next()``. These iterators fetch
each chunk where the view that makes it belongs: on the event loop, or in a
worker thread. Either way, the loop is free while the chunk is being made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from . import bridge, threads

END = object()


class CoroutineAppIter:
    """A body made by an asynchronous iterator, such as an async generator."""

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = bridge.run_coroutine(self.chunks.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None
        return chunk

    def close(self) -> None:
        """End the generator, so that its ``finally`` blocks run."""
        bridge.run_coroutine(self.aclose())

    # For a server that sends it on the event loop, without a thread.

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        # In a greenlet, so that plain code below the generator can wait.
        return await bridge.spawn_greenlet(bridge.run_coroutine, self.chunks.__anext__())

    async def aclose(self) -> None:
        """As `close`, on the event loop."""
        aclose = getattr(self.chunks, "aclose", None)
        if aclose is not None:
            await bridge.spawn_greenlet(bridge.run_coroutine, aclose())


class ExecutorAppIter:
    """A body made by a plain iterable that may block, one chunk at a time in a thread."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = chunks
        self.iterator = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk: Any = run(next, self.iterator, END)
        if chunk is END:
            raise StopIteration
        return chunk  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the iterable, in a thread as well."""
        close = getattr(self.chunks, "close", None)
        if close is not None:
            run(close)


def run(func: Any, *args: Any) -> Any:
    """Run ``func`` in a worker thread; directly where this already is one."""
    if bridge.in_worker_thread():
        return func(*args)
    return bridge.await_(threads.run_in_executor(None, func, *args))
