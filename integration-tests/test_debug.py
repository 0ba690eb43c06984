"""The debugging aids, under each server: docs/howto/debugging.rst."""

from __future__ import annotations

import configparser
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from apps.examples import FOLDER
from harness import OTHERS, PATIENCE, VARIANTS, WEBSOCKET_VARIANTS, Server

APP = "apps.debugging:main()"
ALL = [*VARIANTS, *OTHERS]

CALLBACK = {"aiopyramid.debug.slow_callback": "0.2"}
REQUEST = {"aiopyramid.debug.slow_request": "0.2"}

HELD = "The event loop has been held for "
GOES_ON = "The event loop goes on, after "


@pytest.fixture
def start(launch: Callable[..., Server], tmp_path: Path) -> Callable[..., Any]:
    """Start a server; give it, and a function that lets its views go on."""

    def start(variant: str, settings: dict[str, str], **options: Any) -> Any:
        go_on = tmp_path / "go_on"
        settings = settings | {"go_on": str(go_on)}
        return launch(variant=variant, app=APP, settings=settings, **options), go_on.touch

    return start


def get(server: Server, path: str) -> str:
    with server.client() as client:
        return client.get(path).text


@pytest.mark.parametrize("variant", ALL)
def test_what_holds_the_loop_is_logged_while_it_does(start, variant: str) -> None:
    server, go_on = start(variant, CALLBACK)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, server, "/holding")
        head = server.wait_for_log(f"{HELD}.*").group()
        server.wait_for_log(r"in hold\n +time\.sleep\(0\.01\)")  # the end of its stack
        assert not answer.done()
        assert GOES_ON not in server.log
        go_on()
        assert answer.result() == "held"
    assert re.search(r"by .*apps/debugging\.py:\d+ in hold \(coroutine holding", head)
    server.wait_for_log(f"{GOES_ON}\\d")
    assert server.log.count(HELD) == server.log.count(GOES_ON) == 1


@pytest.mark.parametrize("variant", WEBSOCKET_VARIANTS)
def test_a_websocket_that_holds_the_loop_is_named(start, variant: str) -> None:
    server, go_on = start(variant, CALLBACK)
    with server.sync_connect("/ws/one") as ws:
        ws.send("hold")
        head = server.wait_for_log(f"{HELD}.*").group()
        go_on()
        assert ws.recv() == "hold"
    assert re.search(r" in hold \(coroutine ws, task '.*', WebSocket /ws/one\):", head)


@pytest.mark.parametrize(
    "variant", ["gunicorn-uvloop", "gunicorn-asyncio", "uwsgi-threads", "uwsgi-asyncio"]
)
def test_a_loop_that_was_made_after_a_fork_is_watched(start, variant: str) -> None:
    """gunicorn and uWSGI load the application before it, and each worker has a thread."""
    args = ["--preload"] if variant.startswith("gunicorn") else []
    server, go_on = start(variant, CALLBACK, args=args, workers={"workers": 2})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, server, "/holding")
        server.wait_for_log(f"{HELD}.*in hold")
        go_on()
        assert answer.result() == "held"


@pytest.mark.parametrize("path", ["plain", "waiting", "synchronized", "nested"])
@pytest.mark.parametrize("variant", ALL)
def test_a_request_that_takes_long_is_logged_while_it_runs(start, variant: str, path: str) -> None:
    if path == "nested" and variant in ("gunicorn-loop", "uwsgi-uvloop", "uwsgi-asyncio"):
        pytest.skip("loop requests have no thread")
    server, go_on = start(variant, REQUEST)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, server, f"/{path}?secret")
        text = "time" if path in ("plain", "nested") else "await asyncio"
        server.wait_for_log(rf"GET /{path} has run for \d+\.\d s:(?s:.*) {text}\.sleep\(0\.01\)")
        assert not answer.done()
        go_on()
        assert answer.result() == "waited"
    assert server.log.count(f"GET /{path} has run for") == 1
    lines = server.log.splitlines()
    functions = [line.rpartition(" in ")[2] for line in lines if "apps/debugging.py" in line]
    last = "hold" if path in ("plain", "nested") else "wait"
    assert functions == [path, last]  # and not the code of its next step
    is_coroutine = path != "plain" or variant in ("gunicorn-loop", "uwsgi-uvloop", "uwsgi-asyncio")
    assert ("  Task '" in server.log) == is_coroutine


