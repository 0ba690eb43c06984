from __future__ import annotations

import io
import logging
import ssl
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ConfigurationProblem, LimitRequestLine, NoMoreData
from gunicorn.http.message import PP_V2_SIGNATURE, Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import create
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiopyramid_gunicorn import compat, message
from aiopyramid_gunicorn.message import NOTHING, Environs, Heads, TLSSocket, Unreader, has_body

TRUSTED, UNTRUSTED = ("127.0.0.1", 5000), ("192.0.2.1", 5000)
SERVER = ("198.51.100.1", 8000)
PEERS = [TRUSTED, UNTRUSTED]
RECEIVED = 8192  # bytes that gunicorn receives at a time

# Settings that a head is read by.
SETTINGS = {
    "default": {},
    "python": {"http_parser": "python"},
    "dangerous": {"header_map": "dangerous", "forwarded_allow_ips": "*"},
    "refuse": {"header_map": "refuse"},
    "casefold": {"casefold_http_method": True, "permit_unconventional_http_method": True},
    "versions": {"permit_unconventional_http_version": True},
    "folding": {"permit_obsolete_folding": True, "strip_header_spaces": True},
    "limits": {
        "limit_request_line": 40,
        "limit_request_fields": 3,
        "limit_request_field_size": 30,
    },
    "unlimited": {"limit_request_line": 0, "limit_request_field_size": 0},
    "scheme": {"secure_scheme_headers": {"X-PROTO": "tls", "X_PROTO": "ssl"}},
    "proxy": {"proxy_protocol": "auto"},
}


def config(**options):
    cfg = Config()
    for name, value in options.items():
        cfg.set(name, value)
    return cfg


CONFIGS = {name: config(**options) for name, options in SETTINGS.items()}
# Of a worker's whole life: what it remembers of one head must not change another.
HEADS = {name: Heads(cfg) for name, cfg in CONFIGS.items()}
ENVIRONS = {name: Environs(cfg) for name, cfg in CONFIGS.items()}


def read_by_gunicorn(cfg, pieces, peer, number):
    # As a socket gives it.
    received = [
        piece[begin : begin + RECEIVED]
        for piece in pieces
        for begin in range(0, len(piece), RECEIVED)
    ]
    try:
        request = Request(cfg, IterUnreader(received), peer, number)
    except NoMoreData:
        return None
    except Exception as exc:
        return type(exc), str(exc)
    return request


def read_here(heads, pieces, peer, number):
    """Read a head as a connection does, which has more of it each time."""
    data, parsed = b"", 0
    try:
        for position, piece in enumerate(pieces):
            data += piece
            head = heads.read(data, parsed, peer, number)
            if head is not None:
                request, rest = head
                rest_of_pieces = b"".join(pieces[position + 1 :])
                if has_body(request):
                    assert rest == b""
                    assert request.unreader is not NOTHING
                    request.unreader.more = io.BytesIO(rest_of_pieces).read
                    return request, b""
                return request, rest + rest_of_pieces
            parsed = len(data)
    except Exception as exc:
        return type(exc), str(exc)
    return None


def read_body(request):
    """Read a request's body; return it, or what is wrong with it."""
    try:
        return request.body.read()
    except Exception as exc:
        return type(exc), str(exc)


def is_environ_of(request, name, peer, theirs):
    """Compare the environ of a request with gunicorn's."""
    cfg, sock = CONFIGS[name], SimpleNamespace(send=lambda data: None)
    try:
        _, expected = create(theirs, sock, peer, SERVER, cfg)
    except ConfigurationProblem:
        expected = None
    common = ENVIRONS[name].of_connection(peer, SERVER, sock)
    before = dict(common)
    environ = ENVIRONS[name].of_request(request, common)
    assert common == before
    by_gunicorn = request.proxy_protocol_info or "SCRIPT_NAME" in dict(request.headers)
    assert (environ is None) == bool(by_gunicorn)
    if environ is None:
        return
    assert environ["wsgi.input"] is request.body
    assert environ["wsgi.multithread"] is True
    assert type(environ["wsgi.errors"]) is type(expected["wsgi.errors"])
    for key in ("wsgi.input", "wsgi.multithread", "wsgi.errors"):
        del environ[key], expected[key]
    del expected["wsgi.early_hints"]
    assert environ == expected
    assert {key: type(value) for key, value in environ.items()} == {
        key: type(value) for key, value in expected.items()
    }


