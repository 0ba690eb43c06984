"""The client of groups in JavaScript, in a real browser, with Redis and several workers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import browser
import harness
import pytest
from harness import Server, eventually
from redis_server import RedisServer
from selenium.webdriver import Chrome

from aiopyramid.broadcast.publisher import Publisher

VARIANTS = ["gunicorn-uvloop", "uwsgi-threads", "uwsgi-uvloop"]

HISTORY = "kept:* = 100000\nkept:short = 3"

# `log` has what the client tells, in order.
CONNECT = """return (async () => {
globalThis.connect = (await import("/aiopyramid/groups.js")).connect;
globalThis.log = [];
globalThis.note = (what) => (event) => { log.push({ what, ...event }); };
globalThis.feed = connect(%s, {
  onmessage: note("message"), onresync: note("resync"), onopen: note("open"),
  onclose: note("close"),
  onother: (data) => {
    const other = typeof data === "string" ? data : [...new Uint8Array(data)];
    try { log.push({ what: "joined", ...JSON.parse(other) }); }
    catch { log.push({ what: "other", data: other }); }
  },
});
})()"""

# What the browser says of its network, and when; time passes when the test says so.
STUBS = """
globalThis.online = true;
Object.defineProperty(navigator, "onLine", { get: () => online });
globalThis.goOnline = (to) => { online = to; if (to) dispatchEvent(new Event("online")); };
globalThis.later = 0;
globalThis.delays = [];
globalThis.sockets = 0;
{
  const { setTimeout, performance, WebSocket } = globalThis;
  const now = performance.now.bind(performance);
  performance.now = () => now() + later;
  globalThis.setTimeout = (callback, delay) => {
    delays.push(delay);
    return setTimeout(callback, 0);
  };
  globalThis.WebSocket = class extends WebSocket {
    constructor(...args) { super(...args); sockets += 1; }
  };
}
Math.random = () => 1;
"""


class Client:
    """A page with the client in it."""

    def __init__(self, driver: Chrome, server: Server, publisher: Publisher) -> None:
        self.driver = driver
        self.server = server
        self.publisher = publisher

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def until(self, expression: str) -> None:
        browser.until(self.driver, expression)

    def connect(self, *groups: str) -> None:
        """Connect, and wait until the groups are joined."""
        url = "/room?" + urlencode([("group", group) for group in groups])
        self.run(CONNECT % json.dumps(url))
        self.wait_for("joined")

    def close(self) -> None:
        """Close the connection, and wait until it is closed."""
        self.run("feed.close()")
        self.until("log.at(-1).what === 'close'")

    def log(self, what: str = "") -> list[dict[str, Any]]:
        log = json.loads(self.run("return JSON.stringify(log)"))
        return [event for event in log if event["what"] == what] if what else log

    def wait_for(self, what: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until something has happened so many times."""
        self.until(f"log.filter((event) => event.what === '{what}').length >= {count}")
        return self.log(what)

    def data(self, group: str) -> list[Any]:
        return [event["data"] for event in self.log("message") if event["group"] == group]


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, variant: str, redis: RedisServer
) -> Iterator[Server]:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    kind, args = harness.VARIANTS[variant]
    server = kind(tmp_path_factory.mktemp("server") / "server.log")
    settings = {"url": redis.url, "prefix": variant, "history": HISTORY}
    server.launch(
        app="apps.groups_client:main()",
        args=[*args, *server.options(workers=2)],
        settings={f"aiopyramid.broadcast.{name}": value for name, value in settings.items()},
    )
    server.wait_until_up()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Chrome]:
    with browser.open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def client(driver: Chrome, server: Server, redis: RedisServer, variant: str) -> Iterator[Client]:
    redis.query("flushall")
    driver.get(f"{server.url}/page")
    with Publisher(redis.url, prefix=variant, history=HISTORY) as publisher:
        yield Client(driver, server, publisher)


@contextlib.contextmanager
def steady(publisher: Publisher, *groups: str) -> Iterator[list[int]]:
    """Publish 0, 1, 2 and so on all the time; the list has what was published."""
    published: list[int] = []
    stop = threading.Event()

    def publish() -> None:
        for number in itertools.count():
            if stop.wait(0.005):
                return
            for group in groups:
                publisher.publish(group, str(number))
            published.append(number)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        eventually(lambda: published, "something is published")
        yield published
    finally:
        stop.set()
        thread.join()


