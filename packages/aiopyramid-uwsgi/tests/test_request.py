from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.registry import Registry
from pyramid.response import Response

from aiopyramid.websocket.upgrade import KEY


@pytest.fixture
def request_module(load):
    return load("request")


@pytest.fixture
def own(load, request_module, monkeypatch):
    """The worker, which counts how often it was asked for what."""
    own = SimpleNamespace(held=0, entered=0)
    own.enter_lifespans = lambda: setattr(own, "entered", own.entered + 1)
    own.hold_signals = lambda: setattr(own, "held", own.held + 1)
    monkeypatch.setattr(load("worker"), "install", lambda: own)
    return own


@pytest.fixture
def call(own, request_module):
    """Call an isolated application, and return what answers."""

    def call(policy, **environ):
        router = SimpleNamespace(execution_policy=policy, registry=Registry())
        request_module.isolate(SimpleNamespace(app=router))
        environ = {"PATH_INFO": "/", "wsgi.input": io.BytesIO(), **environ}
        return router.execution_policy(environ, router)

    return call


def answer(response, environ=None):
    """Send a response; return its Connection headers and its body."""
    sent = []
    chunks = response(
        {"REQUEST_METHOD": "GET", **(environ or {})}, lambda status, headers: sent.extend(headers)
    )
    return [value for name, value in sent if name == "Connection"], chunks


def test_a_request_runs_in_the_worker_with_signals_held(call, own, uwsgi):
    uwsgi.opt = {"http11-socket": b":80"}
    seen = []

    def policy(environ, router):
        seen.append((environ, router, own.held))
        return response

    response = Response("hello")
    assert call(policy) is response
    ((environ, router, held),) = seen
    assert environ["wsgi.input"].read() == b""
    assert router.execution_policy is not policy
    assert held == 1
    assert KEY not in environ


@pytest.mark.parametrize(("worker_id", "entered"), [(2, 1), (0, 0)])
def test_a_worker_that_has_begun_enters_lifespans_at_once(call, own, uwsgi, worker_id, entered):
    uwsgi.worker_id = lambda: worker_id
    call(lambda environ, router: Response())
    assert own.entered == entered


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_would_end_uwsgi_becomes_an_ordinary_error(call, error):
    def policy(environ, router):
        raise error

    with pytest.raises(RuntimeError, match=f"the application raised {error.__name__}"):
        call(policy)


def test_the_last_response_of_a_connection_says_so(call):
    assert answer(call(lambda environ, router: Response("hello"))) == (["close"], [b"hello"])


def test_a_response_that_says_so_itself_does_not_say_it_twice(call):
    response = Response("hello", headers={"Connection": "close"})
    assert answer(call(lambda environ, router: response))[0] == ["close"]


def test_behind_a_chunked_request_a_kept_connection_is_closed(call, uwsgi, connection):
    uwsgi.opt = {"http11-socket": b":80"}
    response = call(lambda environ, router: Response("hello"), HTTP_TRANSFER_ENCODING="chunked")
    headers, chunks = answer(response)
    assert headers == ["close"]
    assert list(chunks) == [b"hello"]
    with pytest.raises(BlockingIOError):
        connection.recv(1)
    chunks.close()
    assert connection.recv(1) == b""


def test_a_connection_is_closed_even_if_the_body_cannot_be(request_module, connection):
    class Body:
        def __iter__(self):
            return iter([b"a"])

        def close(self):
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        request_module.Closing(Body()).close()
    assert connection.recv(1) == b""


def test_a_body_that_cannot_be_read_is_answered_and_ends_the_connection(call, uwsgi, connection):
    uwsgi.opt = {"http": b":80", "http-keepalive": True}
    environ = {"UWSGI_ROUTER": "http", "HTTP_TRANSFER_ENCODING": "chunked"}
    response = call(lambda environ, router: pytest.fail("was called"), **environ)
    assert response.response.status_int == 411
    headers, chunks = answer(response, environ)
    assert headers == ["close"]
    chunks.close()
    assert connection.recv(1) == b""


def test_an_error_of_http_that_comes_out_of_an_application_ends_the_connection(
    call, uwsgi, connection
):
    uwsgi.opt = {"http11-socket": b":80"}

    def policy(environ, router):
        raise HTTPBadRequest

    headers, chunks = answer(call(policy))
    assert headers == ["close"]
    chunks.close()


# Handshakes.


@pytest.fixture
def forgotten(request_module, monkeypatch):
    """The upgrades that were forgotten."""
    forgotten = []
    monkeypatch.setattr(request_module.UWSGIUpgrade, "forget", lambda self: forgotten.append(self))
    return forgotten


def test_the_answer_to_a_handshake_is_left_alone(call, connection, forgotten):
    def policy(environ, router):
        response.app_iter = environ[KEY]
        return response

    response = Response(status=101)
    assert call(policy, HTTP_UPGRADE="websocket") is response
    assert forgotten == []


def test_another_answer_to_a_handshake_forgets_its_session(call, connection, forgotten):
    upgrades = []

    def policy(environ, router):
        upgrades.append(environ[KEY])
        return Response(status=403)

    call(policy, HTTP_UPGRADE="websocket")
    assert forgotten == upgrades


def test_an_error_in_a_handshake_forgets_its_session(call, connection, forgotten):
    upgrades = []

    def policy(environ, router):
        upgrades.append(environ[KEY])
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        call(policy, HTTP_UPGRADE="websocket")
    assert forgotten == upgrades


def test_an_error_without_a_handshake_is_passed_on(call):
    def policy(environ, router):
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        call(policy)