def compare(name, pieces, peer=TRUSTED, number=1):
    """
    Read a head here and by gunicorn, and compare all that they make of it.

    Returns:
        The request; ``None`` if the head is not whole; or the class and text of the error.
    """
    if isinstance(pieces, bytes):
        pieces = [pieces]
    theirs = read_by_gunicorn(CONFIGS[name], pieces, peer, number)
    result = read_here(HEADS[name], pieces, peer, number)
    if not isinstance(theirs, Request):
        assert result == theirs
        return result
    request, rest = result
    assert type(request) is Request
    expected, attributes = dict(vars(theirs)), dict(vars(request))
    for each in (expected, attributes):
        del each["unreader"], each["body"]
    assert attributes == expected
    assert {key: type(value) for key, value in attributes.items()} == {
        key: type(value) for key, value in expected.items()
    }
    assert request.should_close() == theirs.should_close()
    assert type(request.body) is type(theirs.body)
    assert type(request.body.reader) is type(theirs.body.reader)
    assert getattr(request.body.reader, "length", None) == getattr(
        theirs.body.reader, "length", None
    )
    is_environ_of(request, name, peer, theirs)
    body = read_body(request)
    assert body == read_body(theirs)
    assert request.trailers == theirs.trailers
    assert NOTHING.take_buffered() == b""
    if isinstance(body, bytes):
        if request.unreader.more is not None:
            rest += everything(request.unreader)
        assert rest == everything(theirs.unreader)
    return request


def everything(unreader):
    return b"".join(iter(unreader.read, b""))


def head(*lines, request="GET / HTTP/1.1"):
    return "\r\n".join([request, *lines, "", ""]).encode("latin-1")


REQUEST_LINES = [
    "GET / HTTP/1.1",
    "GET / HTTP/1.0",
    "GET /a/b%20c%2Fd%C3%BC?q=%20&r=1?2 HTTP/1.1",
    "GET /? HTTP/1.1",
    "GET /?a#b HTTP/1.1",
    "GET /#fragment?no=query HTTP/1.1",
    "GET //two//slashes?x HTTP/1.1",
    "GET //[ HTTP/1.1",
    "GET ///three HTTP/1.1",
    "GET /a:b//c;d=e HTTP/1.1",
    "GET /%zz%%2 HTTP/1.1",
    'GET /[brackets]{braces}|\\^`" HTTP/1.1',
    "GET http://example.com HTTP/1.1",
    "GET http://example.com/a?b#c HTTP/1.1",
    "GET http://user:pass@example.com:80/ HTTP/1.1",
    "GET http://[::1/ HTTP/1.1",
    "GET http://[::1]/ HTTP/1.1",
    "GET ftp:/x HTTP/1.1",
    "GET example.com:80 HTTP/1.1",
    "GET relative HTTP/1.1",
    "GET ?q HTTP/1.1",
    "CONNECT example.com:80 HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET * HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET /a b HTTP/1.1",
    "GET / HTTP/1.1 ",
    " GET / HTTP/1.1",
    "GET /\xfc HTTP/1.1",
    "GET /\x7f HTTP/1.1",
    "GET /\x01 HTTP/1.1",
    "GET /\t HTTP/1.1",
    "GET",
    "GET /",
    "GET HTTP/1.1",
    "",
    "get / HTTP/1.1",
    "PoSt / HTTP/1.1",
    "GE / HTTP/1.1",
    "G@T / HTTP/1.1",
    "M-SEARCH / HTTP/1.1",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1",
    "GET / HTTP/1.2",
    "GET / HTTP/2.0",
    "GET / HTTP/0.9",
    "GET / HTTP/11",
    "GET / http/1.1",
    "GET / HTTP/1.1\r",
    "GET / HTTP/1.\xb2",
    "\r\nGET / HTTP/1.1",
    "\r\n\r\nGET / HTTP/1.1",
    "\nGET / HTTP/1.1",
    "GET /" + 40 * "a" + " HTTP/1.1",
    "GET /" + 9000 * "a" + " HTTP/1.1",
    "\r\nGET /" + 40 * "a" + " HTTP/1.1",
]

