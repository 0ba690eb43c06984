"""Runs a real Redis, from Debian's package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import PATIENCE, eventually, reserve_port

NEEDS = "needs Debian's package redis-server"


def executable() -> str | None:
    """Give the path of the server, if it is installed."""
    return shutil.which("redis-server")


class RedisServer:
    """A server with an empty database, which is lost when it stops."""

    def __init__(self, executable: str) -> None:
        self.port = reserve_port()
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.log = (self.folder / "log").open("wb")
        command = [executable, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT
        )
        eventually(self.answers, "Redis answers")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"Redis ended:\n{(self.folder / 'log').read_text()}")
        command = ["redis-cli", "-p", str(self.port), "ping"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        return result.stdout == "PONG\n"

    def query(self, *words: str) -> str:
        """Run a command, apart from the application under test."""
        command = ["redis-cli", "-p", str(self.port), *words]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        return result.stdout

    def clients(self) -> int:
        """Count the connections to the server, but for that of this question."""
        return len(self.query("client", "list").split("\n")) - 2

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()
        shutil.rmtree(self.folder)
