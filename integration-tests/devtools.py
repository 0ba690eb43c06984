"""A page in a real browser, and what it runs."""

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
        result = self._call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            replMode=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def load(self, url: str) -> None:
        """Show another page, or the same one anew, and wait until it is there."""
        self._call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._connection.recv(PATIENCE))).get("id") != number:
            """An event."""
        assert "error" not in answer, answer["error"]
        return dict(answer["result"])

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
    with browser.open_page("about:blank", profile):
        address = eventually(lambda: _find_page(profile), "the browser shows a page")
        with connect(address, proxy=None) as ws:
            page = Page(ws)
            page.load(url)
            yield page


def _find_page(profile: Path) -> str | None:
    """Return the address at which the browser speaks about its page, if it is there yet."""
    with contextlib.suppress(FileNotFoundError, IndexError, httpx.TransportError):
        port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        for target in targets:
            if target["type"] == "page":
                return str(target["webSocketDebuggerUrl"])
    return None
