import pytest

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.helpers import ignore_websocket_closed


def call(app, environ=None):
    heads = []
    body = ignore_websocket_closed(app)(
        environ or {}, lambda status, headers, exc_info=None: heads.append((status, headers))
    )
    return heads, body


def test_the_answer_of_the_application_passes_untouched():
    body = [b"body"]

    def app(environ, start_response):
        assert environ == {"key": "value"}
        start_response("200 OK", [("Header", "value")])
        return body

    heads, result = call(app, {"key": "value"})
    assert heads == [("200 OK", [("Header", "value")])]
    assert result is body


def test_a_closed_websocket_ends_quietly():
    def app(environ, start_response):
        raise WebsocketClosed(1001, "going away")

    heads, body = call(app)
    assert heads == [("204 No Content", [])]
    assert list(body) == []


def test_a_closed_websocket_that_was_caused_by_an_error_passes():
    def app(environ, start_response):
        raise WebsocketClosed from KeyError("the cause")

    with pytest.raises(WebsocketClosed):
        call(app)


def test_other_exceptions_pass():
    def app(environ, start_response):
        raise KeyError("key")

    with pytest.raises(KeyError):
        call(app)


def test_the_error_tells_code_and_reason():
    assert str(WebsocketClosed(1001, "going away")) == (
        "the WebSocket connection is closed with code 1001 (going away)"
    )
    assert str(WebsocketClosed()) == "the WebSocket connection is closed with code 1006"
    error = WebsocketClosed(1000, "done")
    assert (error.code, error.reason) == (1000, "done")
