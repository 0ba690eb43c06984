"""The demo, with its own files of settings, under each server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import HERE, Server, UWSGILoopServer, reserve_port

ROOT = HERE.parent


def gunicorn(folder: Path) -> Server:
    command = [sys.executable, "-m", "gunicorn", "-c", "demo/gunicorn.conf.py"]
    server = Server(folder / "server.log")
    server.launch(command=[*command, "--bind", "127.0.0.1:0", "--no-control-socket"], cwd=ROOT)
    return server


def uwsgi(folder: Path) -> Server:
    settings = (ROOT / "demo" / "uwsgi.ini").read_text()
    # The port may be somebody's, and a second socket would not replace it.
    settings = settings.replace("127.0.0.1:8000", f"127.0.0.1:{reserve_port()}")
    (folder / "uwsgi.ini").write_text(settings)
    command = [UWSGILoopServer.executable(), "--ini", folder / "uwsgi.ini"]
    server = UWSGILoopServer(folder / "server.log")
    server.launch(
        command=[*map(str, command), "--virtualenv", sys.prefix],
        cwd=ROOT,
    )
    return server


SERVERS = [gunicorn, uwsgi]


class Tab:
    """A tab of the page, without the page."""

    def __init__(self, stack: ExitStack, server: Server, query: str) -> None:
        self.ws = stack.enter_context(server.sync_connect(f"/?{query}"))
        self.tabs: list[dict[str, Any]] = []  # as it was last told
        self.welcome = self.until("welcome")

    def send(self, **message: Any) -> None:
        self.ws.send(json.dumps(message))

    def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for a message of a kind, with these fields."""
        while True:
            message = json.loads(self.ws.recv(30))
            if "group" in message:
                message = json.loads(message["data"]) if "data" in message else message
            self.tabs = message.get("tabs", self.tabs)
            if message.get("type") == kind and message.items() >= fields.items():
                return message

    def until_tabs(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until it is told of tabs as the condition wants them."""
        while not self.tabs or not condition(self.tabs):
            self.until("members")