@pytest.mark.parametrize("variant", ALL)
def test_a_server_that_has_nothing_slow_says_nothing_and_stops(start, variant: str) -> None:
    server, _ = start(variant, {**CALLBACK, "aiopyramid.debug.slow_request": "20"})
    assert get(server, "/coroutine_page") == get(server, "/page")
    server.signal(signal.SIGINT)
    server.wait()
    for text in HELD, GOES_ON, "has run for", "could not look", "Traceback":
        assert text not in server.log or (text == "Traceback" and variant in OTHERS)


@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "uwsgi-threads"])
def test_in_development_it_is_on(start, variant: str) -> None:
    server, go_on = start(variant, {"pyramid.reload_templates": "true"})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, server, "/holding")
        server.wait_for_log(HELD)
        go_on()
        assert answer.result() == "held"


@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "uwsgi-threads"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"aiopyramid.debug.slow_request": "soon"},
            "aiopyramid.debug.slow_request = 'soon' is not allowed: "
            "it must be a number of seconds above 0, or 0 to switch it off",
        ),
        (
            {"aiopyramid.debug.slow": "1"},
            "unknown setting aiopyramid.debug.slow; the settings are slow_callback, slow_request",
        ),
    ],
)
def test_a_bad_setting_stops_the_start(
    start, variant: str, settings: dict[str, str], message: str
) -> None:
    server, _ = start(variant, settings, wait=False)
    assert server.wait() != 0
    assert message in server.log


# The toolbar.


@pytest.mark.parametrize("includes", ["pyramid_debugtoolbar", "aiopyramid pyramid_debugtoolbar"])
@pytest.mark.parametrize("variant", ["gunicorn-uvloop", "uwsgi-threads"])
def test_the_toolbar_lists_open_websockets(start, variant: str, includes: str) -> None:
    pytest.importorskip("pyramid_debugtoolbar")
    server, _ = start(variant, {"pyramid.includes": includes})
    with server.client() as client, server.sync_connect("/ws/%3Cb%3E") as ws:
        assert set(map(str.lower, ws.response.headers)) <= {
            "connection",
            "date",
            "sec-websocket-accept",
            "server",
            "upgrade",
        }
        ws.send("a message")
        assert ws.recv() == "a message"
        for path in "/page", "/coroutine_page":
            page = client.get(path)
            assert 'id="pDebug"' in page.text
            link = re.search(r"/_debug_toolbar/[0-9a-f]+", page.text).group()
            report = client.get(link).text
            row = r"<td>/ws/%3Cb%3E</td><td>127\.0\.0\.1</td><td></td><td>[\d: -]+</td>"
            row += r"<td>1</td><td>1</td><td>15</td><td>11</td><td>apps\.debugging\.ws</td>"
            assert re.search(row, report)
    assert "Traceback" not in server.log


# The application of the documentation.


def test_the_gallery_says_what_is_wrong_with_it(launch: Callable[..., Server]) -> None:
    ini = configparser.ConfigParser()
    ini.read(FOLDER / "debugging.ini")
    settings = dict(ini["app:main"])
    del settings["use"]
    settings["aiopyramid.debug.slow_request"] = "0.3"
    server = launch(app="apps.examples:gallery()", settings=settings, wait=False)
    server.up = "/thumbnail"
    server.wait_until_up()
    server.wait_for_log(
        rf"{HELD}\d\.\d\d s by \S+/debugging\.py:\d+ in resize\S* "
        r"\(coroutine thumbnail, task 'Task-\d+'\):\n  File "
    )
    server.wait_for_log(rf"{GOES_ON}\d+\.\d\d s")
    with server.client(timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.get, "/report")
        server.wait_for_log(
            r"GET /report has run for \d\.\d s:\n  Thread 'aiopyramid-request-\d+':\n  File (?s:.*)"
            r"  Task 'Task-\d+':\n"
            r'  File ".*debugging\.py", line \d+, in report\n.*\n(.*\^\n)?'
            r'  File ".*debugging\.py", line \d+, in count\n.*\n(.*\^\n)?'
            r'  File ".*locks\.py"(?s:.*)'
            r"  waits for <Future pending"
        )
        server.signal(signal.SIGINT)  # it ends what would wait for ever
        assert answer.exception() is not None
