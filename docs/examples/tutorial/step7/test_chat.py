import pytest
from chat import main

from aiopyramid.testing import HandshakeRefused


@pytest.fixture
def app():
    return main(**{"session.secret": "for tests"})


def receive(ws):
    """Return what is said next."""
    while "data" not in (message := ws.receive_json()):
        pass  # it has joined
    return message["data"]


def test_strangers_may_not_chat(testapp, sync_client):
    assert "Your name" in testapp.get("/", status=403)
    with pytest.raises(HandshakeRefused), sync_client.websocket("/"):
        pass


def test_what_one_says_all_hear(testapp, sync_client):
    testapp.post("/sign-in", {"name": "Ann"}, status=303)
    with sync_client.websocket("/") as one, sync_client.websocket("/") as other:
        one.send("hello")
        assert receive(one) == receive(other) == "Ann: hello"
        assert testapp.get("/who").json == ["Ann"]


def test_who_comes_later_hears_it_too(testapp, sync_client):
    testapp.post("/sign-in", {"name": "Ann"})
    with sync_client.websocket("/") as ws:
        ws.send("hello")
        receive(ws)
    with sync_client.websocket("/") as ws:
        assert receive(ws) == "Ann: hello"
