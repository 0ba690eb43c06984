from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
import transaction

pytest.importorskip("redis", reason="needs redis")
pytest.importorskip("psycopg", reason="needs psycopg")

from brokers import run_postgresql, run_redis, run_sentinel

from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.groups import Groups
from aiopyramid.broadcast.publisher import Publisher
from aiopyramid.broadcast.settings import from_values

redis = pytest.fixture(scope="module")(run_redis)
postgresql = pytest.fixture(scope="module")(run_postgresql)


@pytest.fixture(scope="module")
def sentinel(redis):
    yield from run_sentinel(redis)


@pytest.fixture(params=["redis", "sentinel", "postgresql"])
def url(request):
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql").database().url()
    server = request.getfixturevalue("redis")
    if request.param == "sentinel":
        port = request.getfixturevalue("sentinel").port
        return f"redis+sentinel://127.0.0.1:{port}/main"
    return server.url


class Tm:
    """A transaction manager in whose transaction everything is."""

    def __init__(self):
        self.manager = transaction.TransactionManager(explicit=True)
        self.manager.begin()
        self.get = self.manager.get


async def test_members_get_what_a_program_publishes(url):
    groups = Groups(None, from_values({"url": url}))
    async with groups.running(), await groups.listen("a") as listener:

        def program():
            tm, aborted = Tm(), Tm()
            with Publisher(url) as publisher:
                publisher.publish("a", "text", after_commit=tm)
                publisher.publish("a", "never", after_commit=aborted)
                publisher.publish("a", b"\xff\0")
                publisher.publish_json("a", {"n": [1]})
                publisher.publish("b", "not here")
                tm.manager.commit()
                aborted.manager.abort()
                publisher.close_connections("a", 4000, "done")

        await asyncio.to_thread(program)
        found = [(item.data if hasattr(item, "data") else item) async for item in listener]
    assert found == [b"\xff\0", '{"n":[1]}', "text"]


async def test_a_history_has_what_programs_publish(redis):
    history = "kept:* = 5"
    settings = {
        "aiopyramid.broadcast.url": redis.url,
        "aiopyramid.broadcast.history": history,
        "other": "x",
    }

    def program():
        with Publisher.from_settings(settings) as publisher:
            for text in ("one", "two"):
                publisher.publish("kept:a", text)

    await asyncio.to_thread(program)
    groups = Groups(None, from_values({"url": redis.url, "history": history}))
    async with groups.running(), await groups.listen("kept:a", last=5) as listener:
        assert [(await anext(listener)).data for _ in range(2)] == ["one", "two"]


def test_threads_share_a_publisher(url):
    with Publisher(url) as publisher:
        errors = []

        def publish():
            try:
                for n in range(20):
                    publisher.publish("a", str(n))
            except Exception as exc:
                errors.append(exc)

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert publisher._numbering.next("a") == 81


async def test_a_process_that_is_forked_is_a_publisher_of_its_own(url):
    groups = Groups(None, from_values({"url": url}))
    async with groups.running(), await groups.listen("a") as listener:
        code = f"""
import os
from aiopyramid.broadcast.publisher import Publisher
with Publisher({url!r}) as publisher:
    publisher.publish("a", "parent")
    child = os.fork()
    for n in range(3):
        publisher.publish("a", "child" if not child else "parent")
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    publisher.publish("a", "end")
"""
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True)
        texts = [(await anext(listener)).data for _ in range(8)]
    assert sorted(texts) == ["child"] * 3 + ["end"] + ["parent"] * 4  # and no gap


async def test_a_server_that_is_slow_is_waited_for(redis):
    with Publisher(redis.url) as publisher:
        publisher.publish("a", "x")
        redis.query("client", "pause", "300", "ALL")
        await asyncio.to_thread(publisher.publish, "a", "y")


def test_a_broker_that_was_gone_is_used_again(redis, postgresql):
    database = postgresql.database()
    for server, end, url in (
        (redis, redis.kill, redis.url),
        (postgresql, postgresql.end, database.url()),
    ):
        with Publisher(url, timeout=2) as publisher:
            publisher.publish("a", "x")
            end()
            for _ in range(2):
                with pytest.raises(BroadcastError, match="may not have been published"):
                    publisher.publish("a", "x")
            server.start()
            publisher.publish("a", "x")


async def test_workers_of_a_host_are_drained(redis, monkeypatch):
    groups = Groups(None, from_values({"url": redis.url}))
    async with groups.running():
        drained = []
        monkeypatch.setattr(groups._presence, "received", drained.append)
        with Publisher(redis.url) as publisher:
            await asyncio.to_thread(publisher.drain, "web1", 7)
            await asyncio.to_thread(publisher.publish, "x", "y")
        while {"drain": 7, "host": "web1"} not in drained:
            await groups.publish("x", "y")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda p: p.publish("", "x"), ValueError, "cannot be the name"),
        (lambda p: p.publish("a", 1), TypeError, "publish_json"),
        (lambda p: p.publish("a", b"x" * 2**25), ValueError, "is too large"),
        (lambda p: p.publish_json("a", object()), TypeError, "not JSON serializable"),
        (lambda p: p.close_connections("a", 1005), ValueError, "1005"),
    ],
)
def test_misuse_is_refused(url, call, error, text):
    with Publisher(url) as publisher, pytest.raises(error, match=text):
        call(publisher)


def test_what_is_too_large_for_postgresql_is_refused(postgresql):
    url = postgresql.database().url()
    with Publisher(url) as publisher:
        publisher.publish("a", b"\xff" * publisher._connection.max_size)
        with pytest.raises(ValueError, match=r"is too large: postgresql takes \d+ bytes"):
            publisher.publish("a", "x" * 8000)


def test_memory_cannot_be_published_to_from_outside():
    with pytest.raises(ValueError, match="publishing from outside needs a broker"):
        Publisher("memory://")


def test_a_bad_setting_is_refused():
    with pytest.raises(ValueError, match=r"unknown setting aiopyramid\.broadcast\.colour"):
        Publisher("redis://x", colour="red")
