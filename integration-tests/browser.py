"""A real browser: Debian's chromium, without a window."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NEEDS = "needs Debian's package chromium"


def executable() -> str | None:
    """Return the path of the browser, or None if it is not installed."""
    return shutil.which("chromium")


@contextlib.contextmanager
def open_page(url: str, profile: Path) -> Iterator[subprocess.Popen[bytes]]:
    """
    Show a page, whose scripts run until the block ends.

    Args:
        url: The page.
        profile: A folder for what the browser keeps.
    """
    command = [executable() or "chromium", "--headless", "--disable-gpu", "--no-sandbox"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
    with (profile / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)