def check_order(log: list[dict[str, Any]], group: str) -> None:
    """Check that numbers are missing only where the page was told so, and none comes twice."""
    last, told = -1, False
    for event in log:
        if event["what"] == "resync" and event["group"] == group:
            told = True
        elif event["what"] == "message" and event["group"] == group:
            number = int(event["data"])
            assert number == last + 1 or (told and number > last), (last, event)
            last, told = number, False


def reload(client: Client, redis: RedisServer) -> None:
    client.server.signal(signal.SIGHUP)
    client.wait_for("joined", 2)


def kill_worker(client: Client, redis: RedisServer) -> None:
    os.kill(client.log("joined")[0]["pid"], signal.SIGKILL)
    client.wait_for("joined", 2)
    assert client.log("close")[0]["code"] == 1006


def cut_redis(client: Client, redis: RedisServer) -> None:
    redis.query("client", "kill", "type", "pubsub")
    told = client.wait_for("resync")
    assert told[0] == {"what": "resync", "group": "live", "reason": "reconnect"}
    assert not client.log("close")


@pytest.mark.parametrize("happens", [reload, kill_worker, cut_redis])
def test_a_history_closes_each_gap_and_others_are_told(
    client: Client, redis: RedisServer, happens: Callable[[Client, RedisServer], None]
) -> None:
    client.connect("kept:a", "live")
    with steady(client.publisher, "kept:a", "live") as published:
        client.wait_for("message", 20)
        happens(client, redis)
        client.wait_for("message", len(client.log("message")) + 20)
    client.publisher.publish("kept:a", "the end")
    client.until("log.some((event) => event.data === 'the end')")
    # Each once, and in order.
    assert client.data("kept:a") == [*map(str, published), "the end"]
    log = client.log()
    check_order(log, "live")
    assert not [each for each in log if each["what"] == "resync" and each["group"] == "kept:a"]
    again = [event["what"] for event in log if event["what"] == "open"][1:]
    gaps = [each for each in log if each["what"] == "resync" and each["group"] == "live"]
    assert len(gaps) == max(len(again), happens is cut_redis)


def test_texts_bytes_and_what_is_of_no_group(client: Client) -> None:
    client.connect("kept:a", "live")
    client.run("feed.send('of no group'); feed.send('{\"group\": 1}');")
    client.run("feed.send(new Uint8Array([0, 255]))")
    client.publisher.publish("live", "text \N{SNOWMAN}")
    client.publisher.publish("live", b"\x00\xff")
    client.publisher.publish_json("kept:a", {"group": "not this one"})
    client.wait_for("message", 3)
    messages = client.wait_for("message", 3)
    live = [each for each in messages if each["group"] == "live"]
    assert live[0] == {"what": "message", "group": "live", "data": "text \N{SNOWMAN}"}
    assert live[1]["data"] == {"0": 0, "1": 255}
    assert "id" not in live[1]
    kept = [each for each in messages if each["group"] == "kept:a"]
    assert kept[0]["data"] == '{"group":"not this one"}'
    assert kept[0]["id"].endswith(".1")
    joined = client.wait_for("joined", 2)
    assert joined[1]["group"] == 1
    others = client.wait_for("other", 2)
    assert [each["data"] for each in others] == ["of no group", [0, 255]]
    assert not client.log("resync")
    assert client.run("feed.close(); return feed.send('too late')") is False
    assert client.wait_for("close") == [
        {"what": "close", "code": 1000, "reason": "", "again": None}
    ]


def test_where_the_history_does_not_reach_back_the_page_is_told(client: Client) -> None:
    client.run(STUBS)
    client.connect("kept:short", "kept:\N{SNOWMAN} & =")

    def miss(count: int) -> None:
        """Publish while the browser has no network."""
        before = len(client.log("open"))
        client.run("goOnline(false); feed.send('close 1012')")
        client.wait_for("close", before)
        for number in range(count):
            client.publisher.publish("kept:short", str(number))
        assert len(client.log("open")) == before
        client.run("goOnline(true)")
        client.wait_for("joined", before + 1)

    miss(5)
    told, *messages = [each for each in client.log() if each.get("group") == "kept:short"]
    assert told == {"what": "resync", "group": "kept:short", "reason": "history"}
    assert [each["data"] for each in messages] == ["2", "3", "4"]
    query = client.log("joined")[1]["query"]
    assert query["after.kept:short"] == "-.0"
    assert query["after.kept:\N{SNOWMAN} & ="] == "-.0"
    miss(2)
    assert client.data("kept:short") == ["2", "3", "4", "0", "1"]
    assert client.log("joined")[2]["query"]["after.kept:short"] == messages[-1]["id"]
    miss(0)
    assert client.data("kept:short") == ["2", "3", "4", "0", "1"]
    assert [each["reason"] for each in client.log("resync") if each["group"]] == ["history"]


