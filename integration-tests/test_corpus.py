"""The corpus of raw requests: our workers answer them as gunicorn's own threads do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from corpus import (
    BAD_CHUNKS,
    CLOSED,
    ENDLESS_CHUNKS,
    GROUPS,
    HUGE_LENGTHS,
    RESET,
    Entry,
    Group,
    exchange,
    seen,
)
from harness import VARIANTS, Server
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import SERVERS

APP = "apps.corpus:app"
OURS = ["gunicorn-uvloop", "gunicorn-asyncio", "gunicorn-loop"]
CONTROL = "gthread"
THREADS = SERVERS[CONTROL]["args"]

Lines = list[str]


@dataclass(frozen=True)
class Difference:
    """
    Why an entry is answered in another way than by gunicorn's threads, and how.

    Args:
        reason: For users.
        change: Makes of the control's answer what ours is.
        always: If False, the control's answer may come as well.
    """

    reason: str
    change: Callable[[Lines], Lines]
    always: bool = True


SERVER_ERROR = [
    "HTTP/1.1 500 Internal Server Error",
    "  Connection: close",
    "  Content-Length: 141",
    "  Content-Type: text/html",
    "  | <html>",
    "  |   <head>",
    "  |     <title>Internal Server Error</title>",
    "  |   </head>",
    "  |   <body>",
    "  |     <h1><p>Internal Server Error</p></h1>",
    "  |     ",
    "  |   </body>",
    "  | </html>",
    "  | ",
    "  complete",
]


def seen_in(lines: Lines) -> Lines:
    return [line for line in lines if line.startswith("app: ")]


def without_continue(lines: Lines) -> Lines:
    return [line for line in lines if line != "HTTP/1.1 100 Continue"]


def server_error_in_place_of_nothing(lines: Lines) -> Lines:
    return [*SERVER_ERROR, *lines]


def server_error_at_last(lines: Lines) -> Lines:
    last = max(n for n, line in enumerate(lines) if line.startswith("HTTP/"))
    if lines[last] == "HTTP/1.1 400 Bad Request":
        return lines  # only the Python parser takes any number
    return [*lines[:last], *SERVER_ERROR, CLOSED, *seen_in(lines)]


def server_error_in_place_of_all(lines: Lines) -> Lines:
    seen = [line for line in seen_in(lines) if "/end" not in line]
    return [*SERVER_ERROR, CLOSED, *seen]


def reset(lines: Lines) -> Lines:
    return [RESET if line == CLOSED else line for line in lines]


def no_second_answer(lines: Lines) -> Lines:
    heads = [n for n, line in enumerate(lines) if line.startswith("HTTP/")]
    return [*lines[: heads[1]], CLOSED, *seen_in(lines)]


def the_same_for_all(lines: Lines) -> Lines:
    heads = [n for n, line in enumerate(lines) if line.startswith("HTTP/")]
    return [*lines[: heads[1]], *lines[: heads[1]], *lines[heads[2] :]]


def broken_body(lines: Lines) -> Lines:
    lines = [line.replace("Length: 5", "Length: 8").replace("b'he'", "'broken'") for line in lines]
    return [*lines, "app: the body is broken"]


def closed_behind_too_little(lines: Lines) -> Lines:
    """Cut off what was taken for the rest of the body, and the requests behind it."""
    place = next(n for n, line in enumerate(lines) if "HTTP/" in line.partition("  | ")[2])
    seen = seen_in(lines)
    last = next(n for n, line in enumerate(seen) if "_more" in line)
    while seen[last + 1].endswith("closed"):
        last += 1
    body = lines[place].partition("HTTP/")[0]
    return [*lines[:place], body, "  not complete", CLOSED, *seen[: last + 1]]


def without_details(lines: Lines) -> Lines:
    """
    Leave out what the pages of 400 say.

    The parser's words for one fault depend on how much of the next line it has, and the network
    may join pieces again.
    """
    kept, bad = [], False
    for line in lines:
        if line.startswith("HTTP/"):
            bad = line == "HTTP/1.1 400 Bad Request"
        if not bad or not line.startswith(("  Content-Length: ", "  |     ")):
            kept.append(line)
    return kept


LATE_CONTINUE = (
    "100 Continue is sent when the application first waits for the body: a client is not asked "
    "to send what nobody reads."
)
ERRORS = (
    "Each exception of the application is answered with 500, an OSError and a StopIteration as "
    "well; gunicorn's threads close the connection without an answer."
)
TRUNCATED = (
    "A body that ends before its Content-Length is an error when it is read; with gunicorn's "
    "threads, the application takes it for the whole body."
)
TOO_LITTLE = (
    "Behind a body that is shorter than its Content-Length the connection is closed; gunicorn's "
    "threads keep it, and the client takes the next answer for the rest of the body."
)
BROKEN = (
    "If the application fails in the middle of a body that the end of the connection ends, the "
    "connection is reset: the client does not take what it has for the whole."
)
UNREAD = (
    "If a body that the application has not read turns out to be bad, the connection is closed; "
    "gunicorn's threads send a second answer to the same request."
)
BEGUN = (
    "If the application fails after start_response, and nothing of the response has been sent, "
    "it is answered with 500; gunicorn's threads send the beginning of the other response."
)
PROXY = (
    "What the PROXY protocol says is true for all requests of the connection; gunicorn's threads "
    "take the proxy for the client of all but the first."
)

# By the names of entries.
EXCEPTIONS: dict[str, Difference] = {
    **dict.fromkeys(
        [
            *(f"field expect {name}" for name in ("without body", "upper", "twice")),
            *(f"expect {path} 0 on 1.1, sent at once" for path in ("read", "ignore", "read_part")),
            "expect read_late 0 on 1.1, sent at once",
            "expect raise 0 on 1.1, sent at once",
            "expect raise 5 on 1.1, sent at once",
            "expect raise 5 on 1.1, waited for",
            "expect ignore 5 on 1.1, sent at once",
            "expect ignore 5 on 1.1, waited for",
            "expect read_late 5 on 1.1, waited for",
        ],
        Difference(LATE_CONTINUE, without_continue),
    ),
    **dict.fromkeys(
        [
            "expect read 5 on 1.1, sent at once",
            "expect read_part 5 on 1.1, sent at once",
            "expect read_late 5 on 1.1, sent at once",
            "expect chunked, sent at once",
            "expect on 2.0",
        ],
        # The body may have come already.
        Difference(LATE_CONTINUE, without_continue, always=False),
    ),
    **dict.fromkeys(
        [
            f"application {path}{how}"
            for path in (
                "raise_os",
                "raise_pipe",
                "raise_timeout",
                "raise_stop",
                "raise_started_os",
            )
            for how in ("", " on 1.0", " for HEAD")
        ]
        + [f"half-closed: chunks, {name}" for name in ("none", "size", "half", "no end")]
        + ["half-closed: chunks, a part read"]
        + [f"chunks {name}" for name in ENDLESS_CHUNKS],
        Difference(ERRORS, server_error_in_place_of_nothing),
    ),
    **dict.fromkeys(
        [
            *(f"half-closed: length, {name}" for name in ("no body", "half a body", "in pieces")),
            "half-closed: length, lines",
            "half-closed: length, a part read",
            "half-closed: length, on 1.0",
            "half-closed: two, the second without its body",
        ],
        Difference(TRUNCATED, server_error_at_last),
    ),
    **dict.fromkeys(
        [f"read length {length}" for length in HUGE_LENGTHS],
        Difference(TRUNCATED, server_error_at_last, always=False),
    ),
    **dict.fromkeys(
        [
            *(f"application stream_{name} on 1.0" for name in ("raises", "raises_os", "text")),
            *(f"application stream_{name} on 1.0" for name in ("none", "bytearray", "memoryview")),
            *(f"application {name} on 1.0" for name in ("stream_text_first", "write_text")),
            *(f"application body_{name} on 1.0" for name in ("text", "bytes", "list_of_text")),
            *(f"application body_list_of_{name} on 1.0" for name in ("two", "bytearray")),
            "application body_closing_fails on 1.0",
        ],
        Difference(BROKEN, reset),
    ),
    **dict.fromkeys(
        [
            f"application {name}{how}"
            for name in (
                "replace_begun",
                "write_text",
                *(f"stream_{name}" for name in ("text_first", "none", "bytearray", "memoryview")),
                *(f"body_{name}" for name in ("text", "bytes", "list_of_text", "list_of_two")),
                "body_list_of_bytearray",
            )
            for how in ("", " on 1.0", " for HEAD")
        ]
        + [
            f"application {name}{how}"
            for name in ("never", "never_and_nothing")
            for how in (" on 1.0", " for HEAD")
        ],
        Difference(BEGUN, server_error_in_place_of_all),
    ),
    **dict.fromkeys(
        [
            *(f"chunks {name}, ignore" for name in BAD_CHUNKS),
            "chunks extension too long, ignore",
            *(f"pipeline behind a bad {name}, ignore" for name in ("chunk", "size")),
        ],
        Difference(UNREAD, no_second_answer),
    ),
    "proxy line, a pipeline": Difference(PROXY, the_same_for_all),
    "half-closed: length, caught": Difference(TRUNCATED, broken_body),
    **dict.fromkeys(
        [
            *(f"application {name}" for name in ("list_length_more", "length_more")),
            *(f"application length_more{how}" for how in (" on 1.0, kept", " for POST, unread")),
            "application file_length_more",
            "pipeline with too little",
        ],
        Difference(TOO_LITTLE, closed_behind_too_little),
    ),
}

# Longer ones are only cut at random: a parser may begin anew with each byte.
SHORT = 300
# A server that does not answer at all needs no more proof.
TIMEOUTS = 3

Cut = Callable[[Entry], tuple[bytes, ...]]


def whole(entry: Entry) -> tuple[bytes, ...]:
    return entry.pieces


def in_bytes(entry: Entry) -> tuple[bytes, ...]:
    return tuple(entry.whole[n : n + 1] for n in range(len(entry.whole)))


@dataclass
class Servers:
    """The servers of a group, and what the control has answered."""

    group: Group
    servers: dict[str, Server]
    known: dict[tuple[bool, tuple[bytes, ...]], Lines] = field(default_factory=dict)

    def result(
        self, name: str, entry: Entry, pieces: tuple[bytes, ...], like: Lines | None = None
    ) -> Lines:
        """Return all that a server makes of an entry; ``like`` is what it should be."""
        server = self.servers[name]
        expected = None if like is None else [line[5:] for line in seen_in(like)]
        try:
            lines = exchange(server, pieces, entry.half_close)
        finally:
            saw = seen(server, self.group.prefix, expected)
        return [*lines, *(f"app: {line}" for line in saw)]

    def control(self, entry: Entry, pieces: tuple[bytes, ...]) -> Lines:
        key = entry.half_close, pieces
        if key not in self.known:
            self.known[key] = self.result(CONTROL, entry, pieces)
        return self.known[key]

    def difference(self, name: str, entry: Entry, pieces: tuple[bytes, ...]) -> str:
        """Tell how a server differs from what it should answer; nothing if it does not."""
        like = self.control(entry, pieces)
        expected = like
        exception = EXCEPTIONS.get(entry.name)
        if exception is not None:
            expected = exception.change(like)
            if exception.always and expected == like:
                return f"gunicorn's threads do not differ any more: {exception.reason}"
        got = self.result(name, entry, pieces, expected)
        if pieces != entry.pieces:
            like, expected, got = (without_details(lines) for lines in (like, expected, got))
        if exception is not None and not exception.always and got == like:
            return ""
        diff = difflib.unified_diff(expected, got, CONTROL, name, n=100, lineterm="")
        return "\n".join(diff)


@pytest.fixture(scope="module", params=list(GROUPS))
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """The control and ours, with the options of a group."""
    group = GROUPS[request.param]
    folder = tmp_path_factory.mktemp("corpus")
    started = {CONTROL: Server(folder / "control.log", worker=CONTROL)}
    args = {CONTROL: [*THREADS, *group.args]}
    for name in OURS:
        kind, own = VARIANTS[name]
        started[name] = kind(folder / f"{name}.log")
        args[name] = [*own, *THREADS, *group.args]
    try:
        for name, server in started.items():
            server.up = f"{group.prefix}/up"
            server.launch(app=APP, args=args[name])
        for server in started.values():
            server.wait_until_up()
        for server in started.values():
            seen(server, group.prefix, None)
        yield Servers(group, started)
    finally:
        for server in started.values():
            server.stop()


@pytest.mark.parametrize("cut", [whole, in_bytes])
@pytest.mark.parametrize("name", OURS)
def test_entries_are_answered_as_by_gunicorns_threads(
    servers: Servers, name: str, cut: Cut
) -> None:
    different, timeouts = [], 0
    for entry in servers.group.entries:
        if cut is in_bytes and not (entry.can_be_cut and len(entry.whole) <= SHORT):
            continue
        try:
            difference = servers.difference(name, entry, cut(entry))
        except TimeoutError as exc:
            difference = f"no end: {exc}"
            timeouts += 1
        if difference:
            different.append(f"{entry.name}: {entry.data!r:.300}\n{difference}")
        if timeouts == TIMEOUTS:
            break
    assert not different, f"{len(different)} differ:\n\n" + "\n\n".join(different)


@pytest.mark.parametrize("servers", ["default", "python parser"], indirect=True)
@pytest.mark.parametrize("name", OURS)
def test_it_does_not_matter_where_entries_are_cut(servers: Servers, name: str) -> None:
    entries = [entry for entry in servers.group.entries if entry.can_be_cut and entry.whole]

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.sampled_from(entries), st.lists(st.floats(0, 1, exclude_max=True), max_size=4))
    def check(entry: Entry, cuts: list[float]) -> None:
        data = entry.whole
        places = sorted({int(cut * len(data)) for cut in cuts} - {0})
        pieces = tuple(
            data[start:end] for start, end in zip([0, *places], [*places, None], strict=True)
        )
        difference = servers.difference(name, entry, pieces)
        assert not difference, f"{entry.name} in {pieces!r}\n{difference}"

    check()