HEADER_LINES = [
    ["Host: example.com"],
    ["Host: a", "Host: a"],
    ["Host: a", "HOST: b"],
    ["Content-Type: a", "content-type: b"],
    ["Content-Type: text/plain; charset=utf-8"],
    ["Content-Type:"],
    ["CoOkIe: a=1", "Cookie: b=2", "cOOKIE: c=3"],
    ["Accept: a", "Accept:", "Accept: b"],
    ["X:", "X: "],
    ["X: \t value with spaces \t"],
    ["X: \xff\xfc"],
    ["X\xdf: y"],
    ["X: a\x00b"],
    ["X: a\x01b"],
    ["X: a\x7fb"],
    ["X: a\tb"],
    ["X: a\rb"],
    ["X: a\nb"],
    ["X : a"],
    ["X\t: a"],
    [": a"],
    ["no colon"],
    [" X: a"],
    ["X: a", " folded"],
    ["X: a", "\tfolded", "Y: b"],
    ["X(: a"],
    ["!#$%&'*+-.^`|~09azAZ: a"],
    ["Connection: close"],
    ["Connection: Keep-Alive"],
    ["Connection: upgrade", "Upgrade: websocket"],
    ["Proxy: evil"],
    ["A: 1", "B: 2", "C: 3"],
    ["A: 1", "B: 2", "C: 3", "D: 4"],
    [f"A{number}: x" for number in range(101)],
    ["X: " + 40 * "a"],
    ["X: " + 9000 * "a"],
    [40 * "X" + ": a"],
    # Underscores.
    ["X_Y: 1"],
    ["X-Y: 1", "X_Y: 2", "X-y: 3"],
    ["X_Y: 1", "X-Y: 2"],
    ["Content_Length: 3"],
    ["Content_Type: a", "Content-Type: b"],
    ["Script_Name: /"],
    ["Script_Name: /prefix"],
    ["Script-Name: /prefix"],
    ["Path_Info: /"],
    ["Remote_User: me"],
    # The scheme.
    ["X-Forwarded-Proto: https"],
    ["X-Forwarded-Proto: http"],
    ["X-Forwarded-Proto: HTTPS"],
    ["X-Forwarded-Proto: https", "X-Forwarded-Ssl: on"],
    ["X-Forwarded-Proto: https", "X-Forwarded-Protocol: http"],
    ["X-Forwarded-Ssl: off", "X-Forwarded-Proto: http"],
    ["x-forwarded-ssl: on"],
    ["X-Proto: tls"],
    ["X_Proto: ssl"],
    ["X-Proto: tls", "X_Proto: none"],
    # Expectations.
    ["Expect: 100-continue"],
    ["expect: 100-CONTINUE", "Content-Length: 3"],
    ["Expect: 100-continue", "Expect: 100-continue"],
    ["Expect: 200-ok"],
    ["Expect:"],
    # Bodies.
    ["Content-Length: 0"],
    ["Content-Length: 3"],
    ["content-LENGTH: 007"],
    ["Content-Length: 100"],
    ["Content-Length: 3", "Content-Length: 3"],
    ["Content-Length: 3, 3"],
    ["Content-Length: -1"],
    ["Content-Length: +1"],
    ["Content-Length: 1_0"],
    ["Content-Length: \xb2"],
    ["Content-Length: \xb9"],
    ["Content-Length:"],
    ["Content-Length: 0x3"],
    ["Content-Length: " + 30 * "9"],
    ["Transfer-Encoding: chunked"],
    ["transfer-encoding: CHUNKED"],
    ["Transfer-Encoding: chunked", "Content-Length: 3"],
    ["Content-Length: 3", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked, chunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: gzip, chunked"],
    ["Transfer-Encoding: gzip"],
    ["Transfer-Encoding: identity"],
    ["Transfer-Encoding: identity, chunked"],
    ["Transfer-Encoding: chunked, identity"],
    ["Transfer-Encoding: unknown"],
    ["Transfer-Encoding:"],
]

BODIES = [
    b"",
    b"abc",
    b"3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\n\r\n",
    b"3\r\nabc\r\n0\r\nTrailer-Field: x\r\n\r\nmore",
    b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n",
]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("line", REQUEST_LINES, ids=lambda line: repr(line[:30]))
def test_a_request_line_is_read_as_by_gunicorn(name, line):
    for number in (1, 2):
        compare(name, head("Host: a", request=line), number=number)
        compare(name, head(request=line), UNTRUSTED, number=number)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("lines", HEADER_LINES, ids=lambda lines: repr(lines)[:40])
def test_headers_are_read_as_by_gunicorn(name, lines):
    for request in ("GET / HTTP/1.1", "POST /p%C3%A4th?q HTTP/1.0"):
        for peer in PEERS:
            for body in BODIES:
                compare(name, head(*lines, request=request) + body, peer)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "data",
    [
        head("Host: a", "X: y") + b"GET /next HTTP/1.1\r\n\r\n",
        head("Content-Length: 10", request="POST / HTTP/1.1") + b"0123456789rest",
        head("Transfer-Encoding: chunked", request="POST / HTTP/1.1")
        + b"5\r\n01234\r\n0\r\nA: b\r\n\r\nrest",
        b"\r\n" + head("Host: a", "X: y") + b"rest",
        head("Host: a", "Host: b"),
        head("bad"),
        b"GET / HTTP/1.1\nHost: a\n\n",
    ],
)
def test_a_head_in_pieces_is_read_as_by_gunicorn(name, data):
    compare(name, [data[position : position + 1] for position in range(len(data))])
    for position in range(1, len(data)):
        compare(name, [data[:position], data[position:]])


