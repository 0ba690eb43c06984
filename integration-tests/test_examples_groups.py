"""The applications of docs/howto/groups.rst, over several workers."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from apps.examples import FOLDER
from harness import Server, closing, cookies, eventually
from redis import Redis
from redis_server import RedisServer
from servers import COROUTINES, serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.publisher import Publisher

WORKERS = 2
KITCHEN, CELLAR = "/rooms/kitchen", "/rooms/cellar"

Launch = Callable[..., Server]


@pytest.fixture(params=COROUTINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def empty_redis(redis: RedisServer) -> None:
    redis.query("flushall")


def start(launch: Launch, name: str, app: str, up: str = "", **settings: str) -> Server:
    options: dict[str, Any] = {"app": f"apps.examples:{app}()", "settings": settings}
    server = serve(launch, name, **options, workers={"workers": WORKERS}, wait=False)
    if up:
        server.up = up
        server.wait_until_up()
    else:  # no page that answers
        server.port = int(server.wait_for_log(server.listening).group(1))
    return server


def in_rooms(launch: Launch, name: str, redis: RedisServer, folder: Path) -> Server:
    (folder / "menu.txt").write_text("soup")
    settings = {
        "session.secret": "of the tests",
        "menu.file": str(folder / "menu.txt"),
        "aiopyramid.broadcast.url": redis.url,
        "aiopyramid.broadcast.history": "room:* = 100",
    }
    return start(launch, name, "rooms", "/status", **settings)


@contextlib.contextmanager
def user(server: Server, name: str, **fields: str) -> Iterator[httpx.Client]:
    """Sign in."""
    with server.client() as client:
        client.post("/sign_in", data={"user": name, **fields}).raise_for_status()
        yield client


class Connections(contextlib.ExitStack):
    """WebSockets, until the block ends."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    def open(self, client: httpx.Client, path: str) -> ClientConnection:
        ws = self.server.sync_connect(path, additional_headers=cookies(client))
        return self.enter_context(ws)  # type: ignore[no-any-return]


def receive(ws: ClientConnection) -> dict[str, Any]:
    return json.loads(ws.recv(timeout=30))  # type: ignore[no-any-return]


def said(ws: ClientConnection) -> tuple[str, str]:
    value = json.loads(receive(ws)["data"])
    return value["user"], value["text"]


def run(script: Path, *args: str) -> None:
    subprocess.run([sys.executable, script, *args], check=True, timeout=30)


def test_rooms(launch: Launch, name: str, redis: RedisServer, tmp_path: Path) -> None:
    server = in_rooms(launch, name, redis, tmp_path)
    with (
        user(server, "ann") as ann,
        user(server, "bob") as bob,
        Connections(server) as connections,
        Redis.from_url(redis.url).pubsub(ignore_subscribe_messages=True) as monitor,
    ):
        members = [connections.open(client, KITCHEN) for client in (ann, bob) * 8]
        for ws in members:
            assert receive(ws).keys() == {"group", "id"}  # it has joined
        listener = connections.open(bob, f"{KITCHEN}/listen")
        eventually(lambda: ann.get(KITCHEN).json() == ["ann", "bob"], "both are there")

        def all_are_counted() -> Any:
            status = ann.get("/status").json()
            return sum(status["workers"].values()) == len(members) + 1 and status

        status = eventually(all_are_counted, "all workers answer")
        assert len(status["workers"]) == WORKERS
        assert status["counters"].keys() >= {"published", "delivered", "failed"}

        def heard(who: str, text: str) -> None:
            assert [said(ws) for ws in members] == [(who, text)] * len(members)
            assert receive(listener) == {"user": who, "text": text}

        members[0].send("hello")
        heard("ann", "hello")
        assert bob.post(f"{KITCHEN}/say", data={"text": "dinner?"}).status_code == 200
        heard("bob", "dinner?")
        assert ann.post(f"{KITCHEN}/ring").status_code == 200
        heard("the bell", "ring")
        run(FOLDER / "announce.py", redis.url, "kitchen", "closing time")
        heard("the management", "closing time")

        # A tween tells who monitors.
        monitor.subscribe("aiopyramid:group:monitor")
        assert monitor.get_message(timeout=30) is None  # it is subscribed
        ann.get(KITCHEN)
        message = eventually(lambda: monitor.get_message(timeout=1), "the request is told")
        assert message["data"].endswith(b"\n200 GET /rooms/kitchen")
    assert "Traceback" not in server.log


