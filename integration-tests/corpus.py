"""
Raw requests, good and bad, and a client that sends them as they are.

What a server makes of an entry is told by `exchange` in lines of text, which can be compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from apps.corpus import ANSWERS, BODIES, HEADERS, STATUSES
from harness import PATIENCE, Server

# What is sent behind each entry that leaves its connection open.
END = b"GET /end HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n"
ANSWER = b""  # among the pieces of an entry: the client waits for something to be answered


@dataclass(frozen=True)
class Entry:
    """What one connection sends: a whole, or pieces; at last perhaps the end of the stream."""

    name: str
    data: bytes | tuple[bytes, ...]
    half_close: bool = False
    cut: bool = True  # whether it is of interest how the request comes

    @property
    def pieces(self) -> tuple[bytes, ...]:
        if isinstance(self.data, tuple):
            return self.data
        return (self.data,) if self.data else ()

    @property
    def whole(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def can_be_cut(self) -> bool:
        return self.cut and ANSWER not in self.pieces


@dataclass(frozen=True)
class Group:
    """Entries for servers with the same options."""

    entries: list[Entry]
    args: list[str] = field(default_factory=list)
    prefix: str = ""  # of all paths


# Requests.


def request(
    line: bytes | str = "GET /environ HTTP/1.1", *headers: bytes | str, host: str | None = "h"
) -> bytes:
    """Make a head of a line and headers, with a Host unless that is None."""
    lines = [line, *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    return b"\r\n".join(line.encode("latin-1") if isinstance(line, str) else line for line in lines)


def get(path: str, *headers: bytes | str, version: str = "1.1") -> bytes:
    return request(f"GET {path} HTTP/{version}", *headers)


def post(path: str, body: bytes, *headers: bytes | str, version: str = "1.1") -> bytes:
    line = f"POST {path} HTTP/{version}"
    return request(line, *headers, f"Content-Length: {len(body)}") + body


def chunked(body: bytes, *headers: bytes | str, path: str = "/read") -> bytes:
    """Make a request with a body that is chunked already."""
    return request(f"POST {path} HTTP/1.1", *headers, "Transfer-Encoding: chunked") + body


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]
METHODS += ["PROPFIND", "M-SEARCH", "get", "Get", "GE", "A" * 20, "A" * 21, "GE(T", "G\xcbT", ""]
METHODS += ["GET1", "GET#", "BASELINE-CONTROL", "G_T", "!#$%"]

TARGETS = {
    "root": "/",
    "path": "/a/b%20c/%C3%A9/%2F%2f;p=1?x=1&y=%20?z#not",
    "query only": "/?",
    "double slash": "//environ//x?y",
    "triple slash": "///environ",
    "double slash with an authority": "//user@host:80/environ",
    "dots": "/a/../b/./c",
    "backslash": "/a\\b",
    "percent alone": "/a%",
    "percent with letters": "/a%zz%4",
    "percent zero": "/a%00b",
    "fragment": "/a#b",
    "fragment with query": "/a#b?c",
    "two fragments": "/a##b",
    "brackets": '/a[b]{c}|^`"<>',
    "absolute": "http://other.example:8080/environ?x",
    "absolute without path": "http://other.example",
    "absolute with query only": "http://other.example?x",
    "absolute https": "https://other.example/environ",
    "absolute odd scheme": "foo://x/environ",
    "absolute upper": "HTTP://OTHER/environ",
    "absolute with user": "http://user:pass@other/environ",
    "absolute bad bracket": "http://[::1/environ",
    "absolute bad port": "http://other:port/environ",
    "scheme without slashes": "http:environ",
    "no slash": "environ",
    "no slash with scheme inside": "environ?x=http://y",
    "authority": "host:80",
    "star": "*",
    "star with more": "*/x",
    "latin": "/caf\xe9",
    "utf-8": "/caf\xc3\xa9",
    "control": "/a\x01b",
    "delete": "/a\x7fb",
    "tab": "/a\tb",
    "nul": "/a\0b",
    "semicolons": ";a;b",
    "colon": ":",
    "question": "?x=1",
    "long": "/" + "a" * 1000,
}

LINES: dict[str, bytes] = {
    "no version": b"GET /environ",
    "no version but a space": b"GET /environ ",
    "method only": b"GET",
    "two spaces": b"GET  /environ HTTP/1.1",
    "two spaces before the version": b"GET /environ  HTTP/1.1",
    "space behind": b"GET /environ HTTP/1.1 ",
    "space before": b" GET /environ HTTP/1.1",
    "tabs": b"GET\t/environ\tHTTP/1.1",
    "carriage return inside": b"GET /environ\r HTTP/1.1",
    "carriage return behind": b"GET /environ HTTP/1.1\r",
    "line feed inside": b"GET /environ\n HTTP/1.1",
    "lower-case protocol": b"GET /environ http/1.1",
    "no protocol": b"GET /environ 1.1",
    "other protocol": b"GET /environ ICY/1.1",
    "HTTP/0.9": b"GET /environ HTTP/0.9",
    "HTTP/1.0": b"GET /environ HTTP/1.0",
    "HTTP/1.2": b"GET /environ HTTP/1.2",
    "HTTP/1.9": b"GET /environ HTTP/1.9",
    "HTTP/1": b"GET /environ HTTP/1",
    "HTTP/1.10": b"GET /environ HTTP/1.10",
    "HTTP/1.1x": b"GET /environ HTTP/1.1x",
    "HTTP/01.1": b"GET /environ HTTP/01.1",
    "HTTP/2.0": b"GET /environ HTTP/2.0",
    "HTTP/3.0": b"GET /environ HTTP/3.0",
    "HTTP/-1.1": b"GET /environ HTTP/-1.1",
    "HTTP/\xb2.1": b"GET /environ HTTP/\xb2.1",
}

# Bytes that are no request.
GARBAGE: dict[str, bytes] = {
    "letters": b"hello there\r\n\r\n",
    "one empty line": b"\r\n" + get("/environ"),
    "two empty lines": b"\r\n\r\n" + get("/environ"),
    "bare empty line": b"\n" + get("/environ"),
    "carriage return first": b"\r" + get("/environ"),
    "only empty lines": b"\r\n\r\n\r\n",
    "zeros": bytes(40) + b"\r\n\r\n",
    "TLS ClientHello": bytes.fromhex(
        "16030100c8010000c40303" + "5a" * 32 + "20" + "a5" * 32 + "003e130213031301c02cc030"
    ),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "PROXY line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n" + get("/environ"),
    "byte order mark": b"\xef\xbb\xbf" + get("/environ"),
    "bare line feeds": get("/environ").replace(b"\r\n", b"\n"),
    "bare carriage returns": get("/environ").replace(b"\r\n", b"\r"),
    "bare line feed behind a header": b"GET /environ HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n",
    "bare line feed ends the head": b"GET /environ HTTP/1.1\r\nHost: h\r\n\n",
    "bare line feed behind the line": b"GET /environ HTTP/1.1\nHost: h\r\n\r\n",
}

# Headers behind "Host: h".
FIELDS: dict[str, tuple[bytes | str, ...]] = {
    "none": (),
    "second host": ("Host: h",),
    "second host, other": ("host: other",),
    "second content type": ("Content-Type: a/b", "Content-Type: a/b"),
    "content type": ("Content-Type: text/plain; charset=utf-8",),
    "repeated": ("X-A: 1", "x-a: 2", "X-B: 3", "X-a:"),
    "cookies": ("Cookie: a=1", "Cookie: b=2"),
    "spaces around a value": ("X-A: \t a  b \t",),
    "no space": ("X-A:b",),
    "empty value": ("X-A:", "X-B: ", "X-C:\t"),
    "no colon": ("X-A",),
    "no name": (": a",),
    "space before the colon": ("X-A : b",),
    "tab before the colon": ("X-A\t: b",),
    "space before the name": (" X-A: b",),
    "space in the name": ("X A: b",),
    "underscore": ("X_A: b",),
    "underscore in a known name": ("Content_Length: 5",),
    "underscore beside a dash": ("X-A: b", "X_A: c"),
    "odd characters in the name": ("!#$%&'*+-.^`|~9: b",),
    "slash in the name": ("X/A: b",),
    "latin name": ("X-\xc4: b",),
    "nul in the name": ("X\0A: b",),
    "latin value": ("X-A: caf\xe9 \xff\x80",),
    "utf-8 value": ("X-A: caf\xc3\xa9".encode("latin-1"),),
    "nul in the value": ("X-A: a\0b",),
    "control in the value": ("X-A: a\x01b",),
    "escape in the value": ("X-A: a\x1bb",),
    "delete in the value": ("X-A: a\x7fb",),
    "tab in the value": ("X-A: a\tb",),
    "carriage return in the value": ("X-A: a\rb",),
    "carriage return behind the value": ("X-A: a\r",),
    "line feed in the value": ("X-A: a\nX-B: b",),
    "folded": ("X-A: a", " b", "\tc"),
    "folded with nothing": ("X-A: a", " "),
    "folded first": (" b",),
    "colons in the value": ("X-A: a:b::c",),
    "many": tuple(f"X-{n}: {n}" for n in range(99)),
    "too many": tuple(f"X-{n}: {n}" for n in range(100)),
    "much too many": tuple(f"X-{n}: {n}" for n in range(1000)),
    "long value": ("X-A: " + "a" * (8190 - 7),),
    "too long value": ("X-A: " + "a" * (8190 - 6),),
    "much too long value": ("X-A: " + "a" * 50_000,),
    "long name": ("X" * 5000 + ": a",),
    "proxy": ("Proxy: x", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"),
    "forwarded": ("Forwarded: for=1.2.3.4;proto=https", "X-Real-IP: 1.2.3.4"),
    "te": ("TE: trailers",),
    "upgrade h2c": (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ),
    "upgrade unknown": ("Connection: upgrade", "Upgrade: other/1"),
    "expect other": ("Expect: 200-ok",),
    "expect empty": ("Expect:",),
    "expect without body": ("Expect: 100-continue",),
    "expect upper": ("Expect: 100-CONTINUE",),
    "expect twice": ("Expect: 100-continue", "Expect: 100-continue"),
    "connection close": ("Connection: close",),
    "connection keep-alive": ("Connection: keep-alive",),
    "connection upper": ("Connection: CLOSE",),
    "connection list": ("Connection: close, X-A",),
    "connection list, close last": ("Connection: X-A, close",),
    "connection twice": ("Connection: keep-alive", "Connection: close"),
    "connection close first": ("Connection: close", "Connection: keep-alive"),
    "connection empty": ("Connection:",),
    "keep-alive": ("Keep-Alive: 300",),
    "script name": ("SCRIPT_NAME: /environ",),
}

CONTENT_LENGTHS = ["5", "05", "0", "+5", "-5", "-0", "5.0", "0x5", "5 ", "5\t", "5,5", "5, 5"]
CONTENT_LENGTHS += ["", "five", "5 5", "\xb2", "5;", "1_0", "1e1", '"5"', "5\xa0", "0" * 30 + "5"]

HUGE_LENGTHS = [2**31, 2**63, 2**64, 10**40]

# Transfer-Encoding by headers, for a body that is chunked.
CODINGS: dict[str, tuple[str, ...]] = {
    "upper": ("Transfer-Encoding: CHUNKED",),
    "spaces": ("Transfer-Encoding: \tchunked ",),
    "gzip": ("Transfer-Encoding: gzip",),
    "gzip, chunked": ("Transfer-Encoding: gzip, chunked",),
    "gzip then chunked": ("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"),
    "chunked, gzip": ("Transfer-Encoding: chunked, gzip",),
    "chunked twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "chunked, chunked": ("Transfer-Encoding: chunked, chunked",),
    "identity": ("Transfer-Encoding: identity",),
    "identity with a length": ("Transfer-Encoding: identity", "Content-Length: 5"),
    "identity, chunked": ("Transfer-Encoding: identity, chunked",),
    "chunked, identity": ("Transfer-Encoding: chunked, identity",),
    "unknown": ("Transfer-Encoding: nonsense",),
    "unknown, chunked": ("Transfer-Encoding: nonsense, chunked",),
    "xchunked": ("Transfer-Encoding: xchunked",),
    "quoted": ('Transfer-Encoding: "chunked"',),
    "parameter": ("Transfer-Encoding: chunked;q=1",),
    "empty": ("Transfer-Encoding:",),
    "empty member": ("Transfer-Encoding: chunked,",),
    "empty first member": ("Transfer-Encoding: ,chunked",),
    "vertical tab": ("Transfer-Encoding: \x0bchunked",),
    "space before the colon": ("Transfer-Encoding : chunked",),
    "underscore": ("Transfer_Encoding: chunked",),
    "length before": ("Content-Length: 5", "Transfer-Encoding: chunked"),
    "length behind": ("Transfer-Encoding: chunked", "Content-Length: 5"),
}

CHUNKS: dict[str, bytes] = {
    "one": b"5\r\nhello\r\n0\r\n\r\n",
    "two": b"5\r\nhello\r\n6\r\n there\r\n0\r\n\r\n",
    "none": b"0\r\n\r\n",
    "hexadecimal": b"aB\r\n" + b"x" * 0xAB + b"\r\n0\r\n\r\n",
    "leading zeros": b"0005\r\nhello\r\n000\r\n\r\n",
    "many leading zeros": b"0" * 100 + b"5\r\nhello\r\n0\r\n\r\n",
    "line feeds in the data": b"7\r\na\r\nb\nc\n\r\n0\r\n\r\n",
    "large": b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n10001\r\n" + b"y" * 0x10001 + b"\r\n0\r\n\r\n",
    "extension": b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "extension with spaces": b"5 ; a = b\r\nhello\r\n0\r\n\r\n",
    "extension quoted": b'5;a="b;\\"c"\r\nhello\r\n0\r\n\r\n',
    "extension quoted badly": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "extension empty": b"5;\r\nhello\r\n0\r\n\r\n",
    "extension with a carriage return": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension with a line feed": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "extension with a control": b"5;a=\x01\r\nhello\r\n0\r\n\r\n",
    "extension long": b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    "extension too long": b"5;" + b"a" * 20_000 + b"\r\nhello\r\n0\r\n\r\n",
    "trailers": b"5\r\nhello\r\n0\r\nX-End: 1\r\nX-More: 2\r\n\r\n",
    "trailer content length": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer host": b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n",
    "trailer expect": b"5\r\nhello\r\n0\r\nExpect: 100-continue\r\n\r\n",
    "trailer underscore": b"5\r\nhello\r\n0\r\nX_End: 1\r\n\r\n",
    "trailer bad name": b"5\r\nhello\r\n0\r\nX End: 1\r\n\r\n",
    "trailer bad value": b"5\r\nhello\r\n0\r\nX-End: a\0b\r\n\r\n",
    "trailer no colon": b"5\r\nhello\r\n0\r\nX-End\r\n\r\n",
    "trailer folded": b"5\r\nhello\r\n0\r\nX-End: 1\r\n 2\r\n\r\n",
    "trailer bare line feed": b"5\r\nhello\r\n0\r\nX-End: 1\n\r\n\r\n",
    "trailers too many": b"0\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "trailer too long": b"0\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
    "size empty": b"\r\nhello\r\n0\r\n\r\n",
    "size text": b"zz\r\nhello\r\n0\r\n\r\n",
    "size negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "size plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "size with a space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "size with a space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "size with a tab behind": b"5\t\r\nhello\r\n0\r\n\r\n",
    "size latin": b"\xb2\r\nhello\r\n0\r\n\r\n",
    "size huge": b"7fffffffffffffff\r\nhello",
    "size very huge": b"f" * 16 + b"\r\nhello",
    "size beyond all": b"f" * 100 + b"\r\nhello",
    "size wraps around": b"1" + b"0" * 15 + b"5\r\nhello\r\n0\r\n\r\n",
    "bare line feeds": b"5\nhello\n0\n\n",
    "bare line feed behind the size": b"5\nhello\r\n0\r\n\r\n",
    "bare line feed behind the data": b"5\r\nhello\n0\r\n\r\n",
    "no line end behind the data": b"5\r\nhello0\r\n\r\n",
    "too much data": b"5\r\nhello there\r\n0\r\n\r\n",
    "too little data": b"7\r\nhello\r\n0\r\n\r\n",
    "second size bad": b"5\r\nhello\r\nzz\r\n0\r\n\r\n",
    "line end bad at last": b"5\r\nhello\r\n0\r\nX",
}
GOOD_CHUNKS = ["one", "two", "none", "hexadecimal", "leading zeros", "many leading zeros", "large"]
GOOD_CHUNKS += ["line feeds in the data", "extension", "extension with spaces"]
GOOD_CHUNKS += ["extension quoted", "extension long", "trailers", "trailer expect"]
GOOD_CHUNKS += ["trailer underscore"]
# Of these, the data goes on for as long as the stream does.
ENDLESS_CHUNKS = ["size huge", "size very huge", "size beyond all", "size wraps around"]
ENDLESS_CHUNKS += ["bare line feeds"]
# How much of it is read at once makes the difference.
LONG_CHUNKS = ["extension too long"]
# These end with the stream.
OPEN_CHUNKS = [*ENDLESS_CHUNKS, "line end bad at last", "too little data"]
OPEN_CHUNKS += ["bare line feed behind the size"]
BAD_CHUNKS = [name for name in CHUNKS if name not in [*GOOD_CHUNKS, *ENDLESS_CHUNKS, *LONG_CHUNKS]]

UNFINISHED: dict[str, bytes] = {
    "nothing": b"",
    "line": b"GET /env",
    "whole line": b"GET /environ HTTP/1.1\r\n",
    "head": b"GET /environ HTTP/1.1\r\nHost: h\r\n",
    "head but a byte": request()[:-1],
    "empty line": b"\r\n",
    "length, no body": request("POST /read HTTP/1.1", "Content-Length: 5"),
    "length, half a body": request("POST /read HTTP/1.1", "Content-Length: 5") + b"he",
    "length, caught": request("POST /read_and_catch HTTP/1.1", "Content-Length: 5") + b"he",
    "length, in pieces": request("POST /read_pieces HTTP/1.1", "Content-Length: 9") + b"hello",
    "length, lines": request("POST /iterate HTTP/1.1", "Content-Length: 9") + b"a\nb",
    "length, ignored": request("POST /ignore HTTP/1.1", "Content-Length: 5") + b"he",
    "length, a part read": request("POST /read_part HTTP/1.1", "Content-Length: 9") + b"hello",
    "length, on 1.0": request("POST /read HTTP/1.0", "Content-Length: 5") + b"he",
    "chunks, none": chunked(b""),
    "chunks, size": chunked(b"5"),
    "chunks, half": chunked(b"5\r\nhe"),
    "chunks, no line end": chunked(b"5\r\nhello"),
    "chunks, no end": chunked(b"5\r\nhello\r\n"),
    "chunks, no last line": chunked(b"5\r\nhello\r\n0\r\n"),
    "chunks, half a trailer": chunked(b"5\r\nhello\r\n0\r\nX-End: 1\r\n"),
    "chunks, caught": chunked(b"5\r\nhe", path="/read_and_catch"),
    "chunks, ignored": chunked(b"5\r\nhe", path="/ignore"),
    "chunks, a part read": chunked(b"5\r\nhello\r\n", path="/read_part"),
    # These are finished, and the client only reads.
    "get": get("/environ"),
    "get 1.0": get("/environ", version="1.0"),
    "get keep-alive 1.0": get("/list_length", "Connection: keep-alive", version="1.0"),
    "post": post("/read", b"hello"),
    "post ignored": post("/ignore", b"hello"),
    "post chunked": chunked(CHUNKS["two"]),
    "stream": get("/generator_long"),
    "two": get("/list") + get("/generator"),
    "two, the second not finished": get("/list") + b"GET /lis",
    "two, the second without its body": get("/list")
    + request("POST /read HTTP/1.1", "Content-Length: 5"),
}


def name_and_host() -> Iterator[Entry]:
    yield Entry("host missing", request(host=None))
    yield Entry("host missing on 1.0", request("GET /environ HTTP/1.0", host=None))
    yield Entry("host empty", request(host=""))
    yield Entry("host with a port", request(host="example.org:8080"))
    yield Entry("host odd", request(host="a/b c@d"))
    yield Entry("host list", request(host="a, b"))
    for length in (4093, 4094, 4095, 4096, 5000, 8190, 8191, 20_000, 200_000):
        line = "GET /environ?" + "a" * (length - 22) + " HTTP/1.1"
        yield Entry(f"line of {length}", request(line))
        if length in (4094, 4095):
            yield Entry(f"line of {length} behind an empty line", b"\r\n" + request(line))
    for length in (4000, 4094, 4095, 4096, 4097, 10_000):
        # Whether a line is too long may be known before its end.
        data = b"GET /environ?" + b"a" * (length - 13)
        yield Entry(f"line without end of {length}", data, half_close=True)


def requests() -> Iterator[Entry]:
    """Lines and headers, without bodies."""
    for method in METHODS:
        yield Entry(f"method {method!r}", request(f"{method} /environ HTTP/1.1"))
    for method in ("GET", "OPTIONS", "CONNECT"):
        for form in ("*", "host:80", "http://other/environ"):
            yield Entry(f"{method} {form}", request(f"{method} {form} HTTP/1.1"))
    for name, target in TARGETS.items():
        yield Entry(f"target {name}", request(f"GET {target} HTTP/1.1"))
    for name, line in LINES.items():
        yield Entry(f"request line: {name}", request(line))
    for name, data in GARBAGE.items():
        yield Entry(f"garbage: {name}", data)
    yield from name_and_host()
    for name, fields in FIELDS.items():
        yield Entry(f"field {name}", request("GET /environ HTTP/1.1", *fields))
        if name.startswith(("connection", "upgrade", "expect")):
            yield Entry(f"field {name} on 1.0", request("GET /environ HTTP/1.0", *fields))
    for path in ("list", "list_length", "generator", "list_empty", "no_content_empty"):
        for fields in ((), ("Connection: keep-alive",), ("Connection: close",)):
            for version in ("1.0", "1.1"):
                name = f"{path} {' '.join(fields)} {version}"
                yield Entry(name, get(f"/{path}", *fields, version=version))


def bodies() -> Iterator[Entry]:
    for path in sorted(path for path in ANSWERS if path.startswith(("read", "iterate", "ignore"))):
        body = b"first\nsecond line\n\nlast"
        yield Entry(f"{path} length", post(f"/{path}", body))
        yield Entry(
            f"{path} chunked", chunked(b"17\r\n" + body + b"\r\n0\r\n\r\n", path=f"/{path}")
        )
        yield Entry(f"{path} without body", get(f"/{path}"))
        yield Entry(f"{path} length 1.0", post(f"/{path}", body, version="1.0"))
        yield Entry(
            f"{path} length 1.0 kept",
            post(f"/{path}", body, "Connection: keep-alive", version="1.0"),
        )
    # More than a server takes with the head, and more than it may want to skip.
    for size in (10_000, 60_000, 70_000, 300_000):
        body = b"x" * size
        for path in ("read", "ignore", "read_part"):
            yield Entry(f"{path} {size}", post(f"/{path}", body))
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
        yield Entry(f"ignore {size} chunked", chunked(chunks, path="/ignore"))
    yield Entry("get with a body", request("GET /read HTTP/1.1", "Content-Length: 5") + b"hello")
    yield Entry("head with a body", request("HEAD /read HTTP/1.1", "Content-Length: 5") + b"hello")
    yield Entry("connect with a body", post("/read", b"hello").replace(b"POST", b"CONNECT"))
    for length in CONTENT_LENGTHS:
        line = "POST /read HTTP/1.1"
        yield Entry(f"length {length!r}", request(line, f"Content-Length: {length}") + b"hello")
    for lengths in (("5", "5"), ("5", "6"), ("6", "5")):
        fields = [f"Content-Length: {length}" for length in lengths]
        yield Entry(f"lengths {lengths}", request("POST /read HTTP/1.1", *fields) + b"hello")
    for huge in HUGE_LENGTHS:
        fields = [f"Content-Length: {huge}"]
        for path in ("read", "ignore"):
            data = request(f"POST /{path} HTTP/1.1", *fields) + b"hello"
            yield Entry(f"{path} length {huge}", data, half_close=True)
    yield Entry(
        "length too long to be read", request("POST /r HTTP/1.1", f"Content-Length: {'9' * 5000}")
    )
    for name, codings in CODINGS.items():
        for version in ("1.0", "1.1"):
            head = request(f"POST /read HTTP/{version}", *codings)
            # Which error the chunks are, as a request, depends on how much has come.
            body = b"" if name == "underscore" else CHUNKS["one"]
            yield Entry(f"coding {name} on {version}", head + body)
    for name, chunks in CHUNKS.items():
        half_close = name in OPEN_CHUNKS
        # Which of two errors this is depends on how much has come.
        cut = name != "trailer bare line feed"
        yield Entry(f"chunks {name}", chunked(chunks), half_close, cut)
        for path in ("ignore", "read_and_catch"):
            yield Entry(f"chunks {name}, {path}", chunked(chunks, path=f"/{path}"), half_close)
    yield Entry(
        "chunks second size bad, read late", chunked(CHUNKS["second size bad"], path="/read_late")
    )
    yield Entry("chunks dumped", chunked(CHUNKS["trailers"], "Trailer: X-End", path="/environ"))
    for name, data in UNFINISHED.items():
        yield Entry(f"half-closed: {name}", data, half_close=True)


def expectations() -> Iterator[Entry]:
    """Clients that wait for 100 Continue, and those that do not."""
    for version in ("1.0", "1.1"):
        for path in ("read", "ignore", "read_part", "read_late", "raise"):
            for body in (b"hello", b""):
                fields = (f"Content-Length: {len(body)}", "Expect: 100-continue")
                head = request(f"POST /{path} HTTP/{version}", *fields)
                name = f"expect {path} {len(body)} on {version}"
                yield Entry(f"{name}, sent at once", head + body)
                if version == "1.1" and body:
                    yield Entry(f"{name}, waited for", (head, ANSWER, body))
    head = request("POST /read HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue")
    yield Entry("expect chunked, sent at once", head + CHUNKS["one"])
    yield Entry("expect chunked, waited for", (head, ANSWER, CHUNKS["one"]))
    head = request("POST /read HTTP/1.1", "Content-Length: -5", "Expect: 100-continue")
    yield Entry("expect and a bad length", head)
    head = request("POST /read HTTP/1.1", "Content-Length: 5", "Expect: other")
    yield Entry("expect other with a body", head + b"hello")


def pipelines() -> Iterator[Entry]:
    good, bad = get("/list"), b"GET /list HTTP/1.1\r\nBad Header: x\r\n\r\n"
    yield Entry("pipeline of two", good * 2)
    yield Entry("pipeline of five", b"".join(get(f"/list?{n}") for n in range(5)))
    yield Entry("pipeline of 100", good * 100)
    yield Entry("pipeline of streams", get("/generator") * 3)
    yield Entry(
        "pipeline of large answers", get("/generator_long") + get("/list_long") + get("/file")
    )
    yield Entry("pipeline of HEAD", request("HEAD /list HTTP/1.1") * 3)
    for path in ("read", "ignore", "read_part", "read_line"):
        length, chunks = post(f"/{path}", b"a\nbody"), chunked(CHUNKS["two"], path=f"/{path}")
        yield Entry(f"pipeline of bodies, {path}", length + chunks + length + good + chunks)
        yield Entry(f"pipeline behind chunks, {path}", chunks * 3)
        smuggled = get("/smuggled")
        yield Entry(f"pipeline in a body, {path}", post(f"/{path}", smuggled * 2) + good)
        yield Entry(
            f"pipeline in a chunk, {path}",
            chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled), path=f"/{path}") + good,
        )
        yield Entry(
            f"pipeline behind a bad chunk, {path}",
            chunked(b"5\r\nhello" + smuggled, path=f"/{path}") + smuggled,
        )
        yield Entry(
            f"pipeline behind a bad size, {path}",
            chunked(b"5\r\nhello\r\nx\r\n\r\n" + smuggled, path=f"/{path}") + smuggled,
        )
    yield Entry("pipeline with a bad one", good + bad + good)
    yield Entry("pipeline with a bad one first", bad + good)
    yield Entry("pipeline with a bad line", good + b"GET\r\n\r\n" + good)
    yield Entry("pipeline with a bad length", good + post("/read", b"").replace(b"0", b"x") + good)
    yield Entry("pipeline with close", good + get("/list", "Connection: close") + good)
    yield Entry("pipeline with 1.0", good + get("/list", version="1.0") + good)
    yield Entry(
        "pipeline with 1.0 kept", get("/list_length", "Connection: keep-alive", version="1.0") * 2
    )
    yield Entry("pipeline with CONNECT", request("CONNECT h:80 HTTP/1.1") + good)
    yield Entry("pipeline with an error", good + get("/raise") + good)
    yield Entry("pipeline with a stream that fails", good + get("/stream_raises") + good)
    yield Entry("pipeline with too little", good + get("/length_more") + good)
    yield Entry("pipeline with too much", good + get("/length_less") + good)
    yield Entry(
        "pipeline with 204 and 304", get("/no_content") + get("/not_modified_length") + good
    )
    yield Entry("pipeline with expect", good + request("GET /list HTTP/1.1", "Expect: x") + good)
    yield Entry("pipeline with empty lines", good + b"\r\n" + good + b"\r\n\r\n" + good)
    yield Entry("pipeline with upgrade", get("/list", *FIELDS["upgrade unknown"]) + good)
    yield Entry("pipeline half-closed", good * 3, half_close=True)
    yield Entry("error with much behind", bad + b"x" * 50_000, half_close=True)
    yield Entry("one after the other", (good, ANSWER, good, ANSWER, get("/raise")))


def applications() -> Iterator[Entry]:
    """What applications do to their answers; for each method and version it matters for."""
    reading = ("read", "iterate", "ignore")
    for path in (*ANSWERS, *STATUSES, *HEADERS, *BODIES):
        if path.startswith(reading):
            continue
        yield Entry(f"application {path}", get(f"/{path}"), cut=False)
        if path in ANSWERS or path in BODIES:
            data = get(f"/{path}", version="1.0")
            yield Entry(f"application {path} on 1.0", data, cut=False)
            data = request(f"HEAD /{path} HTTP/1.1")
            yield Entry(f"application {path} for HEAD", data, cut=False)
    for path in ("list_length", "generator", "file_length", "length_more", "raise", "no_content"):
        data = get(f"/{path}", "Connection: keep-alive", version="1.0")
        yield Entry(f"application {path} on 1.0, kept", data)
        yield Entry(f"application {path} for POST, unread", post(f"/{path}", b"hello"))


def scheme_headers() -> Iterator[Entry]:
    """What only a trusted peer may say."""
    fields: dict[str, tuple[str, ...]] = {
        "proto https": ("X-Forwarded-Proto: https",),
        "proto http": ("X-Forwarded-Proto: http",),
        "proto upper": ("X-Forwarded-Proto: HTTPS",),
        "proto empty": ("X-Forwarded-Proto:",),
        "proto twice": ("X-Forwarded-Proto: https", "X-Forwarded-Proto: https"),
        "proto conflict": ("X-Forwarded-Proto: https", "X-Forwarded-Proto: http"),
        "ssl on": ("X-Forwarded-Ssl: on",),
        "ssl off": ("X-Forwarded-Ssl: off",),
        "protocol ssl": ("X-Forwarded-Protocol: ssl",),
        "all": ("X-Forwarded-Protocol: ssl", "X-Forwarded-Proto: https", "X-Forwarded-Ssl: on"),
        "conflict": ("X-Forwarded-Protocol: ssl", "X-Forwarded-Proto: http"),
        "underscore": ("X_Forwarded_Proto: https",),
        "script name": ("SCRIPT_NAME: /app",),
        "script name twice": ("SCRIPT_NAME: /app", "SCRIPT_NAME: /app/x"),
        "script name with dash": ("Script-Name: /app",),
        "script name empty": ("SCRIPT_NAME:",),
        "path info": ("PATH_INFO: /other",),
        "remote user": ("REMOTE_USER: me",),
        "remote addr": ("REMOTE_ADDR: 1.2.3.4",),
        "other underscore": ("X_OTHER: 1",),
        "lower": ("script_name: /app",),
    }
    for name, lines in fields.items():
        yield Entry(f"trust {name}", get("/app/x?y", *lines))
        yield Entry(f"trust {name}, other path", get("/other", *lines))
    bad_trailer = b"0\r\nX-Forwarded-Proto: https\r\nSCRIPT_NAME: /x\r\n\r\n"
    yield Entry("trust trailers", chunked(bad_trailer, path="/app/read"))


def limits() -> Iterator[Entry]:
    """With other limits: any line, 5 fields, 100 bytes each; fields with underscores dropped."""
    yield from (entry for entry in name_and_host() if "without end" not in entry.name)
    for count in (3, 4, 5, 6):
        yield Entry(f"{count} fields", get("/environ", *["X: 1"] * (count - 1)))
        yield Entry(f"{count} fields, dropped", get("/environ", *["X_A: 1"] * (count - 1)))
    for size in (92, 93, 94, 95, 96, 97, 200):
        yield Entry(f"value of {size}", get("/environ", "X-A: " + "a" * size))
        yield Entry(f"dropped value of {size}", get("/environ", "X_A: " + "a" * size))
        yield Entry(f"trailer of {size}", chunked(b"0\r\nX-A: " + b"a" * size + b"\r\n\r\n"))
        # It is too long if its end has not come yet.
        yield Entry(f"extension of {size}", chunked(b"0;" + b"a" * size + b"\r\n\r\n"), cut=False)
    for size in (500, 600, 5000):
        head = b"GET /environ HTTP/1.1\r\nX: "
        yield Entry(f"head without end of {size}", head + b"a" * size, half_close=True)
        yield Entry(
            f"trailers without end of {size}", chunked(b"0\r\n" + b"a" * size), half_close=True
        )
    for name in ("underscore", "underscore beside a dash", "underscore in a known name"):
        yield Entry(f"field {name}", request("GET /environ HTTP/1.1", *FIELDS[name]))
    yield Entry("coding underscore", request("POST /read HTTP/1.1", *CODINGS["underscore"]))
    yield Entry("script name dropped", get("/environ", "SCRIPT_NAME: /environ"))


def lenient() -> Iterator[Entry]:
    """With everything allowed that gunicorn can allow."""
    for method in METHODS:
        yield Entry(f"method {method!r}", request(f"{method} /environ HTTP/1.1"))
    for name, line in LINES.items():
        yield Entry(f"request line: {name}", request(line))
    for name, fields in FIELDS.items():
        if name.startswith(("folded", "space", "tab", "underscore", "script")):
            yield Entry(f"field {name}", request("GET /environ HTTP/1.1", *fields))
    yield Entry("folded length", request("POST /read HTTP/1.1", "Content-Length:", " 5") + b"hello")
    yield Entry("space in length", request("POST /read HTTP/1.1", "Content-Length : 5") + b"hello")
    for name, codings in CODINGS.items():
        if name in ("space before the colon", "underscore", "spaces"):
            yield Entry(f"coding {name}", request("POST /read HTTP/1.1", *codings) + CHUNKS["one"])
    yield Entry(
        "folded coding",
        request("POST /read HTTP/1.1", "Transfer-Encoding:", " chunked") + CHUNKS["one"],
    )
    for name in ("trailer folded", "trailer underscore", "trailer bad name"):
        yield Entry(f"chunks {name}", chunked(CHUNKS[name]))
    long_fold = ("X-A: a", *[" " + "b" * 1000] * 9)
    yield Entry("folded too long", request("GET /environ HTTP/1.1", *long_fold))
    for version in ("0.9", "1.2", "2.0", "3.1"):
        for path in ("generator", "list_length"):
            yield Entry(f"{path} on {version}", get(f"/{path}", version=version))
    yield Entry(
        "expect on 2.0",
        request("POST /read HTTP/2.0", "Content-Length: 5", "Expect: 100-continue") + b"hello",
    )


def prefixed() -> Iterator[Entry]:
    """With SCRIPT_NAME in the server's environment."""
    for path in (
        "/prefix",
        "/prefix/",
        "/prefix/x",
        "/prefixed",
        "/",
        "/other/prefix",
        "/%70refix",
    ):
        yield Entry(f"path {path}", get(path))
    for path in ("//prefix/x", "http://h/prefix/x", "http://h"):
        yield Entry(f"path {path}", get(path))
    yield Entry("path in a pipeline", get("/prefix/list") + get("/other") + get("/prefix/list"))
    yield Entry("path of a post", post("/other", b"hello"))
    yield Entry("path with another prefix", get("/prefix/x", "SCRIPT_NAME: /prefix/x"))
    yield Entry("path of HEAD", request("HEAD /other HTTP/1.1"))


