"""A real browser, Debian's chromium without a window, driven by Selenium."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from harness import HERE, PATIENCE
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

LOOKS = (HERE / "looks.js").read_text()

NEEDS = "needs Debian's packages chromium and chromium-driver"


def is_installed() -> bool:
    """Tell whether there is a browser, and what drives it."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Chrome]:
    """
    Run a browser, with one empty tab, until the block ends.

    Args:
        folder: For what the browser keeps, and its log; none else may use it. It is made.
    """
    folder.mkdir(exist_ok=True)
    options = ChromeOptions()
    # Both paths are given, or Selenium would look for them on the net.
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in (
        "--headless",
        "--no-sandbox",  # which root cannot have
        "--disable-dev-shm-usage",  # small in containers
        f"--user-data-dir={folder}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = ChromeService(
        shutil.which("chromedriver"), log_output=str(folder / "chromedriver.log")
    )
    # Selenium speaks HTTP with the driver, and would ask a proxy of the environment for that.
    with (
        mock.patch.dict(os.environ, no_proxy="localhost,127.0.0.1"),
        Chrome(options, service) as driver,
    ):
        driver.set_page_load_timeout(PATIENCE)
        driver.set_script_timeout(PATIENCE)
        yield driver


def until(driver: Chrome, expression: str) -> Any:
    """Wait until JavaScript gives something true in the tab that is shown, and return that."""
    return WebDriverWait(driver, PATIENCE, poll_frequency=0.02).until(
        lambda driver: driver.execute_script(f"return {expression}"), expression
    )


def look(driver: Chrome, call: str) -> Any:
    """Call a function of ``looks.js``, which measures how the page looks."""
    return driver.execute_script(f"{LOOKS}\nreturn {call}")
