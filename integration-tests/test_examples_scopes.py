"""The application of docs/howto/messages.rst that has a scope for each message."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import Server, eventually
from servers import COROUTINES, serve
from test_examples_databases import MANAGERS
from websockets.exceptions import InvalidStatus

VIEWS = ("plain", "coroutine", "asynchronous")


@pytest.fixture(params=list(MANAGERS))
def manager(request):
    return MANAGERS[request.param]


def start(launch, name: str, url: str, **settings: str) -> Server:
    settings |= {"sqlalchemy.url": url}
    server = serve(launch, name, app="apps.examples:scopes()", settings=settings, wait=False)
    server.up = "/list"
    server.wait_until_up()
    return server


def sign_in(server: Server, user: str) -> dict[str, str]:
    with server.client() as client:
        client.post("/sign_in", data={"token": f"token-{user}", "user": user}).raise_for_status()
    return {"Cookie": f"token=token-{user}"}


def write(server: Server, view: str, user: str, cookie: dict[str, str], count: int) -> None:
    with server.sync_connect(f"/{view}", additional_headers=cookie) as ws:
        for number in range(count):
            ws.send(f"{view} {number}")
            assert ws.recv().startswith("note ")


def notes(server: Server) -> list[str]:
    with server.client() as client:
        return client.get("/list").json()


def use_all(server: Server, clients: int) -> None:
    """Let all kinds of views write, and sign out while connections are open."""
    with pytest.raises(InvalidStatus) as refused:
        server.sync_connect("/plain")
    assert refused.value.response.status_code == 403
    cookies = {user: sign_in(server, user) for user in ("ann", "bob")}
    with ThreadPoolExecutor(clients) as pool:
        jobs = [
            pool.submit(write, server, view, user, cookie, 3)
            for view in VIEWS
            for user, cookie in cookies.items()
        ]
        for job in jobs:
            job.result()
    expected = [f"{u}: {view} {n}" for u in cookies for view in VIEWS for n in range(3)]
    assert sorted(notes(server)) == sorted(expected)
    for view in VIEWS:
        with server.sync_connect(f"/{view}", additional_headers=cookies["ann"]) as ws:
            ws.send("last")
            assert ws.recv().startswith("note ")
            with server.client(cookies={"token": "token-ann"}) as client:
                client.delete("/sign_in").raise_for_status()
            ws.send("too late")
            with pytest.raises(Exception, match="4401"):
                ws.recv()
            assert (ws.close_code, ws.close_reason) == (4401, "signed out")
        sign_in(server, "ann")
    with server.sync_connect("/coroutine", additional_headers=cookies["bob"]) as ws:
        ws.send("undo")
        with pytest.raises(Exception, match="1011"):
            ws.recv()
    eventually(lambda: "ValueError: the note is not kept" in server.log, "it is logged")
    assert sorted(notes(server)) == sorted(expected + [f"ann: {'last'}"] * 3)


@pytest.mark.parametrize("name", COROUTINES)
def test_each_message_has_a_transaction_on_sqlite(launch, name: str, manager, tmp_path):
    # One at a time: SQLite locks all of the database, and tells the others to try again.
    use_all(start(launch, name, f"sqlite:///{tmp_path / 'notes'}", **manager), clients=1)


@pytest.mark.parametrize("name", COROUTINES)
def test_each_message_has_a_transaction_on_postgresql(launch, name: str, manager, postgres):
    rows = postgres.database()
    use_all(start(launch, name, rows.url("postgresql+psycopg"), **manager), clients=6)
    assert rows.sessions("state LIKE 'idle in transaction%'") == 0