def not_kept() -> Iterator[Entry]:
    """Without keep-alive and without sendfile()."""
    for path in ("list", "list_length", "generator", "no_content", "raise", "read"):
        yield Entry(f"{path} closes", get(f"/{path}"))
        for version in ("1.0", "1.1"):
            data = get(f"/{path}", "Connection: keep-alive", version=version)
            yield Entry(f"{path} kept on {version}", data)
    yield Entry("pipeline closes", get("/list") * 3)
    yield Entry("pipeline of bodies closes", post("/ignore", b"hello") * 3)
    for path in ANSWERS:
        if path.startswith("file"):
            yield Entry(f"{path} without sendfile", get(f"/{path}"), cut=False)
            data = request(f"HEAD /{path} HTTP/1.1")
            yield Entry(f"{path} without sendfile for HEAD", data, cut=False)


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def proxy_protocol() -> Iterator[Entry]:
    lines: dict[str, bytes] = {
        "TCP4": b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80",
        "TCP6": b"PROXY TCP6 ::1 ::2 1000 80",
        "UNKNOWN": b"PROXY UNKNOWN",
        "unknown with addresses": b"PROXY UNKNOWN 1.2.3.4 5.6.7.8 1000 80",
        "bad address": b"PROXY TCP4 1.2.3.400 5.6.7.8 1000 80",
        "bad IPv6 address": b"PROXY TCP6 1.2.3.4 5.6.7.8 1000 80",
        "bad port": b"PROXY TCP4 1.2.3.4 5.6.7.8 port 80",
        "large port": b"PROXY TCP4 1.2.3.4 5.6.7.8 70000 80",
        "negative port": b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 80",
        "too few words": b"PROXY TCP4 1.2.3.4",
        "too many words": b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80 x",
        "lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1000 80",
    }
    for name, line in lines.items():
        yield Entry(f"proxy line {name}", line + b"\r\n" + get("/environ"))
    yield Entry("proxy line twice", (lines["TCP4"] + b"\r\n") * 2 + get("/environ"))
    yield Entry("proxy line, a pipeline", lines["TCP4"] + b"\r\n" + get("/environ") * 2)
    again = lines["TCP4"] + b"\r\n" + get("/environ") + lines["TCP4"] + b"\r\n" + get("/environ")
    yield Entry("proxy line again", again)
    yield Entry("proxy line alone", lines["TCP4"] + b"\r\n", half_close=True)
    yield Entry("proxy line long", b"PROXY TCP4 " + b"1" * 5000 + b"\r\n" + get("/environ"))
    yield Entry("no proxy line", get("/environ"))
    yield Entry("no proxy line, short", b"GET\r\n\r\n", half_close=True)
    four = bytes((1, 2, 3, 4, 5, 6, 7, 8)) + struct.pack(">HH", 1000, 80)
    six = bytes(15) + b"\1" + bytes(15) + b"\2" + struct.pack(">HH", 1000, 80)
    headers: dict[str, tuple[int, int, bytes]] = {
        "TCP4": (0x21, 0x11, four),
        "TCP4 with more": (0x21, 0x11, four + b"\x04\0\1x"),
        "TCP6": (0x21, 0x21, six),
        "LOCAL": (0x20, 0x00, b""),
        "LOCAL with addresses": (0x20, 0x11, four),
        "unspecified": (0x21, 0x01, b""),
        "unspecified all": (0x21, 0x00, b""),
        "UDP": (0x21, 0x12, four),
        "UNIX": (0x21, 0x31, bytes(216)),
        "too short": (0x21, 0x11, four[:8]),
        "too short for IPv6": (0x21, 0x21, four),
        "bad version": (0x11, 0x11, four),
        "bad command": (0x22, 0x11, four),
    }
    for name, (command, family, addresses) in headers.items():
        header = SIGNATURE + struct.pack(">BBH", command, family, len(addresses)) + addresses
        yield Entry(f"proxy header {name}", header + get("/environ"))
    yield Entry("proxy header unfinished", SIGNATURE + b"\x21\x11\0\x0c", half_close=True)


