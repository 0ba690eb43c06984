"""
Views as type checkers see them: this is checked, and not run.

Where a line must be refused, the comment is needed: unneeded ones are errors as well.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, assert_type

from pyramid.request import Request

from aiopyramid.websocket.connection import WebsocketConnection
from aiopyramid.websocket.scope import message_scope
from aiopyramid.websocket.view import (
    WebsocketConnectionView,
    websocket_view_config,
    websocket_view_defaults,
)


@websocket_view_config(route_name="a", max_queue=5, my_predicate=True)
async def texts(ws: WebsocketConnection) -> None:
    assert_type(await ws.recv(), str | bytes | None)
    async for message in ws:
        assert_type(message, str | bytes)
        await ws.send(message)
    await ws.send(bytearray())
    await ws.send(5)  # type: ignore[arg-type]


@websocket_view_config(codec="myproject.codecs.Numbers")
async def numbers(ws: WebsocketConnection[int, float]) -> None:
    assert_type(await ws.recv(), int | None)
    await ws.send(0.5)
    await ws.send("text")  # type: ignore[arg-type]


@websocket_view_config()
def generator(ws: WebsocketConnection) -> Generator[Any, Any, None]:
    yield from ws.recv().__await__()


@websocket_view_config()  # type: ignore[type-var]
def plain(ws: WebsocketConnection) -> None: ...


@websocket_view_config(max_queue="5")  # type: ignore[arg-type]
async def bad_option(ws: WebsocketConnection) -> None: ...


@websocket_view_defaults(route_name="a")
class Methods:
    def __init__(self, request: Request) -> None:
        self.request = request

    @websocket_view_config()
    async def talk(self, ws: WebsocketConnection) -> None: ...


@websocket_view_config()
class Callbacks(WebsocketConnectionView[int, float]):
    async def on_open(self) -> None:
        await super().on_open()
        assert_type(self.ws, WebsocketConnection[int, float])

    def on_message(self, message: int) -> None:
        """A plain function."""

    def on_close(self) -> Generator[Any, Any, None]:
        yield from self.send(0.5).__await__()


class Scopes(WebsocketConnectionView):
    @message_scope
    async def on_message(self, message: str | bytes) -> None: ...

    @message_scope(check=print)
    def on_close(self) -> None: ...

    @message_scope
    def load(self, number: int) -> str:
        return str(number)

    async def on_open(self) -> None:
        assert_type(await self.load(5), str)
        await self.load("5")  # type: ignore[arg-type]


class WrongMessages(WebsocketConnectionView[int, float]):
    async def on_message(self, message: str) -> None: ...  # type: ignore[override]
