"""The tutorial, followed from an empty folder word for word, with a real browser."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import pytest
from browser import open_browser, until
from reader import DOCS, Reader, read_files, read_sections
from redis_server import RedisServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

TEXT = (DOCS / "tutorial.rst").read_text()
FILES = DOCS / "examples" / "tutorial"


def test_all_files_are_shown_whole() -> None:
    shown = {source for _, source, options in read_files(TEXT) if ":lines:" not in options}
    assert shown == {path for path in FILES.rglob("*.*") if "__pycache__" not in path.parts}


def test_what_has_changed_is_highlighted() -> None:
    before: dict[str, list[str]] = {}
    for name, source, options in read_files(TEXT):
        lines = source.read_text().splitlines()
        expected = set()
        if name in before:
            changes = difflib.SequenceMatcher(None, before[name], lines, autojunk=False)
            for kind, _, _, first, last in changes.get_opcodes():
                expected |= set(range(first + 1, last + 1)) if kind != "equal" else set()
        before[name] = lines
        highlighted = set()
        if found := re.search(":emphasize-lines: (.+)", options):
            for part in found[1].split(", "):
                first, _, last = part.partition("-")
                highlighted |= set(range(int(first), int(last or first) + 1))
        blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
        assert highlighted - blank == expected - blank, f"{source}: {sorted(expected - blank)}"


class TutorialReader(Reader):
    """A reader who looks at the pages too."""

    def __init__(self, folder: Path, dist: Path, redis: RedisServer, driver: Chrome) -> None:
        super().__init__(folder, dist, {"redis://127.0.0.1:6379/0": redis.url})
        self.driver = driver

    def open(self) -> None:
        """Show the page."""
        assert self.server is not None
        self.driver.get(self.server.url)

    def write(self, text: str) -> None:
        """Write into the field that has the focus."""
        self.driver.switch_to.active_element.send_keys(text, Keys.ENTER)

    def until_state(self, state: str) -> None:
        until(self.driver, f"document.querySelector('output')?.value === '{state}'")

    def sees(self, *lines: str) -> None:
        shown = "[...document.querySelectorAll('li')].map((item) => item.textContent)"
        until(self.driver, f"JSON.stringify({shown}) === JSON.stringify({list(lines)!r})")

    def show_tab(self, number: int) -> None:
        self.driver.switch_to.window(self.driver.window_handles[number])


@pytest.fixture
def reader(tmp_path: Path, dist: Path, redis: RedisServer) -> Iterator[TutorialReader]:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    redis.query("flushall")
    with open_browser(tmp_path / "browser") as driver:
        reader = TutorialReader(tmp_path, dist, redis, driver)
        yield reader
        reader.stop()


def check_the_answer(reader: TutorialReader) -> None:
    reader.open()
    reader.until_state("connected")
    reader.write("<b>hello</b>")
    reader.sees("<b>hello</b>")


def check_two_tabs(reader: TutorialReader) -> None:
    reader.open()
    reader.until_state("connected")
    reader.driver.switch_to.new_window("tab")
    reader.open()
    reader.until_state("connected")
    reader.write("hello")
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("hello")
    reader.driver.refresh()
    reader.sees()


def check_a_reload(reader: TutorialReader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.open()
        reader.until_state("connected")
    reader.write("hello")
    reader.sees("hello")
    reader.driver.refresh()
    reader.sees("hello")


def check_names(reader: TutorialReader) -> None:
    reader.open()
    until(reader.driver, "document.querySelector('label').textContent.startsWith('Your name')")
    assert reader.server is not None
    with reader.server.client() as stranger:
        assert stranger.get("/").status_code == 403
    reader.write("Ann")
    reader.until_state("connected")
    reader.write("hello")
    reader.sees("Ann: hello")


def check_who_is_there(reader: TutorialReader) -> None:
    reader.show_tab(0)
    reader.until_state("connected")  # again, by itself
    reader.show_tab(1)
    reader.until_state("connected")
    assert reader.server is not None
    reader.driver.switch_to.new_window("tab")
    reader.driver.get(f"{reader.server.url}/who")
    assert reader.driver.execute_script("return document.body.innerText").strip() == '["Ann"]'
    reader.driver.close()
    reader.show_tab(1)


def check_two_workers(reader: TutorialReader) -> None:
    assert len(reader.workers()) == 2
    for number in (0, 1):
        reader.show_tab(number)
        reader.open()
        reader.until_state("connected")
    reader.write("hello")
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("Ann: hello")


def check_the_script(reader: TutorialReader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("Ann: hello", "hello from a script")


def check_the_kill(reader: TutorialReader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("Ann: hello", "hello from a script", "who is still there?")
        reader.until_state("connected")


def check_uwsgi(reader: TutorialReader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.open()
        reader.until_state("connected")
    reader.write("here again")
    reader.sees("Ann: hello", "hello from a script", "who is still there?", "Ann: here again")


# What a reader sees when a section has been done.
CHECKS: dict[str, Callable[[TutorialReader], None]] = {
    "A page and a WebSocket": check_the_answer,
    "Everybody hears it": check_two_tabs,
    "Nothing is missed": check_a_reload,
    "Names": check_names,
    "Who is there": check_who_is_there,
    "Two workers": check_two_workers,
    "A script": check_the_script,
    "A worker is killed": check_the_kill,
    "The same under uWSGI": check_uwsgi,
}


def test_the_tutorial_works_word_for_word(reader: TutorialReader) -> None:
    sections = read_sections(TEXT)
    assert CHECKS.keys() <= sections.keys()
    for title, section in sections.items():
        reader.follow(section)
        if title in CHECKS:
            CHECKS[title](reader)