def test_who_comes_again_has_missed_nothing(
    launch: Launch, name: str, redis: RedisServer, tmp_path: Path
) -> None:
    server = in_rooms(launch, name, redis, tmp_path)
    with user(server, "ann") as ann, Connections(server) as connections:
        ws = connections.open(ann, KITCHEN)
        where = receive(ws)["id"]
        ws.close()
        for text in ("one", "two"):
            ann.post(f"{KITCHEN}/say", data={"text": text})
        again = connections.open(ann, f"{KITCHEN}?after.room:kitchen={where}")
        assert [said(again) for _ in range(2)] == [("ann", "one"), ("ann", "two")]
        lost = connections.open(ann, f"{KITCHEN}?after.room:kitchen=nonsense")
        assert receive(lost) == {"group": "room:kitchen", "resync": "history"}
        assert said(lost) == ("ann", "one")


def test_only_who_may_enter_gets_in(
    launch: Launch, name: str, redis: RedisServer, tmp_path: Path
) -> None:
    server = in_rooms(launch, name, redis, tmp_path)
    with user(server, "bob") as bob, server.client() as nobody, Connections(server) as connections:
        for client, path, status in [
            (bob, CELLAR, 403),
            (bob, f"{CELLAR}/listen", 403),
            (nobody, KITCHEN, 403),
            (bob, "/rooms/bedroom", 404),
        ]:
            with pytest.raises(InvalidStatus) as refused:
                connections.open(client, path)
            assert refused.value.response.status_code == status
            assert client.get(path.removesuffix("/listen")).status_code == status
        assert bob.post(f"{CELLAR}/say", data={"text": "hello"}).status_code == 403


def test_typing_is_told_to_all_others(
    launch: Launch, name: str, redis: RedisServer, tmp_path: Path
) -> None:
    server = in_rooms(launch, name, redis, tmp_path)
    with user(server, "ann") as ann, Connections(server) as connections:
        members = [connections.open(ann, f"{KITCHEN}/typing") for _ in range(4)]

        def told() -> bool:
            """Have all joined? The last one says so until the others have heard it."""
            members[-1].send("ready")
            with contextlib.suppress(TimeoutError):
                return all(ws.recv(timeout=1) == "ready" for ws in members[:-1])
            return False

        eventually(told, "all have joined")
        members[0].send("ann types")
        for ws in members[1:]:
            until(ws, "ann types")
        members[1].send("end")
        assert until(members[0], "end") <= {"ready"}


def until(ws: ClientConnection, last: str) -> set[str]:
    """Receive up to a message, and return those before it."""
    return set(iter(lambda: ws.recv(timeout=30), last))  # type: ignore[arg-type]


def test_all_workers_forget_what_has_changed(
    launch: Launch, name: str, redis: RedisServer, tmp_path: Path
) -> None:
    server = in_rooms(launch, name, redis, tmp_path)

    def menus() -> set[str]:
        found = set()
        for _ in range(10):
            with server.client() as client:
                found.add(client.get("/menu").json())
        return found

    assert menus() == {"soup"}
    with server.client() as client:
        assert client.put("/menu", content="salad").status_code == 200
    eventually(lambda: menus() == {"salad"}, "all workers know it")


def test_a_broker_that_is_gone_is_told(
    launch: Launch, name: str, redis: RedisServer, tmp_path: Path
) -> None:
    own = RedisServer(redis.command[0])
    try:
        server = in_rooms(launch, name, own, tmp_path)
        with user(server, "ann") as ann, Connections(server) as connections:
            ws = connections.open(ann, KITCHEN)
            receive(ws)
            ws.send("hello")
            assert said(ws) == ("ann", "hello")
            own.kill()
            server.wait_for_log("was lost: .*; it is tried again")
            answer = ann.post(f"{KITCHEN}/say", data={"text": "hello?"})
            assert answer.status_code == 503
            server.wait_for_log("messages do not reach the broker: ")
            own.start()
            server.wait_for_log(r"is back: \d+ channels may have gaps")
            # Its history was lost with it.
            assert receive(ws) == {"group": "room:kitchen", "resync": "reconnect"}

            def is_said() -> bool:
                answer = ann.post(f"{KITCHEN}/say", data={"text": "still there?"})
                return answer.status_code == 200

            eventually(is_said, "it is said")
            assert said(ws) == ("ann", "still there?")
            server.wait_for_log("messages reach the broker again")
    finally:
        own.stop()