def test_a_head_that_is_not_whole_is_waited_for():
    data = head("Host: a")
    for name in SETTINGS:
        for end in range(1, len(data)):
            assert compare(name, data[:end]) is None


# Made-up heads

methods = st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT", "PROPFIND", "get", "G"])
path_characters = st.one_of(
    st.sampled_from(["/", "%", "%C3", "%2f", "?", "#", "&", "=", ":", "//", ";", "[", "]", "@"]),
    st.characters(min_codepoint=33, max_codepoint=126),
    st.characters(min_codepoint=0, max_codepoint=255),
)
targets = st.one_of(
    st.lists(path_characters, max_size=12).map(lambda parts: "/" + "".join(parts)),
    st.lists(path_characters, max_size=12).map("".join),
    st.lists(path_characters, max_size=12).map(lambda parts: "http://" + "".join(parts)),
)
versions = st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1"])
token = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)
known = st.sampled_from(
    [
        "Host",
        "Cookie",
        "Accept",
        "Content-Type",
        "Content-Length",
        "Transfer-Encoding",
        "Expect",
        "X-Forwarded-Proto",
        "X-Forwarded-Ssl",
        "X-Forwarded-Protocol",
        "Script_Name",
        "Path_Info",
        "X_Proto",
        "X-Proto",
        "Connection",
        "Upgrade",
    ]
)
spelled = st.builds(
    lambda name, how: how(name), known, st.sampled_from([str, str.upper, str.lower, str.swapcase])
)
values = st.one_of(
    st.sampled_from(["", "3", "0", "https", "http", "on", "off", "chunked", "100-continue"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
    st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=4),
)
lines = st.builds(
    lambda name, space, value: f"{name}:{space}{value}",
    st.one_of(spelled, spelled, token),
    st.sampled_from([" ", " ", "", "\t", "  "]),
    values,
)
requests = st.builds(" ".join, st.tuples(methods, targets, versions))
bodies = st.one_of(st.sampled_from(BODIES), st.binary(max_size=20))
names = st.sampled_from(sorted(SETTINGS))
peers = st.sampled_from(PEERS)


@settings(deadline=None, max_examples=600)
@given(names, requests, st.lists(lines, max_size=6), bodies, peers, st.integers(1, 2))
@example("default", "GET / HTTP/1.1", ["X-A: 1", "x-a: 2", "X_A: 3"], b"", TRUSTED, 1)
def test_any_head_is_read_as_by_gunicorn(name, request, lines, body, peer, number):
    compare(name, head(*lines, request=request) + body, peer, number)


@settings(deadline=None, max_examples=300)
@given(names, targets)
def test_any_target_is_read_as_by_gunicorn(name, target):
    compare(name, head(request=f"GET {target} HTTP/1.1"))


@settings(deadline=None, max_examples=300)
@given(
    names,
    requests,
    st.lists(lines, max_size=4),
    st.integers(0),
    st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\0", b":", b" ", b"\xff"]),
    st.integers(0, 3),
)
def test_damaged_heads_are_read_as_by_gunicorn(name, request, lines, where, what, cut):
    data = head(*lines, request=request)
    where %= len(data)
    damaged = data[:where] + what + data[where + cut :]
    if damaged:
        compare(name, damaged)


@settings(deadline=None, max_examples=200)
@given(
    names,
    requests,
    st.lists(lines, max_size=4),
    bodies,
    st.lists(st.integers(0, 200), max_size=4).map(sorted),
)
def test_any_head_in_pieces_is_read_as_by_gunicorn(name, request, lines, body, cuts):
    data = head(*lines, request=request) + body
    ends = [*cuts, len(data)]
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
    compare(name, [piece for piece in pieces if piece])


# Limits


@pytest.mark.parametrize("name", ["limits", "python-limits", "proxy-limits"])
@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET /", b"a"),
        (b"\r\nGET / HTTP/1.1\r\nX: ", b"a"),
        (b"\r\nGET /", b"a"),
        (b"", b"G"),
    ],
)
def test_a_head_without_end_is_refused(name, begin, more):
    """As far as gunicorn's limits go, or a client could fill the memory."""
    options = dict(SETTINGS["limits"])
    if name == "python-limits":
        options["http_parser"] = "python"
    elif name == "proxy-limits":
        options["proxy_protocol"] = "auto"
    heads = Heads(config(**options))
    data, parsed = begin, 0
    while len(data) <= 2 * (heads.max_head + RECEIVED):
        data += 20 * more
        try:
            assert heads.read(data, parsed, TRUSTED, 1) is None
        except Exception:
            return
        parsed = len(data)
    pytest.fail(f"{len(data)} bytes of a head were taken")


