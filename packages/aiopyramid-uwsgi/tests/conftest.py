"""A stand-in for the module that only uWSGI has, and what is to be undone after it."""

from __future__ import annotations

import importlib
import signal
import socket
import sys
from types import SimpleNamespace

import pytest

from aiopyramid import fitness, homes, lifespan
from aiopyramid.sse import streams


def forget_modules(monkeypatch):
    for name in tuple(sys.modules):
        if name.partition(".")[0] == "aiopyramid_uwsgi":
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def uwsgi(monkeypatch):
    """The module ``uwsgi`` of the second worker, without options; tests change it."""
    module = SimpleNamespace(
        opt={},
        loop=None,
        has_threads=1,
        cores=8,
        sockets=[],
        logged=[],
        worker_id=lambda: 2,
        masterpid=lambda: 1,
        workers=lambda: ({}, {"status": b"idle"}),
    )
    module.log = module.logged.append
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    monkeypatch.setitem(sys.modules, "uwsgidecorators", None)
    return module


@pytest.fixture
def load(uwsgi, monkeypatch):
    """Import a module of aiopyramid-uwsgi anew, and all others with it."""
    for name in ("process_home", "obstacle", "new_home"):
        monkeypatch.setattr(homes, name, getattr(homes, name))
    # Applications of other tests, which may be there still.
    monkeypatch.setattr(lifespan, "_lifespans", [])
    monkeypatch.setattr(streams, "_ending", False)
    monkeypatch.setattr(fitness, "required", False)
    forget_modules(monkeypatch)
    yield lambda name: importlib.import_module(f"aiopyramid_uwsgi.{name}")
    forget_modules(monkeypatch)


@pytest.fixture
def connection(uwsgi):
    """Return the client's end of the connection of the current request."""
    client, server = socket.socketpair()
    uwsgi.connection_fd = server.fileno
    with client, server:
        client.setblocking(False)
        yield client


@pytest.fixture
def signals_as_found():
    """Undo changes of the handlers of signals, and of the file descriptor that they wake."""
    signums = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGUSR1
    handlers = {signum: signal.getsignal(signum) for signum in signums}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    yield
    signal.set_wakeup_fd(wakeup)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def pairs(monkeypatch):
    """Close the pairs of sockets that are made: workers keep theirs until their process ends."""
    made, make = [], socket.socketpair

    def socketpair(*args):
        pair = make(*args)
        made.extend(pair)
        return pair

    monkeypatch.setattr(socket, "socketpair", socketpair)
    yield made
    for each in made:
        each.close()
