"""Runs a real PostgreSQL, from Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from harness import PATIENCE, eventually, reserve_port

NEEDS = "needs Debian's package postgresql"
INSTALLED = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """Give the folder of the newest server that is installed."""
    found = INSTALLED.glob("*/bin/postgres")
    newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
    return newest.parent if newest else None


class Postgres:
    """A server with a data folder of its own, which is lost when it stops."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.port = reserve_port()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.databases = 0
        # PostgreSQL refuses to be root.
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.log = (self.folder / "log").open("wb")
        data = self.folder / "data"
        self.run("initdb", "--pgdata", data, "--username", "test", "--auth", "trust", "--no-sync")
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 200,
        }
        self.command = [str(binaries / "postgres"), "-D", str(data), "-p", str(self.port)]
        for name, value in options.items():
            self.command += ["-c", f"{name}={value}"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, **self.streams, **self.user)
        eventually(self.answers, "PostgreSQL answers")

    @property
    def streams(self) -> dict[str, Any]:
        return {
            "stdin": subprocess.DEVNULL,
            "stdout": self.log,
            "stderr": subprocess.STDOUT,
            "cwd": self.folder,
        }

    def run(self, program: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(self.binaries / program), *map(str, args)]
        options = self.streams | self.user | options
        result = subprocess.run(command, text=True, timeout=PATIENCE, **options)
        if result.returncode and program != "pg_isready":
            raise AssertionError(f"{program} failed:\n{(self.folder / 'log').read_text()}")
        return result

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"PostgreSQL ended:\n{(self.folder / 'log').read_text()}")
        return self.run("pg_isready", "-h", "127.0.0.1", "-p", self.port).returncode == 0

    def end(self) -> None:
        """End it, and all sessions; `start` starts it again, on the same port."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.end()
        self.log.close()
        shutil.rmtree(self.folder)

    def database(self) -> Database:
        """Make an empty database."""
        self.databases += 1
        database = Database(self, f"test_{self.databases}")
        self.query("postgres", f"CREATE DATABASE {database.name} TEMPLATE template0")
        return database

    def query(self, database: str, sql: str) -> str:
        options = ["-h", "127.0.0.1", "-p", self.port, "-U", "test", "-d", database]
        options += ["--no-psqlrc", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]
        result = self.run("psql", *options, "-c", sql, stdout=subprocess.PIPE, stderr=self.log)
        return result.stdout.strip()


class Database:
    def __init__(self, server: Postgres, name: str) -> None:
        self.server = server
        self.name = name

    def url(self, scheme: str = "postgresql") -> str:
        return f"{scheme}://test@127.0.0.1:{self.server.port}/{self.name}"

    def query(self, sql: str) -> str:
        """Run a statement, apart from the application under test."""
        return self.server.query(self.name, sql)

    def sessions(self, condition: str) -> int:
        """Count the database's sessions, but for this one, for which a condition is true."""
        counted = self.query(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            f"AND pid <> pg_backend_pid() AND {condition}"
        )
        return int(counted)
