"""The template for projects: made, installed, tested, run and used as by a new user."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from browser import look, open_browser, until
from harness import HERE, Server, UWSGIServer, eventually, reserve_port
from redis_server import RedisServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from wheels import install, make_environment, run

TEMPLATE = HERE.parent / "template"
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")

Start = Callable[..., Server]


def make(folder: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", folder, TEMPLATE]
    command += [f"{question}={answer}" for question, answer in answers.items()]
    env = dict(os.environ, COOKIECUTTER_CONFIG=os.devnull, **OFFLINE)
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Path:
    """The folder of a project, which is installed in its venv."""
    folder = tmp_path_factory.mktemp("projects")
    made = make(folder, project_name="Our Chat")
    assert made.returncode == 0, made.stderr
    project = folder / "our_chat"
    make_environment(project / "venv", dist, "-e", f"{project}[dev]")
    return project


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"package": "1st"}, "package = '1st'"),
        ({"package": "class"}, "package = 'class'"),
        ({"package": "asyncio"}, "something that the project needs has this name"),
        ({"package": "../up"}, "package = '../up'"),
        ({"package": "deploy"}, "something that the project needs has this name"),
        ({"project_name": "50% off"}, "project_name = '50% off'"),
    ],
)
def test_names_that_cannot_be_used_are_refused(
    tmp_path: Path, answers: dict[str, str], error: str
) -> None:
    made = make(tmp_path, **answers)
    assert made.returncode == 1
    assert error in made.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_of_the_template_is_left_in_a_project(project: Path) -> None:
    files = [path for path in project.rglob("*") if "venv" not in path.parts and path.is_file()]
    assert len(files) > 25
    for file in files:
        assert "cookiecutter" not in file.read_text(), file
        assert "cookiecutter" not in str(file)
    secrets = [re.search("session.secret = (.+)", (project / "development.ini").read_text())]
    made = make(project.parent / "other", project_name="Our Chat")
    assert made.returncode == 0, made.stderr
    other = project.parent / "other" / "our_chat"
    secrets.append(re.search("session.secret = (.+)", (other / "development.ini").read_text()))
    first, second = [found.group(1) for found in secrets if found is not None]
    assert len(first) == len(second) == 40
    assert first != second


def test_its_tests_pass(project: Path) -> None:
    printed = run(project / "venv" / "bin" / "pytest", "-q", "-W", "default", cwd=project)
    assert re.search(r"^1\d passed", printed, re.M), printed


def test_without_a_secret_the_start_fails_and_says_why(project: Path) -> None:
    command = [project / "venv" / "bin" / "gunicorn", "--paste", "production.ini"]
    result = subprocess.run(
        [*map(str, command), "--bind", "127.0.0.1:0", "--no-control-socket"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "the setting session.secret is missing" in result.stderr


def test_the_image_has_all_that_its_dockerfile_copies(project: Path) -> None:
    """There is no Docker here: what it would run is run by the other tests."""
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (project / "Dockerfile").read_text(), re.M)
    sent = (project / ".dockerignore").read_text().splitlines()
    names = [name for line in copied for name in line.split()]
    assert len(names) == 6
    for name in names:
        assert (project / name).exists()
        assert f"!{name}" in sent


def test_systemd_understands_the_units(project: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs Debian's package systemd")
    programs = {"our_chat.service": "gunicorn", "our_chat-uwsgi.service": "uwsgi"}
    for name, program in programs.items():
        unit = (project / "deploy" / name).read_text()
        assert f"/srv/our_chat/venv/bin/{program}" in unit
        python = str(project / "venv" / "bin" / "python")  # both need not be installed there
        (tmp_path / name).write_text(unit.replace(f"/srv/our_chat/venv/bin/{program}", python))
    result = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in programs)],
        capture_output=True,
        text=True,
    )
    ours = [line for line in result.stderr.splitlines() if "our_chat" in line]
    assert ours == []


# A real server and a real browser.


@pytest.fixture
def start(
    project: Path,
    dist: Path,
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Start]:
    """Start the project as its README tells."""
    servers: list[Server] = []
    monkeypatch.setattr(Server, "up", "/sign-in")

    def start(name: str, ini: str = "production.ini", **environment: str) -> Server:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        if name == "gunicorn":
            server: Any = Server(tmp_path / "server.log")
            command = [project / "venv" / "bin" / "gunicorn", "--paste", ini, "--no-control-socket"]
            monkeypatch.setenv("LISTEN", "127.0.0.1:0")
            if ini == "development.ini":
                command.append("--reload")
        else:
            # Compiling uWSGI is what other tests do; this one is of the same Python.
            install(project / "venv" / "bin" / "python", dist, "--no-deps", "aiopyramid-uwsgi")
            server = UWSGIServer(tmp_path / "server.log")
            command = [server.executable(), "--ini", "uwsgi.ini"]
            command += ["--virtualenv", project / "venv"]
            monkeypatch.setenv("LISTEN", f"127.0.0.1:{reserve_port()}")
        servers.append(server)
        server.launch(command=[*map(str, command)], cwd=project)
        server.wait_until_up()
        return server

    yield start
    for server in servers:
        server.stop()


SAID = "[...document.querySelectorAll('#said li span')].map((element) => element.textContent)"
CONNECTED = "document.querySelector('#state')?.value === 'Connected'"


class Person:
    """Somebody who uses the page by the keyboard."""

    def __init__(self, driver: Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server

    def sign_in(self, name: str) -> None:
        self.driver.get(self.server.url)
        self.type(name)
        until(self.driver, CONNECTED)

    def type(self, text: str) -> None:
        """Write into the field that has the focus."""
        self.driver.switch_to.active_element.send_keys(text, Keys.ENTER)

    def sees(self, *texts: str) -> None:
        until(self.driver, f"JSON.stringify({SAID}) === JSON.stringify({list(texts)!r})")

    def sees_members(self, names: str) -> None:
        until(self.driver, f"document.querySelector('#members').textContent === 'Here: {names}'")

    def press(self, label: str) -> None:
        self.driver.find_element(By.XPATH, f"//button[text()='{label}']").send_keys(Keys.ENTER)


@pytest.mark.parametrize("name", ["gunicorn", "uwsgi"])
def test_two_browsers_chat_over_two_workers(
    start: Start, name: str, redis: RedisServer, tmp_path: Path
) -> None:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    redis.query("flushall")
    server = start(name, SESSION_SECRET="x" * 40, REDIS_URL=redis.url, WEB_CONCURRENCY="2")
    workers = eventually(lambda: len(found := server.children()) == 2 and found, "two workers")
    with open_browser(tmp_path / "ann") as of_ann, open_browser(tmp_path / "bob") as of_bob:
        ann, bob = Person(of_ann, server), Person(of_bob, server)
        ann.sign_in("<i>Ann</i>")
        bob.sign_in("Bob")
        for one in ann, bob:
            one.sees_members("<i>Ann</i>, Bob")
        ann.type("<b>hello</b>")
        bob.sees("<b>hello</b>")
        assert of_ann.get_log("browser") == of_bob.get_log("browser") == []
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: len(server.children() - workers) == 2, "there are two new workers")
        for one in ann, bob:
            until(one.driver, CONNECTED)
            one.sees_members("<i>Ann</i>, Bob")
        bob.type("again")
        for one in ann, bob:
            one.sees("<b>hello</b>", "again")
        # Signing out ends what the other window shows.
        of_bob.switch_to.new_window("tab")
        of_bob.get(server.url)
        until(of_bob, CONNECTED)
        bob.sees("<b>hello</b>", "again")
        bob.press("Sign out")
        until(of_bob, "document.querySelector('h1').textContent === 'Who are you?'")
        of_bob.switch_to.window(of_bob.window_handles[0])
        until(of_bob, "document.querySelector('#state').value === 'You have signed out.'")
        of_bob.find_element(By.LINK_TEXT, "Sign in again").send_keys(Keys.ENTER)
        until(of_bob, "document.querySelector('h1').textContent === 'Who are you?'")
        ann.sees_members("<i>Ann</i>")
    assert "Traceback" not in server.log


def test_while_redis_is_away_nothing_is_lost_in_silence(
    start: Start, redis: RedisServer, tmp_path: Path
) -> None:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    own = RedisServer(redis.command[0])
    try:
        server = start("gunicorn", SESSION_SECRET="x" * 40, REDIS_URL=own.url, WEB_CONCURRENCY="2")
        with open_browser(tmp_path / "ann") as of_ann, open_browser(tmp_path / "bob") as of_bob:
            ann, bob = Person(of_ann, server), Person(of_bob, server)
            ann.sign_in("Ann")
            bob.sign_in("Bob")
            for one in ann, bob:
                one.sees_members("Ann, Bob")
            of_bob.switch_to.new_window("tab")
            of_bob.get(server.url)
            until(of_bob, CONNECTED)
            own.kill()
            ann.type("to nobody")
            shown = "document.querySelector('#said em')?.textContent ?? ''"
            until(of_ann, f"{shown}.startsWith('This could not be sent')")
            # Signs out while nobody can be told.
            bob.press("Sign out")
            until(of_bob, "document.querySelector('h1').textContent === 'Who are you?'")
            own.start()
            of_bob.switch_to.window(of_bob.window_handles[0])
            until(of_bob, "document.querySelector('h1').textContent === 'Who are you?'")
            ann.sees_members("Ann")
            ann.type("to all")
            until(of_ann, f"{SAID}.at(-1) === 'to all'")
    finally:
        own.stop()


def check_looks(driver: Chrome) -> None:
    """Check the page in light and dark, wide and narrow."""
    for scheme in "light", "dark":
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert (look(driver, "luminance(background(document.body))") > 0.5) == (scheme == "light")
        assert [one for one in look(driver, "textContrasts()") if one["contrast"] < 4.5] == []
        assert [one for one in look(driver, "controlContrasts()") if one["contrast"] < 3] == []
        assert look(driver, "focusContrast()") >= 3
    for width in 320, 768:
        screen = {"width": width, "height": 640, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        for wrong in "cutOff()", "overlaps()", "smallTargets(44)":
            assert look(driver, wrong) == []


def test_its_pages_look_right_wide_and_narrow_light_and_dark(start: Start, tmp_path: Path) -> None:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    server = start("gunicorn", SESSION_SECRET="x" * 40)
    with open_browser(tmp_path / "ann") as of_ann:
        of_ann.get(f"{server.url}/elsewhere")
        of_ann.find_element(By.LINK_TEXT, "To the chat").send_keys(Keys.ENTER)
        check_looks(of_ann)
        ann = Person(of_ann, server)
        ann.type(" " * 3)
        until(of_ann, "document.querySelector('[role=alert]') !== null")
        check_looks(of_ann)
        ann.type("A_very_long_name_without_space")
        until(of_ann, CONNECTED)
        texts = ["hello", "https://example.com/" + "long" * 50]
        for text in texts:
            ann.type(text)
        ann.sees(*texts)
        ann.sees_members("A_very_long_name_without_space")
        check_looks(of_ann)
        server.stop()
        until(of_ann, "document.querySelector('#state').value.startsWith('Not connected')")
        check_looks(of_ann)


def test_in_development_a_changed_file_starts_the_worker_again(
    start: Start, project: Path, tmp_path: Path
) -> None:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    server = start("gunicorn", "development.ini")
    with open_browser(tmp_path / "ann") as of_ann:
        ann = Person(of_ann, server)
        ann.sign_in("Ann")
        until(of_ann, "document.querySelector('#pDebugToolbarHandle') !== null")
        before = server.children()
        of_ann.execute_script("window.lost = 0")
        of_ann.execute_script(
            "new MutationObserver(() => { window.lost++; })"
            ".observe(document.querySelector('#state'), { childList: true })"
        )
        code = project / "our_chat" / "routes.py"
        code.write_text(code.read_text() + "\n")
        eventually(lambda: not server.children() & before, "the worker is another one")
        until(of_ann, "window.lost > 0")
        until(of_ann, CONNECTED)
        ann.type("here again")
        ann.sees("here again")