LENIENT = ["--permit-obsolete-folding", "--strip-header-spaces", "--casefold-http-method"]
LENIENT += ["--permit-unconventional-http-method", "--permit-unconventional-http-version"]
LENIENT += ["--header-map", "dangerous"]
LIMITS = ["--limit-request-line", "0", "--limit-request-fields", "5"]
LIMITS += ["--limit-request-field_size", "100", "--header-map", "drop"]
# How much of a line the Python parser has read when it finds it too long is in its answer.
LONG = re.compile(r"line (of|without end of) \d{4,}")
PARSING = [*requests(), *bodies(), *expectations(), *pipelines()]

GROUPS = {
    "default": Group([*PARSING, *applications()]),
    "python parser": Group(
        [entry for entry in PARSING if not LONG.match(entry.name) or len(entry.whole) < 8000],
        ["--http-parser", "python"],
    ),
    "lenient": Group([*lenient()], LENIENT),
    "limits": Group([*limits()], LIMITS),
    "limits, python parser": Group([*limits()], [*LIMITS, "--http-parser", "python"]),
    "trusted": Group(
        [*scheme_headers()],
        ["--forwarded-allow-ips", "127.0.0.1", "--forwarder-headers", "SCRIPT_NAME,REMOTE_USER"],
    ),
    "untrusted": Group([*scheme_headers()], ["--forwarded-allow-ips", "10.0.0.1"]),
    "prefix": Group([*prefixed()], ["--env", "SCRIPT_NAME=/prefix"], prefix="/prefix"),
    "not kept": Group([*not_kept()], ["--keep-alive", "0", "--no-sendfile"]),
    "proxy protocol": Group([*proxy_protocol()], ["--proxy-protocol", "auto"]),
}