def test_some_codes_are_final(client: Client) -> None:
    client.run(STUBS)
    for code in (1000, 1008, 4000, 4999):
        client.connect("live")
        client.run(f"delays.length = sockets = 0; feed.send('close {code}')")
        assert client.wait_for("close")[0] == {
            "what": "close",
            "code": code,
            "reason": "as you say",
            "again": None,
        }
        assert client.run("return [delays.length, sockets]") == [0, 0]
        client.run("feed.retry()")
        client.wait_for("open", 2)
        client.close()
    client.connect("live")
    for number, code in enumerate((1001, 1011, 1012, 1013, 3000), 1):
        client.run(f"feed.send('close {code}')")
        closed = client.wait_for("close", number)[-1]
        assert closed["code"] == code
        assert closed["again"] >= 1000
        client.wait_for("joined", number + 1)
        assert client.log("resync")[-1] == {
            "what": "resync",
            "group": "live",
            "reason": "reconnect",
        }
    client.close()
    client.run("""log.length = 0;
      globalThis.feed = connect("/room", {
        isFinal: (code) => code === 1012, onopen: note("open"), onclose: note("close") });""")
    client.wait_for("open")
    client.run("feed.send('close 1000')")
    client.wait_for("open", 2)
    client.run("feed.send('close 1012')")
    assert client.wait_for("close", 2)[1]["again"] is None


def test_a_page_that_is_left_leaves_its_groups_until_it_comes_back(client: Client) -> None:
    """The browser keeps it, with all that its scripts know, for the Back button."""
    client.connect("kept:a")
    client.publisher.publish("kept:a", "before")
    client.wait_for("message")

    def members() -> int:
        with client.server.client() as http:
            return int(http.get("/count", params={"group": "kept:a"}).json())

    assert members() == 1
    client.driver.get(f"{client.server.url}/page?elsewhere")
    eventually(lambda: members() == 0, "it has left its group")
    client.publisher.publish("kept:a", "meanwhile")
    client.driver.back()
    client.wait_for("joined", 2)
    assert client.data("kept:a") == ["before", "meanwhile"]
    assert client.wait_for("close") == [
        {"what": "close", "code": 1000, "reason": "the page was left", "again": 0}
    ]
    client.close()
    # Closed for good, it does not come back with the page.
    client.run("""
      globalThis.shown = globalThis.sockets = 0;
      addEventListener("pageshow", () => { shown += 1; });
      const { WebSocket } = globalThis;
      globalThis.WebSocket = class extends WebSocket {
        constructor(...args) { super(...args); sockets += 1; }
      };
    """)
    client.driver.get(f"{client.server.url}/page?elsewhere")
    client.driver.back()
    client.until("shown === 1")
    assert client.run("return sockets") == 0


def test_waits_grow_until_a_connection_lasts(client: Client) -> None:
    client.run(STUBS)
    client.run("""return (async () => {
      const { connect } = await import("/aiopyramid/groups.js");
      globalThis.log = [];
      globalThis.url = "/nothing";
      globalThis.feed = connect(() => url, {
        onopen: () => log.push({ what: "open" }), onclose: (event) => {
          log.push({ what: "close", ...event });
          if (log.length === 7) url = new URL("/room#fragment", location.href);
        } });
      })()""")
    client.wait_for("open")
    grown = [1000, 2000, 4000, 8000, 16000, 30000, 30000]
    assert [event["again"] for event in client.log("close")] == grown
    assert {event["code"] for event in client.log("close")} == {1006}
    client.run("feed.send('close 1012')")
    client.wait_for("open", 2)
    assert client.log("close")[-1]["again"] == 30000
    client.run("later += 11000; feed.send('close 1012')")
    client.wait_for("open", 3)
    assert client.log("close")[-1]["again"] == 1000
    # Anything up to that, so that clients that were lost together do not come together.
    client.run("Math.random = () => 0.25; later += 11000; feed.send('close 1012')")
    client.wait_for("open", 4)
    assert client.log("close")[-1]["again"] == 250
    # Closed while it waits, it stays closed.
    client.run("goOnline(false); feed.send('close 1012')")
    client.wait_for("close", 11)
    client.run("feed.close(); sockets = 0; goOnline(true)")
    assert client.run("return sockets") == 0
    client.run("feed.retry()")
    client.wait_for("open", 5)
