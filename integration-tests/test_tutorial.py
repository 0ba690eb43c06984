"""The tutorial, followed from an empty folder word for word, with a real browser."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from browser import open_browser, until
from harness import HERE, Server, UWSGIServer, reserve_port
from redis_server import RedisServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

DOCS = HERE.parent / "docs"
TEXT = (DOCS / "tutorial.rst").read_text()
FILES = DOCS / "examples" / "tutorial"

FILE = re.compile(r"\.\. literalinclude:: (\S+)\n((?:   :.+\n)+)")
COMMANDS = re.compile(r"\.\. code-block:: console\n\n((?:   .+\n)+)")


def read_sections() -> dict[str, str]:
    """Return what stands below each headline."""
    parts = re.split(r"^(.+)\n-+$", TEXT, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def read_files(text: str) -> list[tuple[str, Path, str]]:
    """Return the name, the source and the options of each file that is shown."""
    found = []
    for path, options in FILE.findall(text):
        caption = re.search(":caption: (.+)", options)
        assert caption is not None, path
        found.append((caption[1], DOCS / path, options))
    return found


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


# As a reader does it.


class Reader:
    """
    Somebody who does what the tutorial says.

    Ports and the address of Redis are others than there, because those may be somebody's.
    """

    def __init__(self, folder: Path, dist: Path, redis: RedisServer, driver: Chrome) -> None:
        self.folder = folder
        self.redis = redis
        self.driver = driver
        self.port = reserve_port()
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
        """Save the files of a section, and run its commands."""
        steps = [(found.start(), found) for found in FILE.finditer(section)]
        steps += [(found.start(), found) for found in COMMANDS.finditer(section)]
        for _, found in sorted(steps):
            if found.re is FILE:
                [(name, source, _)] = read_files(found.group())
                text = source.read_text().replace("redis://127.0.0.1:6379/0", self.redis.url)
                (self.folder / name).write_text(text)
            else:
                for line in found[1].splitlines():
                    self.run(line.strip().removeprefix("$ "))

    def run(self, command: str) -> None:
        """Run a command line; a server goes on running."""
        if command.startswith("cd "):
            self.folder /= command[3:]
        elif command == ". venv/bin/activate":
            path = os.environ["PATH"]
            self.environ["PATH"] = f"{self.folder / 'venv' / 'bin'}:{path}"
            assert (self.folder / "venv" / "bin" / "activate").exists()
        elif command.startswith(("gunicorn ", "uwsgi ")):
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
            if command.startswith("aiopyramid-uwsgi ini"):
                ini = self.folder / "uwsgi.ini"
                ini.write_text(ini.read_text().replace(":8080", f":{self.port}"))

    def serve(self, command: str) -> None:
        self.stop()
        kind: Any = UWSGIServer if command.startswith("uwsgi") else Server
        server = kind(self.folder.parent / f"{kind.name}.log")
        server.log_file.unlink(missing_ok=True)
        server.up = "/aiopyramid/groups.js" if (self.folder / "chat.ini").exists() else "/"
        before, os.environ["PATH"] = os.environ["PATH"], self.environ["PATH"]
        try:
            os.environ["GUNICORN_CMD_ARGS"] = self.environ["GUNICORN_CMD_ARGS"]
            server.launch(command=command.replace('"', "").split(), cwd=self.folder)
        finally:
            os.environ["PATH"] = before
            del os.environ["GUNICORN_CMD_ARGS"]
        self.server = server
        server.wait_until_up()

    def stop(self) -> None:
        if self.server is not None:
            self.server.signal(signal.SIGINT)  # Ctrl-C
            self.server.stop()
            assert "Traceback" not in self.server.log
            self.server = None

    def workers(self) -> set[int]:
        return self.server.children() if self.server is not None else set()

    # In the browser.

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
def reader(tmp_path: Path, dist: Path, redis: RedisServer) -> Iterator[Reader]:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    redis.query("flushall")
    with open_browser(tmp_path / "browser") as driver:
        reader = Reader(tmp_path, dist, redis, driver)
        yield reader
        reader.stop()


def check_the_answer(reader: Reader) -> None:
    reader.open()
    reader.until_state("connected")
    reader.write("<b>hello</b>")
    reader.sees("<b>hello</b>")


def check_two_tabs(reader: Reader) -> None:
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


def check_a_reload(reader: Reader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.open()
        reader.until_state("connected")
    reader.write("hello")
    reader.sees("hello")
    reader.driver.refresh()
    reader.sees("hello")


def check_names(reader: Reader) -> None:
    reader.open()
    until(reader.driver, "document.querySelector('label').textContent.startsWith('Your name')")
    assert reader.server is not None
    with reader.server.client() as stranger:
        assert stranger.get("/").status_code == 403
    reader.write("Ann")
    reader.until_state("connected")
    reader.write("hello")
    reader.sees("Ann: hello")


def check_who_is_there(reader: Reader) -> None:
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


def check_two_workers(reader: Reader) -> None:
    assert len(reader.workers()) == 2
    for number in (0, 1):
        reader.show_tab(number)
        reader.open()
        reader.until_state("connected")
    reader.write("hello")
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("Ann: hello")


def check_the_script(reader: Reader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("Ann: hello", "hello from a script")


def check_the_kill(reader: Reader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.sees("Ann: hello", "hello from a script", "who is still there?")
        reader.until_state("connected")


def check_uwsgi(reader: Reader) -> None:
    for number in (0, 1):
        reader.show_tab(number)
        reader.open()
        reader.until_state("connected")
    reader.write("here again")
    reader.sees("Ann: hello", "hello from a script", "who is still there?", "Ann: here again")


# What a reader sees when a section has been done.
CHECKS: dict[str, Callable[[Reader], None]] = {
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


def test_the_tutorial_works_word_for_word(reader: Reader) -> None:
    sections = read_sections()
    assert CHECKS.keys() <= sections.keys()
    for title, section in sections.items():
        reader.follow(section)
        if title in CHECKS:
            CHECKS[title](reader)