# The client.

SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
INET_DIAG_INFO = 2
BYTES_RECEIVED = 128  # the place of tcpi_bytes_received in tcp_info

# How a connection ends.
CLOSED = "closed"
RESET = "reset"


class Connection:
    """
    A connection whose pieces reach the server one by one.

    The system tells (sock_diag(7)) how much the server has read. What TIOCOUTQ tells is not
    enough: it counts what was not acknowledged, which the server's system may do late, and does
    for what the server has not read.
    """

    def __init__(self, server: Server) -> None:
        self.socket = server.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.diag = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, SOCK_DIAG)
        self.diag.connect((0, 0))
        # inet_diag_req_v2, for the server's end of this connection.
        self.question = struct.pack(
            "=IHHIIBBBxIHH4s12x4s12xIII",
            72, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0,
            socket.AF_INET, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0xFFFFFFFF,
            socket.htons(self.socket.getpeername()[1]), socket.htons(self.socket.getsockname()[1]),
            socket.inet_aton("127.0.0.1"), socket.inet_aton("127.0.0.1"),
            0, 0xFFFFFFFF, 0xFFFFFFFF,
        )  # fmt: skip
        self.deadline = time.monotonic() + PATIENCE / 3
        self.received = b""
        self.known = 0  # bytes that were received before the last piece was sent
        self.sent = 0
        self.end = ""
        while self.taken() is None:  # the server's system may be later than connect()
            os.sched_yield()
            self.check_time()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()
        self.diag.close()

    def taken(self) -> int | None:
        """Return how many bytes the server has read; None if its end is gone, or not there yet."""
        self.diag.send(self.question)
        answer = self.diag.recv(8192)
        if struct.unpack_from("=H", answer, 4) == (NLMSG_ERROR,):
            return None
        (waiting,) = struct.unpack_from("=I", answer, 72)
        place = 88
        while place < len(answer):
            size, kind = struct.unpack_from("=HH", answer, place)
            if kind == INET_DIAG_INFO:
                (received,) = struct.unpack_from("=Q", answer, place + 4 + BYTES_RECEIVED)
                return int(received - waiting)
            place += (size + 3) & ~3
        return None

    def unread(self) -> bool:
        """Return True if the server has not read all that was sent."""
        taken = self.taken()
        return taken is not None and taken < self.sent

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError(f"nothing more happens after {self.received!r}")

    def send(self, data: bytes) -> None:
        """Send, and wait until the server has read it, or has closed."""
        self.receive(0)
        self.known = len(self.received)
        try:
            self.socket.sendall(data)
            self.sent += len(data)
        except OSError as exc:
            self.read_all()
            if isinstance(exc, ConnectionResetError):
                self.end = RESET  # which the system tells once
        while not self.end and self.unread():
            self.receive(0)
            os.sched_yield()
            self.check_time()

    def half_close(self) -> None:
        # Not connected any more: what has come can still be read.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self, timeout: float) -> None:
        """Receive something if there is something in time."""
        readable, _, _ = select.select([self.socket], [], [], timeout)
        if readable:
            try:
                data = self.socket.recv(65536)
                self.end = "" if data else CLOSED
            except ConnectionResetError:
                data, self.end = b"", RESET
            self.received += data

    def wait_for_answer(self) -> None:
        while not self.end and len(self.received) == self.known:
            self.receive(1)
            self.check_time()

    def read_all(self) -> None:
        while not self.end:
            self.receive(1)
            self.check_time()


