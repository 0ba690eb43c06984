"""Publishes to groups, and counts what arrives: what a delivery takes, and how long."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import peers
import report
from measure import PATIENCE, Sample, Server, median, ratio
from peers import HERE, UPGRADES, Environment, Peer, own_gunicorn, own_uwsgi
from tables import Table
from ticker import QUESTION
from websocket_load import CLOSE, MASK, ask, check_accepted, frame


@dataclass(frozen=True)
class FanOutSample(Sample):
    """What one server delivered in one round."""

    latencies: tuple[float, ...]  # from publishing until the last member has it, in seconds
    late: float  # how late a timer of the server was at most, in seconds
    busy: float  # the same, without what other programs took
    smallest: float  # share of the members of the worker that has the fewest


def _read_text(server: Server, sock: socket.socket, data: bytes = b"") -> bytes:
    while len(data) < 2 or len(data) < 2 + data[1]:
        more = sock.recv(4096)
        if not more:
            raise server.failed(f"no answer, but {data!r}")
        data += more
    if data[0] != 0x81 or len(data) != 2 + data[1]:
        raise server.failed(f"wrong answer {data[:100]!r}")
    return data[2:]


def _shake(server: Server, sock: socket.socket) -> bytes:
    """Read the answer to a handshake, and return what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            break
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    check_accepted(server, head + b"\r\n\r\n")
    return rest


@contextlib.contextmanager
def _joined(server: Server, number: int) -> Iterator[tuple[list[socket.socket], Counter[bytes]]]:
    """Let members join, a few at a time; how many each worker has is counted."""
    sockets: list[socket.socket] = []
    workers: Counter[bytes] = Counter()
    while len(sockets) < number:
        some = [ask(server) for _ in range(min(50, number - len(sockets)))]
        for sock in some:
            text = _read_text(server, sock, _shake(server, sock))
            if not text.startswith(b"joined "):
                raise server.failed(f"has not joined, but said {text!r}")
            workers[text] += 1
        sockets += some
    yield sockets, workers
    for sock in sockets:
        sock.sendall(CLOSE)
        sock.shutdown(socket.SHUT_WR)
    for sock in sockets:
        with sock:
            while sock.recv(1 << 16):
                pass


@contextlib.contextmanager
def _publisher(server: Server) -> Iterator[socket.socket]:
    with ask(server, "/publisher") as sock:
        if rest := _shake(server, sock):
            raise server.failed(f"greets the publisher with {rest!r}")
        yield sock
        sock.sendall(CLOSE)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


def _ticks(server: Server, sock: socket.socket) -> dict[str, float]:
    sock.sendall(frame(0x81, QUESTION.encode(), MASK))
    answer: dict[str, float] = json.loads(_read_text(server, sock))
    return answer


def fan_out(
    server: Server, seconds: int, *, members: int = 1000, size: int = 100, burst: int = 1
) -> FanOutSample:
    """
    Publish to a group, over and over: the next when all members have got the last.

    Args:
        server: The server.
        seconds: How long; at least once.
        members: How many members the group has.
        size: Bytes of a message.
        burst: Messages that are published at a time.
    """
    published = frame(0x81, b"x" * size, MASK) * burst
    expected = frame(0x81, b"x" * size) * burst
    total, limit = len(expected), len(expected) + 1
    with (
        _joined(server, members) as (sockets, workers),
        _publisher(server) as publisher,
        select.epoll() as poll,
    ):
        receive = {sock.fileno(): sock.recv for sock in sockets}
        offsets = dict.fromkeys(receive, 0)  # how much has come where not all has
        for fd in receive:
            poll.register(fd, select.EPOLLIN)

        def publish() -> float:
            """Publish, wait for the last member, and return how long that took."""
            left = members
            start = time.perf_counter()
            publisher.sendall(published)
            while left:
                events = poll.poll(PATIENCE, members)
                if not events:
                    raise server.failed(f"{left} of {members} members have not got everything")
                for fd, _ in events:
                    data = receive[fd](limit)
                    if data == expected:
                        left -= 1
                        continue
                    offset = offsets[fd]
                    end = offset + len(data)
                    if not data or data != expected[offset:end]:
                        raise server.failed(f"delivers {data[:100]!r}")
                    left -= end == total
                    offsets[fd] = end % total
            return time.perf_counter() - start

        time.sleep(0.2)  # subscriptions at a broker, which some do not wait for
        publish()
        _ticks(server, publisher)
        before, begin, used = server.cpu(), time.monotonic(), time.process_time()
        latencies: list[float] = []
        while (elapsed := time.monotonic() - begin) < seconds or not latencies:
            latencies.append(publish())
        spent, client = server.cpu() - before, time.process_time() - used
        ticks = _ticks(server, publisher)
        if poll.poll(0.05):
            raise server.failed("delivers more than was published")
    work = len(latencies) * members * burst
    smallest = min(workers.values()) / members if len(workers) > 1 else 0.0
    return FanOutSample(
        work, spent, client, elapsed, tuple(latencies), ticks["late"], ticks["busy"], smallest
    )