def test_what_is_limited_is_a_head_and_not_what_comes_behind():
    heads = HEADS["limits"]
    request, rest = heads.read(head() + 10 * heads.max_head * b"x", 0, TRUSTED, 1)
    assert request.path == "/"
    assert len(rest) == 10 * heads.max_head


@pytest.mark.parametrize("limit", [1, 5, 13])
def test_a_low_limit_of_request_lines_does_not_keep_a_worker_from_starting(limit):
    heads = Heads(config(limit_request_line=limit))
    with pytest.raises(LimitRequestLine):
        heads.read(head(), 0, TRUSTED, 1)


# What a worker remembers


def test_the_names_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(message, "MAX_NAMES", 3)
    cfg = config()
    heads, environs = Heads(cfg), Environs(cfg)
    common = environs.of_connection(TRUSTED, SERVER, None)
    for number in range(20):
        request, _ = heads.read(head(f"X-Name-{number}: {number}"), 0, TRUSTED, 1)
        assert request.headers == [(f"X-NAME-{number}", str(number))]
        environ = environs.of_request(request, common)
        assert environ[f"HTTP_X_NAME_{number}"] == str(number)
    assert len(heads.names) == 3
    assert len(environs.keys) == 3


def test_a_worker_remembers_no_names_that_have_a_meaning():
    cfg = config(header_map="dangerous")
    heads = Heads(cfg)
    lines = ["Expect: 100-continue", "Content-Length: 1", "X-Forwarded-Proto: http", "A_B: c"]
    heads.read(head("Host: a", *lines), 0, TRUSTED, 1)
    heads.read(head("Transfer-Encoding: chunked"), 0, TRUSTED, 1)
    assert heads.names == {b"Host": "HOST"}


