from __future__ import annotations

import datetime

import pytest
from pyramid.config import Configurator
from pyramid.renderers import JSON
from pyramid.request import Request
from pyramid.threadlocal import RequestContext

from aiopyramid.websocket.codecs import MAX_DETAIL, JSONCodec, describe, is_codec, make_codec


class Codec:
    def decode(self, message):
        return message

    def encode(self, obj):
        return obj


def test_json_goes_through_the_renderer_and_its_adapters():
    renderer = JSON()
    renderer.add_adapter(datetime.date, lambda value, request: value.isoformat())
    request = Request.blank("/")
    with Configurator() as config:
        config.add_renderer("json", renderer)
        request.registry = config.registry
    codec = JSONCodec(request)
    with RequestContext(request):
        assert codec.encode({"on": datetime.date(2026, 1, 2)}) == '{"on": "2026-01-02"}'
    assert codec.decode('{"a": [null]}') == {"a": [None]}


@pytest.mark.parametrize(
    "message", ["{", "", "[" * 200_000, "1" * 5000, b"\xff", "NaN", "[-Infinity]"]
)
def test_what_is_not_json_is_a_value_error(message):
    with pytest.raises(ValueError):  # noqa: PT011 - from json, with various texts
        JSONCodec(None).decode(message)


def test_a_codec_may_be_made_of_the_request():
    assert make_codec(JSONCodec, "request").request == "request"
    assert isinstance(make_codec(lambda request: Codec(), None), Codec)
    codec = Codec()
    assert make_codec(codec, None) is codec
    with pytest.raises(TypeError, match="made 7, which has no decode"):
        make_codec(lambda request: 7, None)


def test_what_can_be_a_codec():
    assert is_codec(Codec())
    assert is_codec(JSONCodec)
    assert not is_codec("json")
    assert not is_codec(object())


def test_clients_are_told_briefly():
    told = describe(ValueError("x" * 10_000))
    assert told == {"error": "invalid message", "detail": "x" * MAX_DETAIL}
