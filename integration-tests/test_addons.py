"""Pyramid's add-ons, on the servers that a plain application runs on."""

from __future__ import annotations

import contextlib
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from harness import PATIENCE
from servers import COROUTINES, FIT, PLAIN, serve

APP = "apps.addons:main()"


def cases(plain: list[str], coroutine: list[str], fit: list[str] = FIT) -> list[tuple[str, str]]:
    """Give (server, path): what needs no event loop on all servers, the rest where there is one."""
    pairs = [(name, path) for name in ["gthread", *fit] for path in plain]
    return pairs + [(name, path) for name in fit for path in coroutine]


# Its view for all exceptions raises them again.
CORNICE = {"pyramid.includes": "cornice"}
FLAKY = cases(["/flaky"], ["/flaky_async", "/flaky_synchronized"])


@pytest.mark.parametrize("size", [0, 10, 300_000])
@pytest.mark.parametrize(("name", "path"), FLAKY)
def test_each_attempt_gets_the_whole_of_a_chunked_body(launch, name, path: str, size: int):
    server = serve(launch, name, app=APP, settings=CORNICE)
    body = bytes(range(256)) * (size // 256) + b"." * (size % 256)

    def chunks():
        for start in range(0, size, 50_000):
            yield body[start : start + 50_000]

    with server.client() as client:
        answer = client.post(f"{path}?name=chunked", content=chunks())
        assert answer.json() == {"bodies": [hashlib.sha256(body).hexdigest()] * 3}
        answer = client.post(f"{path}?name=sized", content=body)
        assert answer.json() == {"bodies": [hashlib.sha256(body).hexdigest()] * 3}


@pytest.mark.parametrize("name", FIT)
def test_requests_are_retried_side_by_side(launch, name):
    server = serve(launch, name, app=APP, settings=CORNICE)
    with server.client() as client, ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(client.post, f"{path}?name={path}{n}", content=f"body {n}")
            for path in ("/flaky", "/flaky_async", "/flaky_synchronized")
            for n in range(8)
        ]
        assert {len(job.result().json()["bodies"]) for job in jobs} == {3}


@pytest.mark.parametrize(("name", "path"), cases(["/logged"], ["/logged_async"]))
def test_a_plain_exception_view_can_log_the_exception(launch, name, path: str):
    server = serve(launch, name, app=APP)
    with server.client() as client:
        assert client.get(path).text == "logged True"
    server.wait_for_log(
        r"this is logged\nTraceback(.*\n)+?apps\.addons\.LoggedError: by the helper"
    )
    assert "in plain_helper" in server.log
    assert f"in {path[1:]}" in server.log


@pytest.mark.parametrize(("name", "path"), cases(["/reraised"], ["/reraised_async"]))
def test_a_plain_exception_view_can_raise_the_exception_again(launch, name, path: str):
    server = serve(launch, name, app=APP)
    with server.client() as client:
        assert client.get(path).text == "caught: by the helper"


@pytest.mark.parametrize("path", ["/in_coroutine", "/in_coroutine_async"])
@pytest.mark.parametrize("name", FIT)
def test_a_coroutine_exception_view_sees_the_exception(launch, name, path: str):
    server = serve(launch, name, app=APP)
    with server.client() as client:
        assert client.get(path).text == "True True"  # before and after it waits


BROKEN = cases(["/broken_view"], ["/broken_synchronized_view", "/broken_coroutine_view"])


@pytest.mark.parametrize("includes", ["", "cornice"])
@pytest.mark.parametrize(("name", "path"), BROKEN)
def test_the_traceback_of_an_error_leads_to_where_it_was_raised(
    launch, name, path: str, includes: str
):
    server = serve(launch, name, app=APP, settings={"pyramid.includes": includes})
    with server.client() as client, contextlib.suppress(httpx.RemoteProtocolError):
        assert client.get(path).status_code == 500  # uWSGI answers nothing
    functions = [path[1:], "plain_helper"]
    if path != "/broken_view":
        functions.insert(1, "coroutine_helper")
    frames = "".join(rf"(?s:.*), in {function}\n" for function in functions)
    server.wait_for_log(rf"Traceback {frames}(?s:.*)RuntimeError: by the helper")


# The lock of its panel would stop loop requests.
TOOLBAR = cases(["/profiled"], ["/profiled_async", "/profiled_synchronized"], COROUTINES)


@pytest.mark.parametrize(("name", "path"), TOOLBAR)
def test_the_toolbar_profiles_two_requests_at_once(launch, name, path: str):
    server = serve(launch, name, app="apps.addons:toolbar_main()")

    def get(_: int) -> str:
        with server.client(PATIENCE / 2, cookies={"pdtb_active": "performance"}) as client:
            answer = client.get(path)
            assert answer.status_code == 200
            return answer.text

    with ThreadPoolExecutor(2) as pool:
        pages = list(pool.map(get, range(2)))
    assert "done" in pages[0]
    links = [re.search(r"/_debug_toolbar/[0-9a-f]+", page) for page in pages]
    with server.client() as client:
        report = client.get(links[0].group()).text
    assert "Performance" in report
    assert "another_came" in report or path == "/profiled_async"  # which runs on the loop


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [(name, "/greeting", "Hello thread!") for name in [*PLAIN, "loop"]]
    + [(name, "/greeting_async", "Hello coroutine!") for name in FIT],
)
def test_a_template_is_rendered_with_jinja2(launch, name, path: str, text: str):
    server = serve(launch, name, app=APP)
    with server.client() as client:
        assert client.get(path).text == text


@pytest.mark.parametrize(("name", "path"), cases(["/visit"], ["/visit_async"]))
def test_a_session_counts_visits_that_bring_its_token(launch, name, path: str):
    server = serve(launch, name, app=APP)

    def visits(client: httpx.Client) -> list[str]:
        headers = {"X-CSRF-Token": client.get("/token").text}
        assert client.post(path, data={"csrf_token": "another"}).status_code == 400
        texts = [client.post(path, headers=headers).text for _ in range(3)]
        with server.client() as stranger:
            assert stranger.post(path, headers=headers).status_code == 400
        return texts

    def visitor(_: int) -> list[str]:
        with server.client() as client:
            return visits(client)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(visitor, range(4))) == [["1", "2", "3"]] * 4