def test_requests_share_nothing_that_changes():
    heads = HEADS["default"]
    first, _ = heads.read(head("X: 1", "Connection: close"), 0, TRUSTED, 1)
    first.force_close()
    first.trailers.append(("A", "b"))
    first.headers.append(("C", "d"))
    first.scheme = "https"
    second, _ = heads.read(head(), 0, UNTRUSTED, 2)
    assert (second.headers, second.trailers, second.must_close) == ([], [], False)
    assert (second.scheme, second.peer_addr, second.req_number) == ("http", UNTRUSTED, 2)
    assert heads.template["trailers"] == heads.template["headers"] == []


def test_environs_share_nothing_that_an_application_changes():
    environs = ENVIRONS["default"]
    common = environs.of_connection(TRUSTED, SERVER, None)
    request, _ = HEADS["default"].read(head("X: 1"), 0, TRUSTED, 1)
    environ = environs.of_request(request, common)
    environ["mine"] = environ["SCRIPT_NAME"] = "changed"
    again = environs.of_request(request, common)
    assert "mine" not in again
    assert again["SCRIPT_NAME"] == ""
    assert "HTTP_X" not in common


def test_errors_go_where_the_log_goes_after_it_was_reopened(monkeypatch, tmp_path):
    """gunicorn reopens its log files on SIGUSR1, such as after logrotate."""
    log = logging.getLogger("gunicorn.error")
    handler = logging.FileHandler(tmp_path / "log")
    monkeypatch.setattr(log, "handlers", [handler])
    environs = Environs(config(errorlog=str(tmp_path / "log")))
    common = environs.of_connection(TRUSTED, SERVER, None)
    request, _ = HEADS["default"].read(head(), 0, TRUSTED, 1)
    try:
        (tmp_path / "log").rename(tmp_path / "old")
        handler.close()
        handler.stream = handler._open()
        environs.reopen()
        environs.of_request(request, common)["wsgi.errors"].write("new")
        assert (tmp_path / "log").read_text() == "new"
    finally:
        handler.close()


# Environs that gunicorn makes


def test_a_unix_socket_s_environ_is_made_by_gunicorn():
    environs = ENVIRONS["default"]
    assert environs.of_connection("", "/run/socket", None) is None
    assert environs.of_connection(TRUSTED, "/run/socket", None) is None
    assert environs.of_connection(b"", SERVER, None) is None


def test_with_a_script_name_for_all_gunicorn_makes_environs(monkeypatch):
    monkeypatch.setenv("SCRIPT_NAME", "/prefix")
    assert Environs(CONFIGS["default"]).of_connection(TRUSTED, SERVER, None) is None


