"""A WSGI application without Pyramid, which answers in the way that the path names."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Answer = Callable[[Environ, StartResponse], Any]

TEXT = [("Content-Type", "text/plain")]
FILE = b"".join(b"%07d\n" % n for n in range(20_000))

# What has happened since it was told.
seen: list[str] = []


def app(environ: Environ, start_response: StartResponse) -> Any:
    """Answer in the way that the last part of the path names, or with the environ."""
    name = environ["PATH_INFO"].rpartition("/")[2]
    if name == "seen":
        return tell(environ, start_response)
    path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    seen.append(f"{environ['REQUEST_METHOD']} {path}?{environ['QUERY_STRING']}")

    def start(status: Any, headers: Any, *exc_info: Any) -> Callable[[bytes], object]:
        # Whoever parses the answers must know which have no body.
        if isinstance(headers, list):
            headers = [*headers, ("X-Method", environ["REQUEST_METHOD"])]
        return start_response(status, headers, *exc_info)

    answer: Answer | None = ANSWERS.get(name)
    if answer is not None:
        return answer(environ, start)
    if name in STATUSES:
        start(STATUSES[name], TEXT)
        return [b"body"]
    if name in HEADERS:
        start("200 OK", HEADERS[name])
        return [b"body"]
    if name in BODIES:
        start("200 OK", TEXT)
        return BODIES[name]()
    return dump(environ, start)


def tell(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Tell what has happened, and forget it."""
    body = json.dumps(seen).encode()
    seen.clear()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


# The request.

METHODS = {
    "wsgi.input": ("read", "readline", "readlines", "__iter__"),
    "wsgi.errors": ("flush", "write", "writelines"),
}


def shown(key: str, value: Any) -> str:
    if key in METHODS:
        return f"has {[name for name in METHODS[key] if callable(getattr(value, name, None))]}"
    if key == "gunicorn.socket":
        return f"of {value.getsockname()[0]}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if callable(value):
        return "callable"
    return repr(value) if type(value) is str else f"{type(value).__name__} {value!r}"