def exchange(server: Server, pieces: Iterable[bytes], half_close: bool) -> list[str]:
    """
    Send ``pieces`` on a connection of their own, and tell what comes back, in lines.

    Raises:
        TimeoutError: If the server does not close in time.
    """
    with Connection(server) as connection:
        for piece in pieces:
            if piece == ANSWER:
                connection.wait_for_answer()
            elif not connection.end:
                connection.send(piece)
        if not connection.end:
            if half_close:
                connection.half_close()
            else:
                connection.send(END)
            connection.read_all()
    return [*told(connection.received), connection.end]


def seen(server: Server, prefix: str, expected: list[str] | None) -> list[str]:
    """
    Ask the application what it has seen, and let it forget that.

    What is expected may come a little later than the answer.
    """
    lines: list[str] = []
    deadline = time.monotonic() + 1
    while True:
        with server.socket() as sock:
            sock.sendall(get(f"{prefix}/seen", "Connection: close"))
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        lines += json.loads(answer.partition(b"\r\n\r\n")[2])
        if expected is None or lines == expected or time.monotonic() > deadline:
            return lines


# Answers.

HEAD = re.compile(rb"(HTTP/\d\.\d [^\r\n]*)\r\n((?:[^\r\n]+\r\n)*)\r\n")
DATE = re.compile(rb"Date: [^\r\n]+GMT")
CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")


