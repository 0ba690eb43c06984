"""Typed messages: a game of guesses over WebSockets, with three codecs."""

import random
from typing import Annotated, Literal

import msgspec
import pydantic
from pyramid.config import Configurator

from aiopyramid.websocket.codecs import JSONCodec
from aiopyramid.websocket.connection import WebsocketConnection
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

# JSON, by way of Pyramid's renderer and its adapters.


@websocket_view_config(route_name="json", codec=JSONCodec)
async def count_words(ws: WebsocketConnection[dict[str, str], dict[str, int]]) -> None:
    async for message in ws:
        await ws.send({name: len(text.split()) for name, text in message.items()})


# msgspec


class Guess(msgspec.Struct, tag="guess"):
    number: Annotated[int, msgspec.Meta(ge=1, le=100)]


class GiveUp(msgspec.Struct, tag="give up"):
    pass


class Hint(msgspec.Struct, tag="hint"):
    text: Literal["higher", "lower", "yes"]


class Solution(msgspec.Struct, tag="solution"):
    number: int


class Game:
    """A codec of msgspec's encoder and decoder."""

    encode = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder(Guess | GiveUp).decode
    errors = msgspec.DecodeError


@websocket_view_config(route_name="msgspec", codec=Game())
async def play(ws: WebsocketConnection[Guess | GiveUp, Hint | Solution]) -> None:
    number = random.randint(1, 100)  # noqa: S311
    async for message in ws:
        match message:
            case Guess(guessed) if guessed != number:
                await ws.send(Hint("higher" if guessed < number else "lower"))
            case Guess():
                await ws.send(Hint("yes"))
            case GiveUp():
                await ws.send(Solution(number))


# pydantic


class Order(pydantic.BaseModel):
    product: str
    amount: int = pydantic.Field(gt=0)


class Receipt(pydantic.BaseModel):
    price: int


class Problem(pydantic.BaseModel):
    fields: list[str]


class Shop:
    """A codec of pydantic's models."""

    def encode(self, obj: pydantic.BaseModel) -> str:
        return obj.model_dump_json()

    def decode(self, message: str) -> Order:
        return Order.model_validate_json(message)

    errors = pydantic.ValidationError

    def error_message(self, exc: pydantic.ValidationError) -> Problem:
        return Problem(fields=[".".join(map(str, error["loc"])) for error in exc.errors()])


@websocket_view_config(route_name="pydantic", codec=Shop(), invalid_message="answer")
class Orders(WebsocketConnectionView[Order, Receipt | Problem]):
    async def on_message(self, message: Order) -> None:
        await self.send(Receipt(price=5 * message.amount))


def main(global_config: object = None, **settings: str) -> object:
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        for name in ("json", "msgspec", "pydantic"):
            config.add_route(name, f"/{name}")
        config.scan(__name__)
        return config.make_wsgi_app()
