"""Measures what an idle WebSocket takes of the server's memory."""

from __future__ import annotations

import resource
import time

from measure import Server
from peers import Peer
from websocket_load import opened


def raise_limit() -> int:
    """Allow as many open files as can be, for the servers too, and return how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def idle(peer: Peer, connections: int) -> float:
    """Return the growth of the memory of a fresh server for each connection, in KiB."""
    with Server(peer) as server:
        with opened(server, 10):
            pass  # loads what is needed for any
        before = server.memory()
        with opened(server, connections):
            time.sleep(1)
            return (server.memory() - before) / connections / 1024
