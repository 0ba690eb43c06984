"""Somebody who does what a page of the documentation says, word for word."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from harness import HERE, Server, UWSGIServer, reserve_port

DOCS = HERE.parent / "docs"

FILE = re.compile(r"\.\. literalinclude:: (\S+)\n((?:   :.+\n)+)")
COMMANDS = re.compile(r"\.\. code-block:: console\n\n((?:   .+\n)+)")


def read_sections(text: str) -> dict[str, str]:
    """Return what stands below each headline of a page."""
    parts = re.split(r"^(.+)\n-+$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def read_files(text: str) -> list[tuple[str, Path, str]]:
    """Return the name, the source and the options of each file that is shown with its name."""
    found = []
    for path, options in FILE.findall(text):
        if caption := re.search(":caption: (.+)", options):
            found.append((caption[1], DOCS / path, options))
    return found


class Reader:
    """
    Saves the files of a page, and runs its commands in a folder.

    Its ports are others than on the page, because those may be somebody's.

    Args:
        folder: The folder, which is empty at first.
        dist: Where pip finds our distributions.
        replaced: Texts of files and commands, and what stands for them here.
    """

    def __init__(self, folder: Path, dist: Path, replaced: dict[str, str]) -> None:
        self.folder = folder
        self.port = str(reserve_port())
        ports = {"127.0.0.1:8000": f"127.0.0.1:{self.port}", "port = 8000": f"port = {self.port}"}
        self.replaced = ports | {"127.0.0.1:8080": f"127.0.0.1:{self.port}"} | replaced
        self.server: Server | None = None
        self.environ = dict(
            os.environ,
            PIP_FIND_LINKS=str(dist),
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{self.port} --no-control-socket",
        )
        for name in ("VIRTUAL_ENV", "PYTHONPATH"):
            self.environ.pop(name, None)

    def follow(self, section: str) -> None:
        """Do what a section says; the last server that it starts goes on running."""
        steps = [(found.start(), found) for found in FILE.finditer(section)]
        steps += [(found.start(), found) for found in COMMANDS.finditer(section)]
        for _, found in sorted(steps, key=lambda step: step[0]):
            if found.re is FILE:
                for name, source, _ in read_files(found.group()):
                    (self.folder / name).write_text(self._replace(source.read_text()))
            else:
                printed = ""
                for line in found[1].splitlines():
                    if (text := line.strip()).startswith("$ "):
                        printed = self.run(self._replace(text[2:]))
                    else:
                        assert text in printed, f"{printed!r} has no {text!r}"

    def _replace(self, text: str) -> str:
        for words, others in self.replaced.items():
            text = text.replace(words, others)
        return text

    def run(self, command: str) -> str:
        """Run a command line, and return what it prints."""
        if command.startswith("cd "):
            self.folder /= command[3:]
        elif command == ". venv/bin/activate":
            assert (self.folder / "venv" / "bin" / "activate").exists()
            self.environ["PATH"] = f"{self.folder / 'venv' / 'bin'}:{os.environ['PATH']}"
        elif re.match(r"([A-Z]+=\S+ )*(gunicorn|uwsgi|pserve) ", command):
            self.serve(command)
        else:
            command = command.replace("4711", str(next(iter(self.workers()), 4711)))
            result = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environ,
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
            if command.endswith("uwsgi.ini"):
                ini = self.folder / "uwsgi.ini"
                ini.write_text(self._replace(ini.read_text()))
            return result.stdout
        return ""

    def serve(self, command: str) -> None:
        """Stop the server that runs, and start another."""
        self.stop()
        kind: Any = UWSGIServer if command.startswith("uwsgi") else Server
        server = kind(self.folder.parent / "server.log")
        server.log_file.unlink(missing_ok=True)
        server.launch(
            command=["bash", "-c", f"exec env {command}"], cwd=self.folder, environ=self.environ
        )
        server.port = int(server.wait_for_log(server.listening).group(1))
        server.wait_for_log("request threads|requests at a time")  # a worker is there
        self.server = server

    def stop(self) -> None:
        """Stop the server that runs, as by Ctrl-C."""
        if self.server is not None:
            self.server.signal(signal.SIGINT)
            self.server.stop()
            assert "Traceback" not in self.server.log
            self.server = None

    def workers(self) -> set[int]:
        """Return the processes of the server that runs."""
        return self.server.children() if self.server is not None else set()
