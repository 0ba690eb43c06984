"""pyramid_tm, SQLAlchemy and locks, on the servers that a plain application runs on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest
from harness import PATIENCE, Server, eventually
from servers import COROUTINES, PLAIN, THREADS, serve

MANAGERS = {"installed": {}, "explicit": {"tm.manager_hook": "pyramid_tm.explicit_manager"}}
COUNT = "SELECT count(*) FROM rows"
APP = "apps.transactions:main()"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """An empty database: its URL for SQLAlchemy, and a function that runs SQL."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres").database()
        return server.url("postgresql+psycopg"), server.query
    path = tmp_path / "rows.sqlite"

    def query(sql: str) -> str:
        with closing(sqlite3.connect(path)) as connection:
            return str(connection.execute(sql).fetchone()[0])

    return f"sqlite:///{path}", query


@pytest.fixture
def rows(postgres):
    """A PostgreSQL database for the tests that need no other."""
    return postgres.database()


@pytest.fixture(params=list(MANAGERS))
def manager(request):
    return MANAGERS[request.param]


def get_all(server: Server, paths: list[str], timeout: float = PATIENCE) -> list[httpx.Response]:
    """Send requests side by side."""
    with server.client(timeout) as client, ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(client.get, paths))


def statuses(responses: list[httpx.Response]) -> set[int]:
    return {response.status_code for response in responses}


def start(launch: Callable[..., Server], name: str, url: str = "", **settings: Any) -> Server:
    if url:
        settings["database"] = url
    return serve(launch, name, app=APP, settings=settings)


@pytest.mark.parametrize("name", PLAIN)
def test_each_request_that_answers_200_has_written_its_row(launch, name, manager, database):
    url, query = database
    server = start(launch, name, url, **manager)
    assert statuses(get_all(server, ["/add"] * 24)) == {200}
    assert query(COUNT) == "24"


@pytest.mark.parametrize("name", COROUTINES)
@pytest.mark.parametrize(("path", "each"), [("/add_around_wait", 2), ("/add_from_coroutine", 1)])
def test_requests_that_wait_write_in_their_own_transaction(
    launch, name, manager, rows, path: str, each: int
):
    server = start(launch, name, rows.url("postgresql+psycopg"), **manager)
    paths = [f"{path}?number={number}" for number in range(8)]
    assert statuses(get_all(server, paths)) == {200}
    assert rows.query(COUNT) == str(8 * each)
    assert rows.query("SELECT count(DISTINCT number) FROM rows") == "8"


@pytest.mark.parametrize("name", PLAIN)
def test_a_view_that_raises_leaves_no_row(launch, name, manager, database):
    url, query = database
    server = start(launch, name, url, **manager)
    assert statuses(get_all(server, ["/add_and_fail"] * 4)) == {500}
    # Nor does it leave one for the next request of its thread.
    assert statuses(get_all(server, ["/add"] * THREADS)) == {200}
    assert query(COUNT) == str(THREADS)


@pytest.mark.parametrize("name", COROUTINES)
@pytest.mark.parametrize("path", ["/add_and_fail_in_coroutine", "/add_from_coroutine_and_fail"])
def test_a_coroutine_that_raises_leaves_no_row(launch, name, manager, rows, path: str):
    server = start(launch, name, rows.url("postgresql+psycopg"), **manager)
    assert statuses(get_all(server, [path] * 4)) == {500}
    assert statuses(get_all(server, ["/add"] * THREADS)) == {200}
    assert rows.query(COUNT) == str(THREADS)
    assert rows.sessions("state LIKE 'idle in transaction%'") == 0


@pytest.mark.parametrize("name", COROUTINES)
def test_asynchronous_sessions_write_from_a_coroutine_view(launch, name, rows):
    server = start(launch, name, rows.url("postgresql+psycopg"))
    assert statuses(get_all(server, [f"/add_async?number={n}" for n in range(12)])) == {200}
    assert statuses(get_all(server, ["/add_async_and_fail"])) == {500}
    assert rows.query("SELECT count(DISTINCT number) FROM rows") == "12"
    assert rows.query(COUNT) == "12"


