"""What is compared: the servers and the loads of each table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import peers
from http_load import requests
from measure import Cell, Load
from peers import CLOSES, UPGRADES, Peer, gunicorn, own_gunicorn, own_uwsgi, uwsgi
from websocket_load import echo, handshakes

LOOP = "LoopGunicornWorker"


@dataclass(frozen=True)
class Table:
    """Servers under one load; the first server is what the others are compared with."""

    group: str
    name: str
    title: str
    work: str
    peers: tuple[Peer, ...]
    load: Load
    pairs: tuple[tuple[str, str], ...] = ()  # labels that are compared besides


@dataclass(frozen=True)
class Growth:
    """What a unit of work costs each server under several loads."""

    name: str
    title: str
    work: str
    columns: tuple[str, ...]
    rows: dict[str, list[Cell]]


http = Table(
    "http",
    "http",
    "Pyramid view, 64 connections of wrk",
    "request",
    (
        gunicorn("gunicorn gthread", "gthread"),
        gunicorn("gunicorn gevent", "gevent", environment=peers.GEVENT),
        peers.waitress(),
        peers.granian(),
        peers.a2wsgi(),
        own_gunicorn("aiopyramid, gunicorn, plain view", "/plain"),
        own_gunicorn("aiopyramid, gunicorn, coroutine view", "/coroutine"),
        own_gunicorn("aiopyramid, gunicorn loop worker, coroutine view", "/coroutine", LOOP),
        uwsgi("uWSGI, http11-socket"),
        own_uwsgi("aiopyramid, uWSGI, http11-socket, plain view", "/plain"),
        own_uwsgi("aiopyramid, uWSGI, http11-socket, coroutine view", "/coroutine"),
        uwsgi("uWSGI, http-socket", listen=CLOSES),
        own_uwsgi("aiopyramid, uWSGI, http-socket, plain view", "/plain", CLOSES),
        own_uwsgi("aiopyramid, uWSGI, http-socket, coroutine view", "/coroutine", CLOSES),
    ),
    requests,
    (
        ("aiopyramid, uWSGI, http11-socket, plain view", "uWSGI, http11-socket"),
        (
            "aiopyramid, uWSGI, http11-socket, coroutine view",
            "aiopyramid, uWSGI, http11-socket, plain view",
        ),
        ("aiopyramid, uWSGI, http-socket, plain view", "uWSGI, http-socket"),
        (
            "aiopyramid, uWSGI, http-socket, coroutine view",
            "aiopyramid, uWSGI, http-socket, plain view",
        ),
    ),
)

waiting = Table(
    "waiting",
    "waiting",
    "View that waits 50 ms, 64 connections of wrk",
    "request",
    (
        gunicorn("gunicorn gthread, 16 threads, time.sleep", "gthread", "/waiting"),
        gunicorn("gunicorn gthread, 64 threads, time.sleep", "gthread", "/waiting", threads=64),
        own_gunicorn("aiopyramid, gunicorn, 16 threads", "/waiting"),
        own_gunicorn("aiopyramid, gunicorn loop worker", "/waiting", LOOP),
        own_uwsgi("aiopyramid, uWSGI, 16 threads", "/waiting"),
        own_uwsgi("aiopyramid, uWSGI, 64 threads", "/waiting", threads=64),
    ),
    requests,
)

WEBSOCKETS = peers.echo_server("websockets", "websockets", peers.WEBSOCKETS)
PICOWS = peers.echo_server("picows", "picows", peers.PICOWS)
OWN_GUNICORN = own_gunicorn("aiopyramid, gunicorn", "/echo")
OWN_UWSGI = own_uwsgi("aiopyramid, uWSGI", "/echo", UPGRADES)
WEBSOCKET_PEERS = (
    WEBSOCKETS,
    peers.uvicorn_echo(),
    peers.echo_server("aiohttp", "aiohttp", peers.AIOHTTP),
    PICOWS,
    OWN_GUNICORN,
    OWN_UWSGI,
)
BARE = peers.echo_server("bare asyncio.Protocol", "bare", peers.WEBSOCKETS)


def _echo(name: str, what: str, load: Load, *more: Peer) -> Table:
    title = f"WebSocket echo, {what}, 64 connections"
    return Table("echo", name, title, "message", (*WEBSOCKET_PEERS, *more), load)


echoes = (
    _echo("echo-64", "64 bytes, one at a time", echo, BARE),
    _echo("echo-64-in-flight", "64 bytes, 16 in flight", partial(echo, in_flight=16)),
    _echo("echo-1k", "1 KiB, one at a time", partial(echo, size=1024)),
    _echo("echo-64k", "64 KiB, one at a time", partial(echo, size=65536)),
)

handshake = Table(
    "handshake",
    "handshake",
    "WebSocket handshake and close, 64 at a time",
    "handshake",
    WEBSOCKET_PEERS,
    handshakes,
)

TABLES = (http, waiting, *echoes, handshake)

IDLE = (1000, 10000)  # WebSockets whose memory is measured


def _grow(peers: tuple[Peer, ...], loads: list[Load]) -> dict[str, list[Cell]]:
    return {peer.label: [(peer, load) for load in loads] for peer in peers}


def _workers(load: Load, make: Callable[..., Peer], *args: object) -> list[Cell]:
    return [(make(f"{workers} workers", *args, workers=workers), load) for workers in (1, 2)]


CONNECTIONS = (10, 100, 1000)
SIZES = (64, 1024, 16384, 65536, 262144)

GROWTH = (
    Growth(
        "growth-http-connections",
        "Pyramid view, by connections",
        "request",
        tuple(map(str, CONNECTIONS)),
        _grow(
            (http.peers[0], *http.peers[5:8]),
            [partial(requests, connections=number) for number in CONNECTIONS],
        ),
    ),
    Growth(
        "growth-echo-connections",
        "WebSocket echo, 64 bytes, by connections",
        "message",
        tuple(map(str, CONNECTIONS)),
        _grow(
            (WEBSOCKETS, PICOWS, OWN_GUNICORN, OWN_UWSGI),
            [partial(echo, connections=number) for number in CONNECTIONS],
        ),
    ),
    Growth(
        "growth-echo-size",
        "WebSocket echo, 64 connections, by the message's bytes",
        "message",
        tuple(map(str, SIZES)),
        _grow(
            (WEBSOCKETS, PICOWS, OWN_GUNICORN, OWN_UWSGI),
            [partial(echo, size=size) for size in SIZES],
        ),
    ),
    Growth(
        "growth-workers",
        "One worker or two, on the same core",
        "request or message",
        ("1", "2"),
        {
            "gunicorn gthread": _workers(requests, gunicorn, "gthread"),
            "aiopyramid, gunicorn, plain view": _workers(requests, own_gunicorn, "/plain"),
            "aiopyramid, gunicorn, coroutine view": _workers(requests, own_gunicorn, "/coroutine"),
            "aiopyramid, gunicorn, WebSocket echo": _workers(echo, own_gunicorn, "/echo"),
            "aiopyramid, uWSGI, WebSocket echo": _workers(echo, own_uwsgi, "/echo", UPGRADES),
        },
    ),
)
