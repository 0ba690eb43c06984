from __future__ import annotations

import asyncio
import io
import os
from types import SimpleNamespace

import pytest
from pyramid.request import Request
from pyramid.response import Response

from aiopyramid.bridge import spawn_greenlet
from aiopyramid.websocket.sessions import sessions


@pytest.fixture
def upgrade(load):
    return load("upgrade")


@pytest.fixture
def forgotten(monkeypatch):
    """The sessions that were forgotten."""
    forgotten = []
    monkeypatch.setattr(sessions, "forget", forgotten.append)
    return forgotten


class Session(asyncio.Protocol):
    """A session that is its own protocol."""

    def __init__(self, error=None):
        self.error = error
        self.request = Request.blank("/", {"wsgi.input": "the body of uWSGI"})
        self.received = asyncio.Queue()

    def open(self):
        if self.error is not None:
            raise self.error
        return self

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received.put_nowait(data)


def test_an_upgrade_knows_what_is_in_its_way(upgrade, uwsgi, connection):
    assert upgrade.UWSGIUpgrade.of({}).obstacle == ""
    uwsgi.opt = {"http": b":80"}
    assert "set http-websockets" in upgrade.UWSGIUpgrade.of({"UWSGI_ROUTER": "http"}).obstacle


def test_an_upgrade_is_the_body_of_its_response(upgrade, forgotten):
    place, response = upgrade.UWSGIUpgrade(), Response(status=101)
    place.session = session = Session()
    headers, before = session.request.headers, session.request.environ
    place.follow(response)
    place.answered(response)
    assert response.app_iter is place
    assert place.session is session
    # uWSGI empties its environ, and the view keeps the request.
    before.clear()
    assert session.request.path == "/"
    assert headers["Host"] == "localhost:80"
    assert isinstance(session.request.environ["wsgi.input"], io.BytesIO)
    assert forgotten == []


@pytest.mark.parametrize("response", [Response(status=403), Response(status=101)])
def test_an_upgrade_with_another_response_is_forgotten(upgrade, forgotten, response):
    place = upgrade.UWSGIUpgrade()
    place.session = session = Session()
    place.answered(response)
    assert place.session is None
    assert forgotten == [session]


def test_a_response_that_cannot_go_out_forgets_its_session(upgrade, forgotten):
    place = upgrade.UWSGIUpgrade()
    place.session = session = Session()
    place.close()
    assert forgotten == [session]
    assert list(place) == [b""]


@pytest.fixture
async def loop_of_worker(load, monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(load("worker"), "install", lambda: SimpleNamespace(loop=lambda: loop))
    return loop


async def test_the_connection_goes_from_uwsgi_to_the_session(
    upgrade, uwsgi, connection, loop_of_worker
):
    place = upgrade.UWSGIUpgrade()
    place.session = session = Session()
    assert await spawn_greenlet(list, place) == [b""]
    connection.send(b"early")
    assert await session.received.get() == b"early"
    session.transport.write(b"late")
    assert await loop_of_worker.sock_recv(connection, 10) == b"late"
    # And uWSGI reads no more from it.
    assert os.read(uwsgi.connection_fd(), 1) == b""
    session.transport.close()
    assert await loop_of_worker.sock_recv(connection, 10) == b""


async def test_a_session_that_does_not_open_closes_the_connection(
    upgrade, connection, loop_of_worker
):
    place = upgrade.UWSGIUpgrade()
    place.session = Session(ValueError("the reason"))
    with pytest.raises(ValueError, match="the reason"):
        await spawn_greenlet(list, place)
    assert await loop_of_worker.sock_recv(connection, 10) == b""