# The servers.

STARLETTE = Environment("starlette", (*peers.UVICORN.requirements, "starlette"))
LITESTAR = Environment("litestar", (*peers.UVICORN.requirements, "litestar", "redis"))
CHANNELS = Environment(
    "channels", (*peers.UVICORN.requirements, "channels", "channels_redis", "django")
)


def _uvicorn(label: str, environment: Environment, application: str, workers: int = 1) -> Peer:
    # The ASGI servers differ little from each other, next to what runs in them.
    args = ["--ws", "websockets-sansio", "--ws-per-message-deflate", "false"]
    args += ["--ws-ping-interval", "3600", "--workers", str(workers)]
    args += ["--lifespan", "on" if environment is LITESTAR else "off", "--factory"]
    args.append(f"fan_out_applications:{application}")
    return peers.uvicorn(label, environment, "/member", *args)


WEBSOCKETS = Peer(
    "websockets.broadcast",
    peers.WEBSOCKETS,
    ("{bin}/python", str(HERE / "fan_out_applications.py"), "{port}"),
    "/member",
)
OWN = own_gunicorn("aiopyramid, gunicorn", "/member")
CHANNELS_IN_MEMORY = _uvicorn("Django Channels", CHANNELS, "channels_memory")
IN_ONE_PROCESS = (
    WEBSOCKETS,
    _uvicorn("Starlette, a loop", STARLETTE, "starlette"),
    _uvicorn("Litestar channels", LITESTAR, "litestar_memory"),
    OWN,
    own_uwsgi("aiopyramid, uWSGI", "/member", UPGRADES),
)
BY_REDIS = (
    _uvicorn("Django Channels", CHANNELS, "channels_redis", 2),
    _uvicorn("Django Channels, pub/sub", CHANNELS, "channels_pubsub", 2),
    _uvicorn("Litestar channels", LITESTAR, "litestar_redis", 2),
    own_gunicorn("aiopyramid, gunicorn", "/member", app="application:by_redis()", workers=2),
)


def _table(name: str, title: str, served: tuple[Peer, ...], **load: int) -> Table:
    return Table("fan-out", f"fan-out-{name}", title, "delivery", served, partial(fan_out, **load))


# Channels takes long: for one message to 10,000 members, more than all others for all of theirs.
TABLES = (
    _table("1k", "1,000 members, 100 bytes", (*IN_ONE_PROCESS, CHANNELS_IN_MEMORY)),
    _table("1k-1k", "1,000 members, 1 KiB", IN_ONE_PROCESS, size=1024),
    _table("burst", "1,000 members, 16 messages of 100 bytes at a time", IN_ONE_PROCESS, burst=16),
    _table("10k", "10,000 members, 100 bytes", IN_ONE_PROCESS, members=10_000),
)
REDIS_TABLES = (_table("redis", "Two workers and Redis, 1,000 members, 100 bytes", BY_REDIS),)


def compared(table: Table, results: list[list[Any]]) -> report.Part:
    """Make the table of the results."""
    heads = ["CPU µs", "least-greatest", "per CPU s", "ratio", "last, ms", "99 %, ms", "held, ms"]
    heads += ["server", "client"]
    if table in REDIS_TABLES:
        heads.append("smaller worker")
    rows = []
    for peer, samples in zip(table.peers, results, strict=True):
        each = sorted(sample.micros for sample in samples)
        row = [peer.label, report.number(median(samples))]
        row += [f"{report.number(each[0])}-{report.number(each[-1])}"]
        row += [f"{1e6 / median(samples):,.0f}", f"{ratio(samples, results[0]):.2f}"]
        latencies = sorted(1000 * latency for sample in samples for latency in sample.latencies)
        row += [report.number(statistics.median(latencies))]
        row += [report.number(latencies[math.ceil(0.99 * len(latencies)) - 1])]
        row += [report.number(1000 * median(samples, "busy"))]
        row += [f"{median(samples, what):.0%}" for what in ("server_share", "client_share")]
        if table in REDIS_TABLES:
            row.append(f"{median(samples, 'smallest'):.0%}")
        rows.append(row)
    return ["", *heads], rows


@contextlib.contextmanager
def redis() -> Iterator[bool]:
    """Run Redis on the client's core, where its time does not count; False if there is none."""
    program = shutil.which("redis-server")
    if program is None:
        yield False
        return
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, "--appendonly", "no", "--dir", folder], stdout=subprocess.DEVNULL
        )
        os.environ["BENCHMARK_REDIS"] = f"redis://127.0.0.1:{port}/0"
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise SystemExit("Redis does not answer") from None
                    time.sleep(0.05)
            yield True
        finally:
            process.terminate()
            process.wait(PATIENCE)