def test_an_ipv6_address_is_as_gunicorn_has_it():
    peer, server = ("2001:db8::1", 5000, 0, 0), ("2001:db8::2", 80, 0, 0)
    environ = ENVIRONS["default"].of_connection(peer, server, None)
    request, _ = HEADS["default"].read(head(), 0, peer, 1)
    _, expected = create(request, None, peer, server, CONFIGS["default"])
    assert environ["REMOTE_ADDR"] == expected["REMOTE_ADDR"] == "2001:db8::1"
    for key in ("REMOTE_PORT", "SERVER_NAME", "SERVER_PORT"):
        assert environ[key] == expected[key]


def test_workers_are_told():
    assert Environs(config(workers=2)).base["wsgi.multiprocess"] is True
    assert Environs(config(workers=1)).base["wsgi.multiprocess"] is False


def test_over_tls_the_scheme_is_https(tmp_path):
    cfg = config(certfile=str(tmp_path), keyfile=str(tmp_path))
    request, _ = Heads(cfg).read(head("X-Forwarded-Proto: http"), 0, UNTRUSTED, 1)
    assert request.scheme == Request(cfg, IterUnreader([head()]), UNTRUSTED).scheme == "https"


# The PROXY protocol


def proxy_v2(command=0x21, family=0x11, data=bytes([192, 0, 2, 7, 198, 51, 100, 9, 1, 2, 0, 80])):
    return PP_V2_SIGNATURE + bytes([command, family]) + len(data).to_bytes(2, "big") + data


V1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 1234 80\r\n"

PROXY_HEADERS = [
    V1,
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.9 1234 80\r\n",
    b"PROXY TCP4 x y 1234 80\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 x 80\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 65536 80\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UDP4 192.0.2.7 198.51.100.9 1234 80\r\n",
    b"PROXY \r\n",
    proxy_v2(),
    proxy_v2(command=0x20),
    proxy_v2(family=0x01),
    proxy_v2(family=0x21, data=bytes(36)),
    proxy_v2(family=0x21),
    proxy_v2(family=0x31),
    proxy_v2(family=0x12),
    proxy_v2(command=0x11),
    proxy_v2(command=0x2F),
    proxy_v2(data=b""),
]


@pytest.mark.parametrize("proxy", PROXY_HEADERS)
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("number", [1, 2])
def test_a_proxy_header_is_read_as_by_gunicorn(proxy, peer, number):
    request = head("Host: a", "Content-Length: 3") + b"abcrest"
    for name in ("proxy", "default", "python"):
        compare(name, proxy + request, peer, number)
    compare("proxy", proxy, peer, number)
    data = proxy + request
    for position in range(1, len(data)):
        compare("proxy", [data[:position], data[position:]], peer, number)


def test_a_proxy_header_is_for_the_first_request_alone():
    request = compare("proxy", V1 + head())
    assert request.proxy_protocol_info["client_addr"] == "192.0.2.7"
    assert compare("proxy", head(), number=2).proxy_protocol_info is None
    assert compare("proxy", head()).proxy_protocol_info is None
    kind, _ = compare("proxy", V1 + head(), number=2)
    assert issubclass(kind, Exception)


# The fast way and gunicorn's


@pytest.fixture
def constructed(monkeypatch):
    """Count the requests that gunicorn's constructor reads."""
    calls = []
    real = compat.Request.__init__

    def init(request, *args, **kwargs):
        calls.append(args)
        real(request, *args, **kwargs)

    monkeypatch.setattr(compat.Request, "__init__", init)
    return calls


@pytest.mark.parametrize(
    ("name", "data", "number", "times"),
    [
        ("default", head("Host: a", "X: y"), 1, 0),
        ("default", head("Content-Length: 3") + b"abc", 1, 0),
        ("default", b"GET / HTTP/1.1\r\n", 1, 0),
        ("default", b"\r\n" + head(), 1, 1),
        ("default", head("bad"), 1, 1),
        ("python", head(), 1, 1),
        ("folding", head(), 1, 1),
        ("proxy", head(), 1, 1),
        ("proxy", head(), 2, 0),
    ],
)
def test_what_is_beyond_doubt_is_read_without_gunicorn_s_constructor(
    constructed, name, data, number, times
):
    read_here(HEADS[name], [data], TRUSTED, number)
    assert len(constructed) == times