def test_a_class_that_tells_who_comes_and_goes(
    launch: Launch, name: str, redis: RedisServer
) -> None:
    server = start(launch, name, "room", **{"aiopyramid.broadcast.url": redis.url})
    with server.sync_connect("/room?name=ann") as ann:
        assert receive(ann) == {"from": "ann", "text": "joined"}
        with server.sync_connect("/room?name=bob") as bob:
            for ws in ann, bob:
                assert receive(ws) == {"from": "bob", "text": "joined"}
            bob.send("hello")
            for ws in ann, bob:
                assert receive(ws) == {"from": "bob", "text": "hello"}
        assert receive(ann) == {"from": "bob", "text": "left"}
    with pytest.raises(InvalidStatus):
        server.sync_connect("/room")


# Transactions, and signing out.


def test_notices(launch: Launch, name: str, redis: RedisServer, tmp_path: Path) -> None:
    settings = {
        "sqlalchemy.url": f"sqlite:///{tmp_path / 'notices'}",
        "aiopyramid.broadcast.url": redis.url,
    }
    # Two workers that begin together would both make the table.
    code = "import sys, notices; notices.main(**{'sqlalchemy.url': sys.argv[1]})"
    command = [sys.executable, "-W", "ignore", "-c", code, settings["sqlalchemy.url"]]
    subprocess.run(command, cwd=FOLDER, check=True)
    server = start(launch, name, "notices", **settings)
    with (
        user(server, "ann", token="one") as ann,
        user(server, "ann", token="two") as ann_elsewhere,
        user(server, "bob", token="three") as bob,
        Connections(server) as connections,
    ):
        of_ann = [connections.open(client, "/notices") for client in (ann, ann_elsewhere) * 2]
        of_bob = connections.open(bob, "/notices")
        for ws in [*of_ann, of_bob]:
            assert receive(ws) == {"group": "notices"}
        for number, text in enumerate(["kept", "kept too"], 1):
            preview = {"text": f"{text}?", "preview": "1"}
            assert bob.post("/notices", data=preview).status_code == 200
            assert bob.post("/notices", data={"text": text}).json() == {"id": number, "text": text}
            for ws in [*of_ann, of_bob]:
                assert json.loads(receive(ws)["data"]) == {"id": number, "text": text}
        assert ann.post("/sign_out").status_code == 200
        for ws in of_ann:
            assert closing(ws) == (4401, "signed out")
        with pytest.raises(InvalidStatus):
            connections.open(ann_elsewhere, "/notices")
        bob.post("/notices", data={"text": "still here"})
        assert json.loads(receive(of_bob)["data"])["text"] == "still here"
    assert "Traceback" not in server.log


# The rights that docs/howto/scaling.rst lists.


@pytest.fixture
def users(redis: RedisServer) -> Iterator[None]:
    lines = (FOLDER / "redis_users.acl").read_text().splitlines()
    names = []
    for line in lines:
        _, name, *rights = line.split()
        redis.query("acl", "setuser", name, "reset", *rights)
        names.append(name)
    redis.query("acl", "log", "reset")
    yield
    redis.query("acl", "deluser", *names)


def test_the_rights_at_redis_are_enough(
    launch: Launch, name: str, redis: RedisServer, users: None, tmp_path: Path
) -> None:
    address = redis.url.removeprefix("redis://")

    class Restricted:
        url = f"redis://app:secret@{address}"

    server = in_rooms(launch, name, Restricted(), tmp_path)  # type: ignore[arg-type]
    with user(server, "ann") as ann, Connections(server) as connections:
        ws = connections.open(ann, KITCHEN)
        where = receive(ws)["id"]
        ws.send("hello")
        assert said(ws) == ("ann", "hello")
        ws.close()
        again = connections.open(ann, f"{KITCHEN}?after.room:kitchen={where}")
        assert said(again) == ("ann", "hello")
        run(FOLDER / "announce.py", f"redis://script:secret@{address}", "kitchen", "closing time")
        receive(again)  # it has joined
        assert said(again) == ("the management", "closing time")
        again.close()
        eventually(lambda: ann.get(KITCHEN).json() == [], "nobody is there")
    server.stop()
    # A newer Redis is also told of the client's version, which may fail.
    denied = re.findall(r"^object\n(\S+)", redis.query("acl", "log"), re.MULTILINE)
    assert set(denied) <= {"client|setinfo"}


@pytest.mark.parametrize(("others", "rights"), [("app", "resetchannels"), ("script", "-eval")])
def test_each_of_them_is_needed(redis: RedisServer, users: None, others: str, rights: str) -> None:
    redis.query("acl", "setuser", others, rights)
    url = f"redis://{others}:secret@{redis.url.removeprefix('redis://')}"
    with Publisher(url, history={"a": 3}) as publisher, pytest.raises(BroadcastError):
        publisher.publish("a", "x")
