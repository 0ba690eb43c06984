"""Runs a real Redis, from Debian's package."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from certificates import make_certificate
from harness import PATIENCE, eventually, reserve_port

NEEDS = "needs Debian's package redis-server"


def executable() -> str | None:
    """Give the path of the server, if it is installed."""
    return shutil.which("redis-server")


class RedisServer:
    """
    A server with an empty database, which is lost when it stops.

    Args:
        executable: The path of the server.
        options: Further options of its command line.
    """

    tls_port = 0
    certificate = Path()

    def __init__(self, executable: str, *options: str, configuration: Path | None = None) -> None:
        self.port = reserve_port()
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.log = (self.folder / "log").open("wb")
        self.command = [executable, *([str(configuration)] if configuration else [])]
        self.command += ["--port", str(self.port), "--bind", "127.0.0.1"]
        self.command += ["--sentinel"] if configuration else ["--save", "", "--appendonly", "no"]
        self.command += ["--dir", str(self.folder), *options]
        self.start()

    @classmethod
    def with_tls(cls, executable: str, *others: str) -> RedisServer:
        """Run a server that speaks TLS as well, on `tls_port`."""
        files = make_certificate(Path(tempfile.mkdtemp(prefix="redis-tls-")))
        port = reserve_port()
        options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
        options += ["--tls-cert-file", str(files["cert"]), "--tls-key-file", str(files["key"])]
        options += ["--tls-ca-cert-file", str(files["cert"]), *others]
        server = cls(executable, *options)
        server.tls_port, server.certificate = port, files["cert"]
        return server

    @classmethod
    def sentinel(cls, executable: str, master: RedisServer) -> RedisServer:
        """Run a sentinel that names a server, as "main"."""
        folder = Path(tempfile.mkdtemp(prefix="redis-sentinel-"))
        configuration = folder / "sentinel.conf"
        configuration.write_text(f"sentinel monitor main 127.0.0.1 {master.port} 1\n")
        return cls(executable, configuration=configuration)

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT
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

    def pause(self) -> None:
        """Let it keep its connections, and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word; `start` starts it again, on the same port."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        self.go_on()
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()
        shutil.rmtree(self.folder)