def told(data: bytes) -> Iterator[str]:
    """Tell answers in lines."""
    while data:
        match = HEAD.match(data)
        if match is None:
            yield f"no answer: {DATE.sub(b'Date: now', data[:200])!r}"
            return
        status = match[1].decode("latin-1")
        headers = [tuple(line.split(": ", 1)) for line in match[2].decode("latin-1").splitlines()]
        values = {header[0].lower(): header[-1] for header in reversed(headers)}
        yield status
        # Only the order of headers with the same name means something (RFC 9110 section 5.3).
        for header in sorted(headers, key=lambda header: header[0].lower()):
            yield f"  {header[0]}: {normal(header[0], header[-1])}"
        code = int(status[9:12]) if status[9:12].isdigit() else 0
        data = data[match.end() :]
        if 100 <= code < 200 or code in (204, 304) or values.get("x-method") == "HEAD":
            continue
        if values.get("transfer-encoding") == "chunked":
            body, data, complete = dechunked(data)
        elif "content-length" in values:
            length = int(values["content-length"]) if values["content-length"].isdigit() else 0
            body, data = data[:length], data[length:]
            complete = "complete" if len(body) == length else "not complete"
        else:
            body, data, complete = data, b"", "until the end"
        yield from told_body(body)
        yield f"  {complete}"


def normal(name: str, value: str) -> str:
    if name.lower() == "date":
        date = parsedate_to_datetime(value)
        if abs((datetime.now(UTC) - date).total_seconds()) < 60:
            return "now"
    return value if len(value) < 1000 else short(value.encode("latin-1"))


def short(data: bytes) -> str:
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()[:8]}"


def told_body(body: bytes) -> Iterator[str]:
    if len(body) > 20_000:
        yield f"  | {short(body)}"
        return
    for line in body.decode("latin-1").split("\n"):
        text = line.encode("unicode_escape").decode()
        yield f"  | {text if len(text) < 1000 else short(line.encode('latin-1'))}"


def dechunked(data: bytes) -> tuple[bytes, bytes, str]:
    """Return a body, what is behind it, and whether it is complete."""
    body = []
    while match := CHUNK.match(data):
        size = int(match[1], 16)
        chunk, rest = data[match.end() : match.end() + size], data[match.end() + size :]
        body.append(chunk)
        if len(chunk) < size or rest[:2] != b"\r\n":
            return b"".join(body), rest, "not complete"
        data = rest[2:]
        if not size:
            return b"".join(body), data, "complete"
    return b"".join(body), data, "not complete"