def test_without_the_fast_parser_gunicorn_s_own_reads(constructed):
    heads = Heads(config(http_parser="python"))
    assert not heads.fast
    constructed.clear()
    request, rest = heads.read(head("Host: a") + b"rest", 0, TRUSTED, 1)
    assert (len(constructed), request.path, rest) == (1, "/", b"rest")


# Bodies


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        (["Content-Length: 0"], False),
        (["Content-Length: 1"], True),
        (["Transfer-Encoding: chunked"], True),
    ],
)
@pytest.mark.parametrize("name", ["default", "python"])
def test_a_request_has_a_body_if_its_head_says_so(name, lines, expected):
    request, rest = HEADS[name].read(head(*lines) + b"behind", 0, TRUSTED, 1)
    assert has_body(request) is expected
    assert rest == (b"" if expected else b"behind")
    if expected:
        assert request.unreader.take_buffered() == b"behind"


def test_a_body_is_read_from_what_came_with_the_head_and_then_from_the_client():
    request, _ = HEADS["default"].read(head("Content-Length: 10") + b"0123", 0, TRUSTED, 1)
    coming = [b"45", b"67", b"89and more"]
    request.unreader.more = lambda: coming.pop(0)
    assert request.body.read(5) == b"01234"
    assert request.body.read() == b"56789"
    assert request.unreader.take_buffered() == b"and more"
    assert coming == []


def test_an_unreader_without_a_source_is_at_its_end():
    unreader = Unreader(b"some")
    assert unreader.read() == b"some"
    assert unreader.read() == unreader.chunk(10) == b""
    unreader.unread(b"again")
    assert unreader.take_buffered() == b"again"
    assert unreader.take_buffered() == b""
    assert Unreader(b"").take_buffered() == b""


def test_the_body_of_a_request_without_one_takes_nothing():
    first, rest = HEADS["default"].read(head() + b"next", 0, TRUSTED, 1)
    assert (first.body.read(), first.body.readline(), list(first.body)) == (b"", b"", [])
    assert rest == b"next"
    assert NOTHING.take_buffered() == b""


# TLS


class Session:
    """The part of `ssl.SSLObject` that applications ask."""

    def getpeercert(self, binary_form=False):
        return b"der" if binary_form else {"subject": ()}

    def cipher(self):
        return ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)

    def read(self, size):
        raise AssertionError("this would take the server's bytes")

    write = do_handshake = unwrap = read


@pytest.fixture
def tls():
    sock = SimpleNamespace(getpeername=lambda: TRUSTED, fileno=lambda: 7, cipher=None)
    return TLSSocket(sock, Session())


def test_a_tls_socket_tells_of_its_session_and_of_its_socket(tls):
    assert tls.getpeercert(binary_form=True) == b"der"
    assert tls.cipher()[1] == "TLSv1.3"
    assert (tls.getpeername(), tls.fileno()) == (TRUSTED, 7)


@pytest.mark.parametrize("name", ["read", "write", "do_handshake", "unwrap"])
def test_a_tls_socket_lets_nobody_into_the_server_s_connection(tls, name):
    with pytest.raises(AttributeError, match=f"the connection is the server's: no {name}"):
        getattr(tls, name)
    assert not hasattr(tls, name)
    assert hasattr(ssl.SSLSocket, name)


def test_a_tls_socket_has_nothing_else(tls):
    with pytest.raises(AttributeError, match="nonsense"):
        tls.nonsense  # noqa: B018


def test_a_real_tls_session_is_told():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    session = context.wrap_bio(incoming, outgoing, server_side=True)
    sock = TLSSocket(io.BytesIO(), session)
    assert sock.context is context
    assert sock.cipher() is None
    assert sock.selected_alpn_protocol() is None
    assert sock.closed is False  # the socket's
