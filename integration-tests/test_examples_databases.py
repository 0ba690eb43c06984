"""The application of docs/howto/databases.rst."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from harness import Server
from servers import COROUTINES, serve

MANAGERS = {"installed": {}, "explicit": {"tm.manager_hook": "pyramid_tm.explicit_manager"}}


@pytest.fixture(params=list(MANAGERS))
def manager(request):
    return MANAGERS[request.param]


def start(launch, name: str, url: str, **settings: str) -> Server:
    settings |= {"sqlalchemy.url": url, "retry.attempts": "100"}
    server = serve(launch, name, app="apps.examples:databases()", settings=settings, wait=False)
    server.up = "/notes"
    server.wait_until_up()
    return server


def post(client: httpx.Client, path: str, text: str = "") -> object:
    answer = client.post(path, data={"text": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


def flat(results: list) -> list[int]:
    return [n for each in results for n in (each if isinstance(each, list) else [each])]


def write_side_by_side(server: Server) -> None:
    """Let all kinds of views write at once."""
    with server.client() as client, ThreadPoolExecutor(12) as pool:
        jobs = [
            pool.submit(post, client, path, f"{path} {n}")
            for n in range(4)
            for path in ("/notes", "/translations", "/orders")
        ]
        results = [job.result() for job in jobs]
        assert len(set(flat(results))) == 16
        notes = client.get("/notes").json()
        assert client.get("/number").json() == 16
    expected = [f"/notes {n}" for n in range(4)]
    expected += [f"/translations {n}, translated" for n in range(4)]
    expected += ["ordered", "confirmed, translated"] * 4
    assert sorted(notes) == sorted(expected)


@pytest.mark.parametrize("name", COROUTINES)
def test_all_views_write_to_sqlite(launch, name: str, manager, tmp_path):
    write_side_by_side(start(launch, name, f"sqlite:///{tmp_path / 'notes'}", **manager))


@pytest.mark.parametrize("name", COROUTINES)
def test_all_views_write_to_postgresql(launch, name: str, manager, postgres):
    rows = postgres.database()
    write_side_by_side(start(launch, name, rows.url("postgresql+psycopg"), **manager))
    assert rows.sessions("state LIKE 'idle in transaction%'") == 0


@pytest.mark.parametrize("name", COROUTINES)
def test_asynchronous_sessions_count(launch, name: str, postgres):
    server = start(launch, name, postgres.database().url("postgresql+psycopg"))
    with server.client() as client, ThreadPoolExecutor(8) as pool:
        path = f"/notes/{post(client, '/notes', 'liked')}/likes"
        likes = list(pool.map(lambda _: post(client, path), range(20)))
    assert sorted(likes) == list(range(1, 21))


@pytest.mark.parametrize("name", COROUTINES)
def test_requests_that_another_one_forestalled_are_tried_again(launch, name, manager, postgres):
    url = postgres.database().url("postgresql+psycopg")
    server = start(launch, name, url, **{"sqlalchemy.isolation_level": "SERIALIZABLE"}, **manager)
    with server.client() as client, ThreadPoolExecutor(4) as pool:
        path = f"/notes/{post(client, '/notes', 'liked')}/likes"
        likes = list(pool.map(lambda _: client.put(path).json(), range(12)))
    assert sorted(likes) == list(range(1, 13))
