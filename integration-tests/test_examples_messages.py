"""The applications of docs/howto/messages.rst and docs/howto/limits.rst, under each server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
from harness import WEBSOCKET_VARIANTS, Server, closing
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection

TOO_MANY_REQUESTS = 429


@pytest.fixture(scope="session", params=WEBSOCKET_VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start(launch: Callable[..., Server], variant: str, app: str) -> Server:
    server = launch(variant=variant, app=f"apps.examples:{app}()", wait=False)
    server.port = int(server.wait_for_log(server.listening).group(1))
    return server


def ask(ws: ClientConnection, message: object) -> object:
    ws.send(json.dumps(message))
    return json.loads(ws.recv())


def test_messages_are_objects(launch: Callable[..., Server], variant: str) -> None:
    server = start(launch, variant, "typed_messages")
    with server.sync_connect("/json") as ws:
        assert ask(ws, {"a": "one two"}) == {"a": 2}
        ws.send("{")
        code, reason = closing(ws)
        assert code == 1007
        assert reason.startswith("invalid message: Expecting property name")

    with server.sync_connect("/msgspec") as ws:
        low, high, guess = 1, 100, 50
        while (hint := ask(ws, {"type": "guess", "number": guess})["text"]) != "yes":
            low, high = (guess + 1, high) if hint == "higher" else (low, guess - 1)
            guess = (low + high) // 2
        assert ask(ws, {"type": "give up"}) == {"type": "solution", "number": guess}
        ws.send('{"type": "guess", "number": 101}')
        assert closing(ws) == (1007, "invalid message: Expected `int` <= 100 - at `$.number`")

    with server.sync_connect("/pydantic") as ws:
        assert ask(ws, {"product": "tea", "amount": 2}) == {"price": 10}
        assert ask(ws, {"amount": 0}) == {"fields": ["product", "amount"]}
        assert ask(ws, {"product": "tea", "amount": 1}) == {"price": 5}
        ws.send("{")
        assert json.loads(ws.recv()) == {"fields": [""]}
        ws.send(b"{}")
        assert closing(ws) == (1003, "expected a text message")


def test_a_chat_cannot_be_flooded(launch: Callable[..., Server], variant: str) -> None:
    server = start(launch, variant, "limits")
    with server.sync_connect("/chat?user=ann") as first:
        with server.sync_connect("/chat?user=ann"), server.sync_connect("/chat?user=ann"):
            with pytest.raises(InvalidStatus) as refused:
                server.sync_connect("/chat?user=ann")
            assert refused.value.response.status_code == TOO_MANY_REQUESTS
            with server.sync_connect("/chat?user=bob"):
                """Another user."""
        with contextlib.suppress(ConnectionClosedError):  # it may be too late for the last ones
            for number in range(100):
                first.send(str(number))
        assert closing(first) == (1008, "messages come too fast")
    with server.sync_connect("/chat?user=ann") as again:
        again.send("x" * 30_000)
        assert again.recv() == "x" * 30_000
        again.send("x" * 30_000)
        assert closing(again)[0] == 1008
