import pytest
from chat import main


@pytest.fixture
def app():
    return main()


def test_what_one_says_all_hear(sync_client):
    with sync_client.websocket("/") as ann, sync_client.websocket("/") as bob:
        for ws in ann, bob:
            assert "data" not in ws.receive_json()  # it has joined
        ann.send("hello")
        for ws in ann, bob:
            assert ws.receive_json()["data"] == "hello"


def test_who_comes_later_hears_it_too(sync_client):
    with sync_client.websocket("/") as ann:
        ann.send("hello")
        ann.receive_json()
        ann.receive_json()
    with sync_client.websocket("/") as bob:
        assert bob.receive_json()["data"] == "hello"
