"""Speaks to the page of a browser that `browser.open_page` has opened."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import httpx
from harness import PATIENCE, eventually
from websockets.sync.client import ClientConnection, connect


class Page:
    """
    A page, by the Chrome DevTools Protocol.

    Args:
        connection: The connection to it.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def run(self, expression: str) -> Any:
        """
        Evaluate JavaScript, and return its value.

        Args:
            expression: Of a value that JSON knows, or of a promise of one; ``await`` is allowed.

        Raises:
            AssertionError: If it throws.
        """
        params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        number = next(self._numbers)
        message = {"id": number, "method": "Runtime.evaluate", "params": params | {"replMode": True}}
        self._connection.send(json.dumps(message))
        while (answer := json.loads(self._connection.recv(PATIENCE))).get("id") != number:
            """An event."""
        result = answer["result"]
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until JavaScript gives something true, and return that."""
        return eventually(lambda: self.run(expression), f"{expression}")


@contextlib.contextmanager
def open_page(url: str, profile: Path) -> Iterator[Page]:
    """
    Show a page in a browser of its own, until the block ends.

    Args:
        url: The page.
        profile: A folder for what the browser keeps.
    """
    profile.mkdir(exist_ok=True)
    with browser.open_page(url, profile):
        with connect(eventually(lambda: _find(url, profile), f"{url} is open"), proxy=None) as ws:
            page = Page(ws)
            page.until("document.readyState === 'complete'")
            yield page


def _find(url: str, profile: Path) -> str | None:
    """Return the address at which the browser speaks about a page, if it is there yet."""
    with contextlib.suppress(FileNotFoundError, IndexError, httpx.TransportError):
        port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        for target in targets:
            if target["type"] == "page" and target["url"].startswith(url):
                return str(target["webSocketDebuggerUrl"])
    return None
