"""The front page's example, and the page "Start", followed word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import pytest
from browser import open_browser, until
from harness import HERE, Server
from reader import DOCS, Reader, read_sections
from selenium.webdriver.common.keys import Keys

TEXT = (DOCS / "start.rst").read_text()


@pytest.fixture
def reader(tmp_path: Path, dist: Path) -> Iterator[Reader]:
    folder = tmp_path / "start"
    folder.mkdir()
    command = f"cookiecutter --no-input {HERE.parent / 'template'}"
    reader = Reader(folder, dist, {"cookiecutter -o .. ./template": command})
    yield reader
    reader.stop()


def test_the_start_works_word_for_word(reader: Reader, tmp_path: Path) -> None:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    sections = read_sections(TEXT)
    reader.follow(sections["Install"])
    reader.follow(sections["A coroutine view"])
    reader.follow(sections["A WebSocket"])
    assert reader.server is not None
    with open_browser(tmp_path / "browser") as driver:
        driver.get(reader.server.url)
        driver.find_element("id", "text").send_keys("hello", Keys.ENTER)
        until(driver, "document.querySelector('li')?.textContent === 'hello'")
    reader.follow(sections["With an ini file"])
    with reader.server.client() as client:
        assert client.get("/coroutine/you").json() == {"hello": "you"}
    reader.follow(sections["A new project"])
    assert (reader.folder / "my_chat" / "README.md").exists()


def test_the_example_of_the_front_page(launch: Callable[..., Server], variant: str) -> None:
    server = launch(variant=variant, app="apps.examples:front()", wait=False)
    server.port = int(server.wait_for_log(server.listening).group(1))
    with server.client() as client:
        assert client.get("/orders/7").json() == {"order": "seven parcels"}
        assert client.get("/parcels/7").json() == {"parcel": "on its way"}
    with server.sync_connect("/news") as one, server.sync_connect("/news") as other:
        one.send("joined")  # it is in the group when this comes back
        assert one.recv() == "joined"
        other.send("hello")
        assert one.recv() == "hello"
        while other.recv() != "hello":
            """It may have joined before the first message."""
