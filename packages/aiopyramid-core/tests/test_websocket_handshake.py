import pytest
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden, HTTPMethodNotAllowed
from pyramid.registry import Registry
from pyramid.request import Request

from aiopyramid.websocket import WebsocketPredicate
from aiopyramid.websocket.handshake import (
    HTTPUpgradeRequired,
    accept,
    check_origin,
    check_request,
    is_upgrade,
    offered_from,
)
from aiopyramid.websocket.options import WebsocketOptions

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


def no_subprotocol(offered):
    return None


# What is a handshake


@pytest.mark.parametrize("value", ["websocket", "WebSocket", "h2c, websocket"])
def test_a_request_that_names_websocket_asks_for_one(value):
    assert is_upgrade(make_request(Upgrade=value))
    assert WebsocketPredicate(True, None)(None, make_request(Upgrade=value))
    assert not WebsocketPredicate(False, None)(None, make_request(Upgrade=value))


@pytest.mark.parametrize("value", [None, "", "h2c"])
def test_other_requests_do_not_ask_for_one(value):
    assert not is_upgrade(make_request(Upgrade=value))
    assert not WebsocketPredicate(True, None)(None, make_request(Upgrade=value))
    assert WebsocketPredicate(False, None)(None, make_request(Upgrade=value))


def test_a_correct_handshake_passes():
    assert check_request(make_request()) is None
    assert check_request(make_request(Connection="keep-alive, Upgrade")) is None
    assert check_request(make_request(Upgrade="WebSocket")) is None


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
        check_request(make_request(**headers))
    assert caught.value.status == "426 Upgrade Required"
    assert caught.value.headers["Upgrade"] == "websocket"
    assert caught.value.headers["Sec-WebSocket-Version"] == "13"


def test_a_plain_request_of_http_1_0_is_told_to_upgrade_too():
    request = make_request(
        Upgrade=None, Connection=None, Sec_WebSocket_Key=None, Sec_WebSocket_Version=None
    )
    request.environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    with pytest.raises(HTTPUpgradeRequired):
        check_request(request)


@pytest.mark.parametrize("version", ["8", "14", "0", "", "thirteen", "13, 8"])
def test_another_version_is_answered_with_ours(version):
    # RFC 6455 section 4.4
    with pytest.raises(HTTPUpgradeRequired) as caught:
        check_request(make_request(Sec_WebSocket_Version=version))
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
        check_request(make_request(**headers))
    assert message in str(caught.value)


def test_a_handshake_of_http_1_0_is_a_bad_request():
    request = make_request()
    request.environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    with pytest.raises(HTTPBadRequest, match=r"HTTP/1\.0"):
        check_request(request)


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS"])
def test_a_handshake_uses_get(method):
    with pytest.raises(HTTPMethodNotAllowed, match=f"GET, not {method}") as caught:
        check_request(make_request(method=method))
    assert caught.value.headers["Allow"] == "GET"


# Accepting


def test_a_correct_handshake_is_accepted():
    accepted = accept(make_request(), WebsocketOptions(), no_subprotocol)
    assert accepted.headers == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]
    assert accepted.subprotocol is None
    assert accepted.extensions == []


def test_a_bad_handshake_is_refused_in_the_same_way():
    with pytest.raises(HTTPBadRequest):
        accept(make_request(Sec_WebSocket_Key=None), WebsocketOptions(), no_subprotocol)
    with pytest.raises(HTTPUpgradeRequired):
        accept(make_request(Upgrade=None), WebsocketOptions(), no_subprotocol)


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
    accepted = accept(request, options, offered_from(options))
    assert accepted.subprotocol == chosen
    assert dict(accepted.headers).get("Sec-WebSocket-Protocol") == chosen


def test_a_view_can_choose_the_subprotocol_itself():
    offers = []

    def select(offered):
        offers.append(list(offered))
        return offered[-1]

    request = make_request(Sec_WebSocket_Protocol="one, two")
    assert accept(request, WebsocketOptions(), select).subprotocol == "two"
    assert offers == [["one", "two"]]


def test_a_subprotocol_that_was_not_offered_is_an_error_of_the_view():
    request = make_request(Sec_WebSocket_Protocol="one")
    with pytest.raises(ValueError, match="subprotocol 'three' was not offered, only .*one"):
        accept(request, WebsocketOptions(), lambda offered: "three")


def test_an_exception_while_choosing_passes():
    def select(offered):
        raise HTTPForbidden("not today")

    with pytest.raises(HTTPForbidden):
        accept(make_request(Sec_WebSocket_Protocol="one"), WebsocketOptions(), select)


def test_compression_is_agreed_upon_if_both_want_it():
    request = make_request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    accepted = accept(request, WebsocketOptions(compression="deflate"), no_subprotocol)
    assert [extension.name for extension in accepted.extensions] == ["permessage-deflate"]
    header = dict(accepted.headers)["Sec-WebSocket-Extensions"]
    assert header == ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12")


@pytest.mark.parametrize(
    ("compression", "offered"),
    [("none", "permessage-deflate"), ("deflate", None), ("deflate", "x-webkit-deflate-frame")],
)
def test_nothing_is_compressed_if_one_side_does_not_want_it(compression, offered):
    request = make_request(Sec_WebSocket_Extensions=offered)
    accepted = accept(request, WebsocketOptions(compression=compression), no_subprotocol)
    assert accepted.extensions == []
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