def dump(environ: Environ, start: StartResponse) -> list[bytes]:
    """Answer with the environ, without what differs by its nature."""
    known = {
        key: shown(key, value)
        for key, value in environ.items()
        if key not in ("REMOTE_PORT", "SERVER_PORT") and not key.startswith("aiopyramid")
    }
    body = json.dumps(known, sort_keys=True, indent=1).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def reading(read: Callable[[Any], Any]) -> Answer:
    """Answer with what ``read`` gets of the body."""

    def answer(environ: Environ, start: StartResponse) -> list[bytes]:
        body = repr(read(environ["wsgi.input"])).encode()
        start("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def read_pieces(body: Any) -> list[bytes]:
    return list(iter(lambda: body.read(3), b""))


def read_short_lines(body: Any) -> list[bytes]:
    return list(iter(lambda: body.readline(3), b""))


def read_mixed(body: Any) -> list[Any]:
    return [
        body.read(0),
        body.readline(),
        body.read(2),
        body.readlines(),
        body.read(),
        body.read(1),
    ]


def read_and_catch(body: Any) -> Any:
    # Which errors these are is the servers' own affair.
    try:
        return body.read()
    except Exception:
        seen.append("the body is broken")
        return "broken"


def read_late(environ: Environ, start: StartResponse) -> Iterator[bytes]:
    start("200 OK", TEXT)
    yield b"first "
    yield environ["wsgi.input"].read()


def ignore(environ: Environ, start: StartResponse) -> list[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", "7")])
    return [b"ignored"]


# The response.


class Closing:
    """An app_iter that tells when it is closed."""

    def __init__(self, chunks: Iterable[bytes], fails: bool = False) -> None:
        self.chunks = chunks
        self.fails = fails

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        seen.append("closed")
        if self.fails:
            raise RuntimeError("close() fails")


class ClosingFile(io.BytesIO):
    """A file without a number, which tells when it is closed."""

    def close(self) -> None:
        if not self.closed:
            seen.append("file closed")
        super().close()


def streaming(*chunks: Any, headers: Any = TEXT, error: Exception | None = None) -> Answer:
    """Stream ``chunks``, and raise ``error`` behind them."""

    def stream() -> Iterator[Any]:
        yield from chunks
        if error is not None:
            raise error

    def answer(environ: Environ, start: StartResponse) -> Closing:
        start("200 OK", headers)
        return Closing(stream())

    return answer


def with_length(length: Any, *chunks: bytes) -> Answer:
    return streaming(*chunks, headers=[*TEXT, ("Content-Length", length)])


def listed(status: str, *headers: tuple[str, str], body: Any = (b"body",)) -> Answer:
    def answer(environ: Environ, start: StartResponse) -> list[bytes]:
        start(status, list(headers))
        return list(body)

    return answer


def write(environ: Environ, start: StartResponse) -> list[bytes]:
    writes = start("200 OK", TEXT)
    writes(b"written, ")
    writes(b"")
    writes(b"twice")
    return []


def write_and_return(environ: Environ, start: StartResponse) -> Iterable[bytes]:
    writes = start("200 OK", [*TEXT, ("Content-Length", "21")])
    writes(b"written, ")
    return iter([b"and ", b"", b"returned"])


def write_text(environ: Environ, start: StartResponse) -> list[bytes]:
    start("200 OK", TEXT)("text")  # type: ignore[arg-type]
    return []


def start_late(environ: Environ, start: StartResponse) -> Iterator[bytes]:
    start("202 Late", TEXT)
    yield b"started with the first chunk"


def never(environ: Environ, start: StartResponse) -> list[bytes]:
    return [b"body"]


def never_and_nothing(environ: Environ, start: StartResponse) -> list[bytes]:
    return []


def twice(environ: Environ, start: StartResponse) -> list[bytes]:
    start("200 OK", TEXT)
    start("201 Created", TEXT)
    return [b"body"]


def replace(environ: Environ, start: StartResponse, begin: bool = False) -> list[bytes]:
    writes = start("200 OK", [*TEXT, ("X-First", "yes"), ("Content-Length", "5")])
    if begin:
        writes(b"b")
    try:
        raise RuntimeError("replaced")
    except RuntimeError:
        start("503 Sorry", [("X-Second", "yes")], sys.exc_info())
    return [b"second"]


def replace_begun(environ: Environ, start: StartResponse) -> list[bytes]:
    return replace(environ, start, begin=True)


def raising(error: Exception, then: str = "") -> Answer:
    def answer(environ: Environ, start: StartResponse) -> list[bytes]:
        if then:
            start("200 OK", TEXT)
        if then == "write":
            start("200 OK", TEXT, (None, None, None))(b"written")
        raise error

    return answer


def close_fails(environ: Environ, start: StartResponse) -> Closing:
    start("200 OK", [*TEXT, ("Content-Length", "4")])
    return Closing([b"body"], fails=True)


def temporary_file(content: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(content)
    file.seek(0)
    return file


def sending(offset: int = 0, content: bytes = FILE, length: int | None = None) -> Answer:
    """Send a real file by wsgi.file_wrapper."""

    def answer(environ: Environ, start: StartResponse) -> Any:
        file = temporary_file(content)
        file.seek(offset)
        start("200 OK", TEXT if length is None else [*TEXT, ("Content-Length", str(length))])
        return environ["wsgi.file_wrapper"](file)

    return answer


def file_without_number(environ: Environ, start: StartResponse) -> Any:
    start("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](ClosingFile(FILE), 1000)


def file_iterated(environ: Environ, start: StartResponse) -> Iterator[bytes]:
    start("200 OK", TEXT)
    yield from environ["wsgi.file_wrapper"](temporary_file(FILE[:30]), 10)


def file_then_replaced(environ: Environ, start: StartResponse) -> Any:
    start("304 Not Modified", [("ETag", '"1"')])
    return environ["wsgi.file_wrapper"](temporary_file(FILE))


LINK = ("Link", "</style.css>; rel=preload")


def hinting(*headers: tuple[Any, Any], times: int = 1) -> Answer:
    def answer(environ: Environ, start: StartResponse) -> list[bytes]:
        for _ in range(times):
            environ["wsgi.early_hints"](list(headers))
        start("200 OK", [*TEXT, ("Content-Length", "6")])
        return [b"hinted"]

    return answer


def hint_late(environ: Environ, start: StartResponse) -> Iterator[bytes]:
    start("200 OK", TEXT)
    environ["wsgi.early_hints"]([LINK])
    yield b"hinted, "
    environ["wsgi.early_hints"]([LINK])
    yield b"too late"


ANSWERS: dict[str, Answer] = {
    "read": reading(lambda body: body.read()),
    "read_minus": reading(lambda body: body.read(-1)),
    "read_pieces": reading(read_pieces),
    "read_line": reading(lambda body: body.readline()),
    "read_lines": reading(lambda body: body.readlines()),
    "read_short_lines": reading(read_short_lines),
    "iterate": reading(list),
    "read_mixed": reading(read_mixed),
    "read_part": reading(lambda body: body.read(3)),
    "read_more": reading(lambda body: body.read(1000)),
    "read_and_catch": reading(read_and_catch),
    "read_late": read_late,
    "ignore": ignore,
    "list": listed("200 OK", *TEXT),
    "list_long": listed("200 OK", *TEXT, body=[b"x" * 1000] * 300),
    "list_empty": listed("200 OK", *TEXT, body=[]),
    "list_blank": listed("200 OK", *TEXT, body=[b""]),
    "list_length_0": listed("200 OK", ("Content-Length", "0"), body=[]),
    "list_length": listed("200 OK", ("Content-Length", "8"), body=[b"in ", b"", b"parts"]),
    "list_length_more": listed("200 OK", ("Content-Length", "20")),
    "list_length_less": listed("200 OK", ("Content-Length", "2")),
    "generator": streaming(b"one, ", b"two, ", b"three"),
    "generator_empty": streaming(),
    "generator_blanks": streaming(b"", b"one, ", b"", b"", b"two", b""),
    "generator_only_blanks": streaming(b"", b""),
    "generator_long": streaming(*[b"x" * 10_000] * 50),
    "length": with_length("8", b"one, ", b"two"),
    "length_more": with_length("20", b"one, ", b"two"),
    "length_less": with_length("6", b"one, ", b"two", b"three"),
    "length_0": with_length("0", b"one"),
    "length_text": with_length("eight", b"one, ", b"two"),
    "length_negative": with_length("-1", b"one, ", b"two"),
    "length_plus": with_length("+8", b"one, ", b"two"),
    "length_spaces": with_length(" 8 ", b"one, ", b"two"),
    "length_underscore": with_length("0_8", b"one, ", b"two"),
    "length_twice": streaming(b"body", headers=[("Content-Length", "4")] * 2),
    "length_two": streaming(b"body", headers=[("Content-Length", "4"), ("Content-Length", "2")]),
    "length_lower": streaming(b"body", headers=[("content-length", "4")]),
    "no_content": listed("204 No Content", *TEXT),
    "no_content_length": listed("204 No Content", ("Content-Length", "4")),
    "no_content_empty": listed("204 No Content", body=[]),
    "reset_content": listed("205 Reset Content", ("Content-Length", "0"), body=[]),
    "not_modified": listed("304 Not Modified", ("ETag", '"1"')),
    "not_modified_length": listed("304 Not Modified", ("Content-Length", "4")),
    "processing": listed("102 Processing", ("Content-Length", "4")),
    "write": write,
    "write_and_return": write_and_return,
    "write_text": write_text,
    "start_late": start_late,
    "never": never,
    "never_and_nothing": never_and_nothing,
    "twice": twice,
    "replace": replace,
    "replace_begun": replace_begun,
    "raise": raising(RuntimeError("raised")),
    "raise_os": raising(OSError("raised")),
    "raise_pipe": raising(BrokenPipeError(32, "raised")),
    "raise_timeout": raising(TimeoutError("raised")),
    "raise_stop": raising(StopIteration("raised")),
    "raise_value": raising(ValueError("raised")),
    "raise_started": raising(RuntimeError("raised"), then="start"),
    "raise_started_os": raising(OSError("raised"), then="start"),
    "stream_raises_first": streaming(error=RuntimeError("raised")),
    "stream_raises": streaming(b"one, ", error=RuntimeError("raised")),
    "stream_raises_os": streaming(b"one, ", error=OSError("raised")),
    "stream_raises_length": streaming(
        b"one, ", headers=[("Content-Length", "8")], error=RuntimeError("raised")
    ),
    "stream_raises_complete": streaming(
        b"one, ", headers=[("Content-Length", "5")], error=RuntimeError("raised")
    ),
    "stream_text": streaming(b"one, ", "two"),
    "stream_text_first": streaming("one"),
    "stream_none": streaming(None),
    "stream_bytearray": streaming(bytearray(b"one")),
    "stream_memoryview": streaming(memoryview(b"one")),
    "close_fails": close_fails,
    "file": sending(),
    "file_length": sending(length=len(FILE)),
    "file_length_more": sending(content=FILE[:32], length=42),
    "file_length_less": sending(length=100),
    "file_offset": sending(offset=100),
    "file_offset_length": sending(offset=100, length=50),
    "file_at_its_end": sending(offset=len(FILE)),
    "file_empty": sending(content=b""),
    "file_empty_length": sending(content=b"", length=0),
    "file_without_number": file_without_number,
    "file_iterated": file_iterated,
    "file_not_modified": file_then_replaced,
    "hints": hinting(LINK),
    "hints_two": hinting(LINK, ("Link", "  </script.js>; rel=preload "), times=2),
    "hints_bytes": hinting((b"Link", b"</style.css>")),
    "hints_none": hinting(),
    "hints_bad_name": hinting(("Li nk", "x")),
    "hints_bad_value": hinting(("Link", "x\r\nSet-Cookie: stolen")),
    "hints_late": hint_late,
    "end": listed("200 OK", ("Content-Length", "3"), body=[b"end"]),
}

STATUSES: dict[str, Any] = {
    "status_phrase": "200 All Fine",
    "status_phrase_other": "404 Nothing Here",
    "status_phrase_empty": "200 ",
    "status_phrase_none": "200",
    "status_phrase_latin": "200 D\xe9j\xe0 vu",
    "status_phrase_tab": "200 All\tFine",
    "status_phrase_spaces": "200  All  Fine ",
    "status_phrase_bad": "200 OK\r\nX-Injected: yes",
    "status_phrase_unicode": "200 \u20ac",
    "status_text": "OK",
    "status_empty": "",
    "status_int": 200,
    "status_bytes": b"200 OK",
    "status_long": "2000 OK",
    "status_short": "20 OK",
    "status_unknown": "299 Odd",
    "status_600": "600 Beyond",
    "status_999": "999 Last",
    "status_000": "000 None",
    "status_099": "099 Below",
    "status_421": "421 Misdirected Request",
    "status_unicode": "\u0662\u0660\u0660 OK",
}

HEADERS: dict[str, Any] = {
    "hop_connection_close": [("Connection", "close")],
    "hop_connection_keep": [("Connection", "keep-alive")],
    "hop_connection_other": [("Connection", "X-Hop"), ("X-Hop", "1")],
    "hop_connection_upgrade": [("Connection", "upgrade"), ("Content-Length", "4")],
    "hop_keep_alive": [("Keep-Alive", "timeout=5")],
    "hop_transfer": [("Transfer-Encoding", "chunked")],
    "hop_transfer_length": [("Transfer-Encoding", "gzip"), ("Content-Length", "4")],
    "hop_te": [("TE", "trailers"), ("Trailers", "X-End"), ("Trailer", "X-End")],
    "hop_upgrade": [("Upgrade", "h2c")],
    "hop_upgrade_websocket": [("Upgrade", "websocket")],
    "hop_proxy": [("Proxy-Authenticate", "Basic"), ("Proxy-Authorization", "x")],
    "own_server": [("Server", "mine")],
    "own_date": [("Date", "Thu, 01 Jan 1970 00:00:00 GMT")],
    "duplicates": [("X-Two", "1"), ("x-two", "2"), ("X-TWO", "1")],
    "cookies": [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/"), ("set-cookie", "c=3")],
    "latin": [("X-Latin", "d\xe9j\xe0")],
    "unicode": [("X-Unicode", "\u20ac")],
    "value_spaces": [("X-Spaces", " \ta  b\t ")],
    "value_empty": [("X-Empty", "")],
    "value_newline": [("X-Bad", "a\r\nSet-Cookie: stolen")],
    "value_line_feed": [("X-Bad", "a\nb")],
    "value_nul": [("X-Bad", "a\0b")],
    "value_delete": [("X-Bad", "a\x7fb")],
    "value_last_newline": [("X-Bad", "a\n")],
    "value_bytes": [("X-Bad", b"a")],
    "value_int": [("X-Bad", 1)],
    "value_none": [("X-Bad", None)],
    "name_space": [("X Bad", "a")],
    "name_colon": [("X-Bad:", "a")],
    "name_empty": [("", "a")],
    "name_newline": [("X-Bad\r\nX-Injected", "a")],
    "name_unicode": [("X-B\xe4d", "a")],
    "name_bytes": [(b"X-Bad", "a")],
    "name_underscore": [("X_Odd", "a")],
    "headers_tuple": (("X-Tuple", "a"),),
    "headers_three": [("X-Three", "a", "b")],
    "headers_none": None,
    "long": [("X-Long", "x" * 20_000)],
    "many": [(f"X-{n}", "x") for n in range(200)],
}

BODIES: dict[str, Callable[[], Any]] = {
    "body_none": lambda: None,
    "body_int": lambda: 1,
    "body_text": lambda: "text",
    "body_bytes": lambda: b"bytes",
    "body_tuple": lambda: (b"one, ", b"two"),
    "body_list_of_text": lambda: ["text"],
    "body_list_of_two": lambda: [b"bytes, ", "text"],
    "body_list_of_bytearray": lambda: [bytearray(b"one")],
    "body_iterator": lambda: iter([b"one, ", b"two"]),
    "body_set": lambda: {b"one"},
    "body_closing": lambda: Closing([b"one, ", b"two"]),
    "body_closing_fails": lambda: Closing([b"one, ", b"two"], fails=True),
    "body_bytesio": lambda: ClosingFile(b"one\ntwo\n"),
}
