"""Runs servers, and measures the CPU time that they take for work, in rounds."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peers import HERE, Peer

TICK = 1 / os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
CLIENT_CORE, SERVER_CORE = CORES[0], CORES[-1]
PATIENCE = 30  # seconds


@dataclass(frozen=True)
class Sample:
    """What one server did in one round."""

    work: int
    server: float  # CPU time, as the next, in seconds
    client: float
    seconds: float

    @property
    def micros(self) -> float:
        """The server's CPU time for a unit of work, in microseconds."""
        return self.server / self.work * 1e6

    @property
    def rate(self) -> float:
        """Work a second, as the clock on the wall has it."""
        return self.work / self.seconds

    @property
    def server_share(self) -> float:
        """How much of its core the server took."""
        return self.server / self.seconds

    @property
    def client_share(self) -> float:
        """How much of its core the client took."""
        return self.client / self.seconds


class Server:
    """A running server, on the servers' core."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def __enter__(self) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        programs = self.peer.environment.prefix / "bin"
        command = [part.format(bin=programs, port=self.port) for part in self.peer.command]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=dict(os.environ, PYTHONWARNINGS="ignore", PYTHONPATH=str(HERE)),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(os.sched_setaffinity, 0, {SERVER_CORE}),
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise self.failed("does not answer")
            time.sleep(0.05)
        return self

    def __exit__(self, *exc_info: object) -> None:
        tree = self.tree()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as sock:
                sock.sendall(f"GET {self.peer.path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
                sock.recv(65536)
        except OSError:
            return False
        return True

    def put(self, load: Load, seconds: int) -> Sample:
        """Put a load on the server."""
        try:
            return load(self, seconds)
        except (OSError, subprocess.SubprocessError) as exc:
            raise self.failed(repr(exc)) from exc

    def failed(self, what: str) -> SystemExit:
        """Return what to raise when the server does not do what it should."""
        self.log.seek(0)
        log = self.log.read()[-3000:].decode(errors="replace")
        return SystemExit(f"{log}\n{self.peer.label}: {what}")

    def tree(self) -> list[int]:
        """Return the ids of the server's processes."""
        tree = [self.process.pid]
        for pid in tree:  # which grows
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    tree += map(int, children.read_text().split())
        return tree

    def cpu(self) -> float:
        """Return the CPU time that the server's processes have taken, in seconds."""
        return sum(_ticks(pid) for pid in self.tree()) * TICK

    def memory(self) -> int:
        """Return the resident memory of the server's processes, in bytes."""
        pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in self.tree())
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def _ticks(pid: int) -> int:
    # proc(5): after the name in parentheses, utime and stime are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# Puts a load on a server for about so many seconds.
Load = Callable[[Server, int], Sample]
Cell = tuple[Peer, Load]


def measure(cells: Sequence[Cell], rounds: int, seconds: int) -> list[list[Sample]]:
    """
    Start all servers, and put the loads on them in turn, round by round.

    So a noisy minute hits them all. A first round of a second does not count.
    Returns the samples of each cell.
    """
    with ExitStack() as stack:
        servers = {peer: Server(peer) for peer, _ in cells}
        for server in servers.values():
            stack.enter_context(server)
        for peer, load in cells:
            servers[peer].put(load, 1)
        results = [
            [servers[peer].put(load, seconds) for peer, load in cells] for _ in range(rounds)
        ]
    return [list(samples) for samples in zip(*results, strict=True)]


def median(samples: Sequence[Sample], what: str = "micros") -> float:
    """Return the median of an attribute of the samples."""
    return statistics.median(float(getattr(sample, what)) for sample in samples)


def ratio(samples: Sequence[Sample], base: Sequence[Sample]) -> float:
    """Return how much of the base's work a CPU second does: the median of the rounds' ratios."""
    return statistics.median(b.micros / s.micros for s, b in zip(samples, base, strict=True))
