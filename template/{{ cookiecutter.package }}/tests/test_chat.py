import json

import pytest

from aiopyramid.testing import HandshakeRefused
from aiopyramid.testing import sync_client as open_client


def receive_said(ws):
    """Return the next thing that somebody says."""
    while True:
        message = ws.receive_json()
        if message["group"] == "said" and "data" in message:
            return json.loads(message["data"])


def test_strangers_are_refused(sync_client):
    with pytest.raises(HandshakeRefused) as refused, sync_client.websocket("/chat"):
        pass
    assert refused.value.response.status_int == 403


def test_a_socket_is_not_a_page(signed_in):
    signed_in.get("/chat", status=426)


def test_what_one_says_all_hear(app, signed_in, sync_client, sign_in):
    with open_client(app) as bob:
        sign_in(bob, "Bob")
        with sync_client.websocket("/chat") as of_ann, bob.websocket("/chat") as of_bob:
            of_ann.send_json({"text": " hello "})
            for ws in of_ann, of_bob:
                said = receive_said(ws)
                assert (said["name"], said["text"]) == ("Ann", "hello")
            assert signed_in.get("/members").json == ["Ann", "Bob"]


def test_a_new_page_shows_what_was_said_before(signed_in, sync_client):
    with sync_client.websocket("/chat") as ws:
        ws.send_json({"text": "before"})
        receive_said(ws)
    with sync_client.websocket("/chat") as ws:
        assert receive_said(ws)["text"] == "before"


def test_rubbish_closes_the_connection(signed_in, sync_client):
    with sync_client.websocket("/chat") as ws:
        ws.send("rubbish")
        ws.wait_closed()
        assert ws.close_code == 1008


async def test_signing_out_closes_all_connections_of_the_user(signed_in, async_client):
    async with async_client as client, client.websocket("/chat") as ws:
        page = await client.get("/")
        await client.call(page.forms[0].submit)
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4401, "signed out")


def test_signing_in_again_closes_the_connections_of_before(signed_in, sync_client, sign_in):
    with sync_client.websocket("/chat") as ws:
        sign_in(signed_in, "Bob")
        ws.wait_closed()
        assert ws.close_code == 4401
