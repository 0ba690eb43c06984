import pytest
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden, HTTPMethodNotAllowed
from pyramid.registry import Registry
from pyramid.request import Request

from aiopyramid.websocket.handshake import (
    HTTPUpgradeRequired,
    check_origin,
    is_upgrade,
    offered_from,
    read,
)
from aiopyramid.websocket.options import WebsocketOptions

DEFAULTS = WebsocketOptions()

HEADERS = {
    "Host": "example.com",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    # The example of RFC 6455 section 1.3.
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def make_request(path="/", *, base_url=None, settings=None, method="GET", **headers):
    """Make a handshake; a header given as ``None`` is left out."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    merged = {name.lower(): value for name, value in HEADERS.items()}
    merged.update({name.lower(): value for name, value in named.items()})
    request = Request.blank(
        path,
        base_url=base_url,
        method=method,
        headers={name: value for name, value in merged.items() if value is not None},
    )
    request.environ["SERVER_PROTOCOL"] = "HTTP/1.1"
    if merged["host"] is None:
        del request.environ["HTTP_HOST"]
    request.registry = Registry()
    request.registry.settings = settings or {}
    return request


# What is a handshake


@pytest.mark.parametrize("value", ["websocket", "WebSocket", "h2c, websocket"])
def test_a_request_that_names_websocket_asks_for_one(value):
    assert is_upgrade(make_request(Upgrade=value))


@pytest.mark.parametrize("value", [None, "", "h2c"])
def test_other_requests_do_not_ask_for_one(value):
    assert not is_upgrade(make_request(Upgrade=value))


def test_a_correct_handshake_passes():
    assert read(make_request(), DEFAULTS)
    assert read(make_request(Connection="keep-alive, Upgrade"), DEFAULTS)
    assert read(make_request(Upgrade="WebSocket"), DEFAULTS)


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": None},
        {"Upgrade": None, "Connection": None},
        {"Upgrade": None, "Connection": "keep-alive", "Sec_WebSocket_Key": None},
        {"Upgrade": "h2c"},
        {"Connection": None},
        {"Connection": "keep-alive"},
    ],
)
def test_a_plain_request_is_told_to_upgrade(headers):
    with pytest.raises(HTTPUpgradeRequired) as caught:
        read(make_request(**headers), DEFAULTS)
    assert caught.value.status == "426 Upgrade Required"
    assert caught.value.headers["Upgrade"] == "websocket"
    assert caught.value.headers["Sec-WebSocket-Version"] == "13"


def test_a_plain_request_of_http_1_0_is_told_to_upgrade_too():
    request = make_request(
        Upgrade=None, Connection=None, Sec_WebSocket_Key=None, Sec_WebSocket_Version=None
    )
    request.environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    with pytest.raises(HTTPUpgradeRequired):
        read(request, DEFAULTS)


@pytest.mark.parametrize("version", ["8", "14", "0", "", "thirteen", "13, 8"])
def test_another_version_is_answered_with_ours(version):
    # RFC 6455 section 4.4
    with pytest.raises(HTTPUpgradeRequired) as caught:
        read(make_request(Sec_WebSocket_Version=version), DEFAULTS)
    assert caught.value.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Sec_WebSocket_Key": None}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": ""}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "dG9vIHNob3J0"}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "!" * 24}, "Sec-WebSocket-Key"),
        (
            {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="},
            "Sec-WebSocket-Key",
        ),
        ({"Sec_WebSocket_Version": None}, "Sec-WebSocket-Version"),
        ({"Connection": "Upgrade="}, "Connection"),
    ],
)
def test_a_bad_handshake_is_a_bad_request(headers, message):
    with pytest.raises(HTTPBadRequest, match="invalid WebSocket handshake") as caught:
        read(make_request(**headers), DEFAULTS)
    assert message in str(caught.value)


def test_a_handshake_of_http_1_0_is_a_bad_request():
    request = make_request()
    request.environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    with pytest.raises(HTTPBadRequest, match=r"HTTP/1\.0"):
        read(request, DEFAULTS)


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS"])
def test_a_handshake_uses_get(method):
    with pytest.raises(HTTPMethodNotAllowed, match=f"GET, not {method}") as caught:
        read(make_request(method=method), DEFAULTS)
    assert caught.value.headers["Allow"] == "GET"


# Accepting


def test_a_correct_handshake_is_accepted():
    accepted = read(make_request(), DEFAULTS)
    accepted.choose(None)
    assert accepted.headers == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]
    assert accepted.subprotocol is None
    assert accepted.protocol.extensions == []


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("chat.v1", "chat.v1"),
        ("chat.v1, chat.v2", "chat.v2"),
        ("other, chat.v1", "chat.v1"),
        ("other", None),
        (None, None),
    ],
)
def test_the_first_of_the_views_subprotocols_that_is_offered_is_chosen(offered, chosen):
    options = WebsocketOptions(subprotocols=("chat.v2", "chat.v1"))
    request = make_request(Sec_WebSocket_Protocol=offered)
    accepted = read(request, options)
    accepted.choose(offered_from(options)(accepted.offered))
    assert accepted.subprotocol == chosen
    assert dict(accepted.headers).get("Sec-WebSocket-Protocol") == chosen


def test_only_what_was_offered_can_be_chosen():
    accepted = read(make_request(Sec_WebSocket_Protocol="one, two"), DEFAULTS)
    assert accepted.offered == ["one", "two"]
    with pytest.raises(ValueError, match="subprotocol 'three' was not offered, only .*one"):
        accepted.choose("three")
    assert accepted.subprotocol is None
    accepted.choose("two")
    assert accepted.subprotocol == "two"
    assert accepted.headers[-1] == ("Sec-WebSocket-Protocol", "two")


def test_compression_is_agreed_upon_if_both_want_it():
    request = make_request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    accepted = read(request, WebsocketOptions(compression="deflate"))
    assert [extension.name for extension in accepted.protocol.extensions] == ["permessage-deflate"]
    header = dict(accepted.headers)["Sec-WebSocket-Extensions"]
    assert header == ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12")


@pytest.mark.parametrize(
    ("compression", "offered"),
    [("none", "permessage-deflate"), ("deflate", None), ("deflate", "x-webkit-deflate-frame")],
)
def test_nothing_is_compressed_if_one_side_does_not_want_it(compression, offered):
    request = make_request(Sec_WebSocket_Extensions=offered)
    accepted = read(request, WebsocketOptions(compression=compression))
    assert accepted.protocol.extensions == []
    assert "Sec-WebSocket-Extensions" not in dict(accepted.headers)


# Origins


def test_a_request_without_an_origin_passes():
    assert check_origin(make_request(), WebsocketOptions()) is None


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("http://example.com", "http://example.com"),
        ("https://example.com", "https://example.com"),
        ("http://example.com:8080", "http://example.com:8080"),
        ("https://[::1]:6543", "https://[::1]:6543"),
    ],
)
def test_a_request_of_the_own_origin_passes(base_url, origin):
    host = base_url.split("//")[1]
    request = make_request(base_url=base_url, Host=host, Origin=origin)
    assert check_origin(request, WebsocketOptions()) is None


@pytest.mark.parametrize(("forwarded", "scheme"), [("ws", "http"), ("wss", "https")])
def test_a_proxy_may_forward_the_scheme_of_the_websocket(forwarded, scheme):
    request = make_request(Origin=f"{scheme}://example.com")
    request.environ["wsgi.url_scheme"] = forwarded
    assert check_origin(request, WebsocketOptions()) is None
    request.environ["wsgi.url_scheme"] = {"ws": "wss", "wss": "ws"}[forwarded]
    with pytest.raises(HTTPForbidden, match="of https?://"):
        check_origin(request, WebsocketOptions())


@pytest.mark.parametrize(
    "origin",
    ["http://evil.org", "https://example.com", "http://example.com:8080", "null", "", "nonsense"],
)
def test_a_foreign_page_is_forbidden_and_told_how_to_allow_it(origin):
    request = make_request(Origin=origin)
    with pytest.raises(HTTPForbidden, match=r"list the origin in aiopyramid\.websocket\.origins"):
        check_origin(request, WebsocketOptions())


def test_the_option_allows_other_origins():
    options = WebsocketOptions(origins=("https://*.example.org",))
    assert check_origin(make_request(Origin="https://app.example.org"), options) is None
    with pytest.raises(HTTPForbidden):
        check_origin(make_request(Origin="https://example.net"), options)
    assert check_origin(make_request(Origin="x"), WebsocketOptions(origins=("*",))) is None


@pytest.mark.parametrize("value", ["a.org trusted.org", ["a.org", "trusted.org"]])
def test_pyramids_trusted_origins_are_allowed(value):
    settings = {"pyramid.csrf_trusted_origins": value}
    request = make_request(settings=settings, Origin="http://trusted.org")
    assert check_origin(request, WebsocketOptions()) is None
    with pytest.raises(HTTPForbidden):
        check_origin(make_request(settings=settings, Origin="http://b.org"), WebsocketOptions())


@pytest.mark.parametrize("host", [None, "", "a b", "example.com:port", "user@example.com"])
@pytest.mark.parametrize("origin", [None, "http://example.com"])
def test_a_request_without_a_usable_host_is_a_bad_request(host, origin):
    with pytest.raises(HTTPBadRequest, match="missing or invalid Host header"):
        check_origin(make_request(Host=host, Origin=origin), WebsocketOptions())
