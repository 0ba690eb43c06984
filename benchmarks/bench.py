"""
Compares aiopyramid with its peers, side by side in one run.

    hatch run bench:run

runs both benchmarks, ``websocket_echo.py`` and ``http_hello.py``; each also
runs by itself. All servers of a benchmark are started first. Then every round
puts the same load on one after the other, so that a noisy minute hits them
all, and the first round does not count.

What is measured is the CPU time that the server's processes take for a
message or request, from ``/proc``, and so not how fast the client is. Of the
rounds, the median is printed, with the least and the greatest; then how much
work a CPU second does, in relation to the first server of the table. The
times are those of a machine, and only the relations may be compared with
other runs.

A server that is not installed is left out. ``/proc`` needs Linux.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import uvloop

HERE = Path(__file__).parent
UWSGI = Path(sys.executable).with_name("uwsgi")
ROUNDS = 5
CONNECTIONS = 64
TICK = 1 / os.sysconf("SC_CLK_TCK")


class Server:
    """A server of a benchmark; ``{port}`` in its command is replaced."""

    def __init__(self, name: str, path: str, command: list[str]) -> None:
        self.name = name
        self.path = path
        self.command = command

    def __enter__(self) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        command = [part.format(port=self.port) for part in self.command]
        env = dict(os.environ, PYTHONWARNINGS="ignore")  # for a table without others' warnings
        self.process = subprocess.Popen(command, cwd=HERE, env=env, stdin=subprocess.DEVNULL)
        while not self._listens():
            assert self.process.poll() is None, f"{self.name} has ended"
            time.sleep(0.05)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        self.process.wait()

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def cpu(self) -> float:
        """Return the CPU time that the process and its workers have taken, in seconds."""
        pid = str(self.process.pid)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(cpu_of(pid) for pid in [pid, *children])


def cpu_of(pid: str) -> float:
    # proc(5): after the name in parentheses, utime and stime are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def gunicorn(*args: str) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}"]
    return [*command, "--threads", "16", "--no-control-socket", "--log-level", "error", *args]


def aiopyramid_gunicorn(*args: str) -> list[str]:
    worker = "aiopyramid.gunicorn.worker.AsyncGunicornWorker"
    return gunicorn("--worker-class", worker, "--asgi-loop", "uvloop", *args)


def uwsgi(*args: str) -> list[str]:
    command = [str(UWSGI), "--http-socket", "127.0.0.1:{port}", "--master", "--enable-threads"]
    return [
        *command,
        "--threads",
        "16",
        "--need-app",
        "--die-on-term",
        "--logto",
        "/dev/null",
        *args,
    ]


def compare(title: str, servers: list[Server], load: Callable[[Server], Awaitable[float]]) -> None:
    """
    Put a load on all servers, round by round, and print the table.

    Args:
        title: What is printed above.
        servers: The first is what the others are compared with.
        load: A coroutine function that returns the server's CPU time for one
            unit of work, in seconds.
    """

    async def rounds() -> list[list[float]]:
        for server in servers:
            await load(server)  # warms up
        return [[await load(server) for server in servers] for _ in range(ROUNDS)]

    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        results = list(zip(*uvloop.run(rounds()), strict=True))
    print(f"{title}\n{'':<44}{'CPU µs':>8}{'least-greatest':>18}{'ratio':>8}")
    base = statistics.median(results[0])
    for server, seconds in zip(servers, results, strict=True):
        median = statistics.median(seconds)
        spread = f"{min(seconds) * 1e6:.1f}-{max(seconds) * 1e6:.1f}"
        print(f"{server.name:<44}{median * 1e6:>8.1f}{spread:>18}{base / median:>8.2f}")
    print(flush=True)