@pytest.mark.parametrize("name", COROUTINES)
def test_the_transaction_of_the_loop_s_thread_is_refused(launch, name):
    server = start(launch, name)
    with server.client() as client:
        text = client.get("/touch_on_loop").text
    assert text.startswith("transaction.manager.get was used on the event loop")
    assert "use_request_thread" in text


@pytest.mark.parametrize("path", ["/add", "/add_around_wait", "/add_and_fail"])
def test_loop_requests_write_with_the_explicit_manager(launch, rows, path: str):
    settings = {"database": rows.url("postgresql+psycopg"), **MANAGERS["explicit"]}
    server = launch(app=APP, variant="gunicorn-loop", settings=settings)
    answers = get_all(server, [path] * 24)
    assert statuses(answers) == ({500} if "fail" in path else {200})
    assert rows.query(COUNT) == {"/add": "24", "/add_around_wait": "48", "/add_and_fail": "0"}[path]


@pytest.mark.parametrize("variant", ["gunicorn-loop", "uwsgi-uvloop"])
def test_loop_requests_refuse_the_manager_as_installed(launch, variant: str):
    server = launch(app=APP, variant=variant, wait=False)
    assert server.wait() != 0
    assert "ConfigurationError: tm.manager_hook is not set" in server.log


HOLDERS = [(name, "/change_and_hold") for name in PLAIN]
HOLDERS += [
    (name, path) for name in COROUTINES for path in ("/change_and_wait", "/change_in_coroutine")
]


@pytest.mark.parametrize(("name", "holder"), HOLDERS)
def test_a_commit_that_waits_for_a_row_lock_stops_no_other_request(
    launch, name, manager, rows, holder: str
):
    server = start(launch, name, rows.url("postgresql+psycopg"), **manager)
    rows.query("INSERT INTO rows VALUES (1, 0)")
    with server.client() as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.get, holder)
        server.eventually_state(
            lambda state: first.done() or state["counts"].get("held"), "the row is locked"
        )
        assert not first.done(), server.log
        second = pool.submit(client.get, "/change")
        eventually(lambda: rows.sessions("wait_event_type = 'Lock'"), "a commit waits for the row")
        # Well before gunicorn ends a worker that hangs.
        assert client.get("/up", timeout=PATIENCE / 3).text == "up"
        assert client.get("/let_go_on", timeout=PATIENCE / 3).text == "told"
        assert statuses([first.result(), second.result()]) == {200}
    assert rows.query("SELECT number FROM rows") == "2"


LOCKED = [(name, "/locked_in_thread") for name in PLAIN]
LOCKED += [
    (name, path)
    for name in COROUTINES
    for path in ("/locked_in_coroutine", "/locked_and_synchronized")
]


@pytest.mark.parametrize(("name", "path"), LOCKED)
def test_a_tween_may_hold_a_lock_while_its_view_waits(launch, name, path: str):
    server = start(launch, name)
    # The first to have the lock waits until another one wants it.
    paths = [f"{path}?others=1"] + [path] * 5
    with server.client(PATIENCE / 2) as client, ThreadPoolExecutor(6) as pool:
        first = pool.submit(client.get, paths[0])
        server.eventually_state(
            lambda state: state["counts"].get("want the lock"), "the lock is taken"
        )
        others = [pool.submit(client.get, path) for path in paths[1:]]
        assert statuses([job.result() for job in [first, *others]]) == {200}


@pytest.mark.parametrize(("name", "path"), LOCKED)
def test_a_request_that_waits_goes_on_though_all_threads_want_its_lock(launch, name, path: str):
    server = start(launch, name)
    # Where a request keeps its thread for good, one less is left for the others.
    others = THREADS if name == "gunicorn" and path != "/locked_in_thread" else THREADS - 1
    with server.client(PATIENCE / 2) as client, ThreadPoolExecutor(THREADS * 2) as pool:
        first = pool.submit(client.get, f"{path}?others={others}")
        server.eventually_state(
            lambda state: state["counts"].get("want the lock"), "the lock is taken"
        )
        rest = [pool.submit(client.get, path) for _ in range(THREADS * 2 - 1)]
        assert statuses([job.result() for job in [first, *rest]]) == {200}
