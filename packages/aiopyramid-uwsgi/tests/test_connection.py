from __future__ import annotations

import io
import os

import pytest
from pyramid.request import Request


@pytest.fixture
def module(load):
    return load("connection")


def test_a_copy_lives_when_the_connection_is_left(module, uwsgi, connection):
    with module.copy_of_connection() as copy:
        module.leave_connection()
        assert os.read(uwsgi.connection_fd(), 1) == b""
        copy.sendall(b"still here")
        assert connection.recv(20) == b"still here"


def test_who_takes_the_connection_has_it_alone(module, uwsgi, connection):
    taken = []
    module.take_connection(taken.append)
    with taken[0] as sock:
        assert not sock.getblocking()
        assert os.read(uwsgi.connection_fd(), 1) == b""
        sock.sendall(b"mine")
        assert connection.recv(20) == b"mine"


def test_a_connection_that_nobody_could_take_is_closed(module, connection):
    def refuse(sock):
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        module.take_connection(refuse)
    connection.setblocking(True)
    assert connection.recv(1) == b""


def test_a_request_is_kept(module):
    request = Request.blank("/path", {"wsgi.input": "the body of uWSGI"})
    headers, before = request.headers, request.environ
    module.keep_environ(request)
    before.clear()
    assert request.path == "/path"
    assert headers["Host"] == "localhost:80"
    assert isinstance(request.environ["wsgi.input"], io.BytesIO)
