from __future__ import annotations

import asyncio
import logging

import pytest

pytest.importorskip("redis", reason="needs redis")

from brokers import Received, run_redis, run_sentinel

from aiopyramid.broadcast.backends import History, Outgoing, Position
from aiopyramid.broadcast.backends.redis import RedisBackend
from aiopyramid.broadcast.exceptions import BroadcastError, BrokerUnavailable
from aiopyramid.broadcast.group import gap_in
from aiopyramid.broadcast.settings import from_values

run = pytest.fixture(scope="module")(run_redis)


@pytest.fixture
def server(run):
    if run.process.poll() is not None:
        run.start()
    run.go_on()
    run.query("flushall")
    yield run
    run.go_on()


@pytest.fixture
def kept_server():
    yield from run_redis("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def sentinel(server):
    yield from run_sentinel(server)


class Started:
    """A backend, and what it receives."""

    def __init__(self, url, **settings):
        self.backend = RedisBackend(from_values({"url": url, "timeout": 2, **settings}))
        self.received = Received()

    async def __aenter__(self):
        await self.backend.start(self.received)
        return self.backend, self.received

    async def __aexit__(self, *exc_info):
        await self.backend.stop()


async def test_what_is_published_to_a_channel_arrives_in_order(server):
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        await backend.subscribe("b")
        batch = [Outgoing("ab"[n % 2], b"%d" % n) for n in range(300)]
        assert await backend.publish(batch) == [None] * 300
        await received.until(messages=300)
        assert received.messages == [(item.channel, item.data) for item in batch]
        await backend.unsubscribe("a")
        await backend.publish(batch[:2])
        await received.until(messages=301)
        assert received.messages[300:] == [("b", b"1")]
        assert received.gaps == []


async def test_a_connection_that_is_cut_is_made_again_and_the_gap_told(server, caplog):
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        await backend.subscribe("b")
        server.query("client", "kill", "type", "pubsub")
        await received.until(gaps=2)
        assert sorted(received.gaps) == [("a", "reconnect"), ("b", "reconnect")]
        await backend.publish([Outgoing("a", b"x")])
        await received.until(messages=1)
        server.query("client", "kill", "type", "normal")
        await asyncio.sleep(0.1)  # or the end of the connection may not be known yet
        assert await backend.publish([Outgoing("a", b"y")]) == [None]
    assert "was lost" in caplog.text
    assert "2 channels may have gaps" in caplog.text


async def test_a_server_that_is_gone_comes_back(server, caplog):
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        assert await backend.publish([Outgoing("a", b"1")]) == [None]
        server.kill()
        await asyncio.wait([backend._subscribed.reading])
        await asyncio.wait([backend._commands.reading])
        await backend.subscribe("b")  # does not wait
        with pytest.raises(BrokerUnavailable):
            await backend.publish([Outgoing("a", b"2")])
        server.start()
        await received.until(gaps=2)
        assert await backend.publish([Outgoing("a", b"3"), Outgoing("b", b"4")]) == [None, None]
        await received.until(messages=3)
        assert [data for _, data in received.messages] == [b"1", b"3", b"4"]


async def test_a_server_that_is_silent_is_lost(server):
    async with Started(server.url, timeout=0.3) as (backend, received):
        await backend.subscribe("a")
        assert await backend.publish([Outgoing("a", b"1")]) == [None]
        server.pause()
        (error,) = await backend.publish([Outgoing("a", b"2")])
        assert isinstance(error, BroadcastError)
        assert "may have been published or not" in str(error)
        await asyncio.wait([backend._subscribed.reading])
        while backend._subscribed is not None:
            await asyncio.sleep(0.01)
        server.go_on()
        await received.until(gaps=1)


async def test_a_server_that_is_slow_is_waited_for(server):
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        server.query("client", "pause", "300", "ALL")
        assert await backend.publish([Outgoing("a", b"1")]) == [None]
        await received.until(messages=1)
        assert received.gaps == []


async def test_an_application_starts_without_its_server(server, caplog):
    server.kill()
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        assert "cannot be reached" in caplog.text
        server.start()
        await received.until(gaps=1)
        await backend.publish([Outgoing("a", b"x")])
        await received.until(messages=1)


@pytest.mark.parametrize("url", ["redis://:wrong@{}/0", "redis://ann:wrong@{}/0"])
async def test_a_server_that_refuses_stops_the_start(server, url):
    address = f"127.0.0.1:{server.port}"
    backend = RedisBackend(from_values({"url": url.format(address), "timeout": 2}))
    with pytest.raises(BroadcastError, match="refuses") as caught:
        await backend.start(Received())
    assert not isinstance(caught.value, BrokerUnavailable)
    assert "wrong@" not in str(caught.value)


async def test_a_database_that_is_not_there_stops_the_start(server):
    backend = RedisBackend(from_values({"url": f"redis://127.0.0.1:{server.port}/999"}))
    with pytest.raises(BroadcastError, match="refuses"):
        await backend.start(Received())


async def test_users_and_passwords(server):
    server.query("acl", "setuser", "app", "on", ">secret", "&*", "~*", "+@all")
    url = f"redis://app:secret@127.0.0.1:{server.port}/0"
    async with Started(url, history="k = 2") as (backend, received):
        await backend.subscribe("a")
        assert await backend.publish([Outgoing("a", b"x", 2)]) == [None]
        await received.until(messages=1)


async def test_what_others_publish_ends_nothing(server, caplog):
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        for data in (b"#\xff\n", b"#", b"#e.1\nx"):
            await backend.publish([Outgoing("a", data)])
        await received.until(messages=3)
        assert [data for _, data in received.messages] == [b"", b"", b"x"]
        assert received.positions == [None, None, Position("e", 1)]
        take = received.received

        def fail(channel, data, position):
            take(channel, data, position)
            if data == b"fails":
                raise ArithmeticError("a fault")

        received.received = fail
        await backend.publish([Outgoing("a", b"fails"), Outgoing("a", b"end")])
        await received.until(messages=5)
    assert caplog.text.count("ArithmeticError: a fault") == 1


async def test_what_the_server_refuses_fails_alone(server):
    server.query("acl", "setuser", "some", "on", "nopass", "&a", "~*", "+@all")
    url = f"redis://some:x@127.0.0.1:{server.port}/0"
    async with Started(url) as (backend, received):
        await backend.subscribe("a")
        one, two, three = await backend.publish([Outgoing(name, b"x") for name in "aba"])
        assert (one, three) == (None, None)
        assert isinstance(two, BroadcastError)
        await received.until(messages=2)


async def test_tls(server):
    url = f"rediss://127.0.0.1:{server.tls_port}/0"
    async with Started(f"{url}?ssl_ca_certs={server.certificate}") as (backend, received):
        await backend.subscribe("a")
        assert await backend.publish([Outgoing("a", b"x", 2)]) == [None]
        await received.until(messages=1)
    with pytest.raises(BroadcastError, match="refuses"):
        await RedisBackend(from_values({"url": url})).start(Received())


async def test_something_else_than_a_server_stops_the_start():
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        with pytest.raises(BroadcastError, match="refuses"):
            await RedisBackend(from_values({"url": f"redis://:x@127.0.0.1:{port}"})).start(
                Received()
            )


async def test_sentinels_name_the_server(server, sentinel):
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main/0"
    async with Started(url) as (backend, received):
        await backend.subscribe("a")
        assert await backend.publish([Outgoing("a", b"x")]) == [None]
        await received.until(messages=1)
        server.query("client", "kill", "type", "pubsub")
        await received.until(gaps=1)


async def test_a_history_is_numbered_and_kept(server):
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        assert await backend.history("a", None, 5) == History((), None)
        await backend.publish([Outgoing("a", b"%d" % n, 3) for n in range(1, 6)])
        await received.until(messages=5)
        epoch = received.positions[0].epoch
        assert received.positions == [Position(epoch, n) for n in range(1, 6)]
        kept = [(Position(epoch, n), b"%d" % n) for n in (3, 4, 5)]
        latest = Position(epoch, 5)
        assert await backend.history("a", None, 0) == History([], latest)
        assert await backend.history("a", None, 2) == History(kept[1:], latest)
        assert await backend.history("a", Position(epoch, 4), 0) == History(kept[2:], latest)
        assert await backend.history("a", Position("other", 4), 0) == History(kept, latest)
        assert 0 < int(server.query("pttl", "{a}:history")) <= 86_400_000


async def test_a_server_that_has_begun_anew_uses_no_number_again(kept_server):
    server = kept_server
    async with Started(server.url) as (backend, received):
        await backend.subscribe("a")
        await backend.publish([Outgoing("a", b"%d" % n, 9) for n in (1, 2, 3)])
        await received.until(messages=3)
        epoch = received.positions[0].epoch
        before = await backend.history("a", Position(epoch, 3), 0)
        server.kill()
        server.start()
        await received.until(gaps=1)
        assert await backend.history("a", Position(epoch, 3), 0) == before
        await backend.publish([Outgoing("a", b"%d" % n, 9) for n in (4, 5)])
        await received.until(messages=5)
        assert [each.number for each in received.positions] == [1, 2, 3, 1_000_004, 1_000_005]
        history = await backend.history("a", Position(epoch, 3), 0)
        assert [data for _, data in history.kept] == [b"4", b"5"]
        assert not gap_in(before, Position(epoch, 3))
        assert not gap_in(history, Position(epoch, 3))
        # Where the server has lost the message after the third.
        assert gap_in(await backend.history("a", Position(epoch, 4), 0), Position(epoch, 4))


async def test_without_the_right_to_ask_for_the_server_there_are_histories_as_well(server):
    server.query("acl", "setuser", "few", "on", "nopass", "&*", "~*", "+@all", "-info")
    url = f"redis://few:x@127.0.0.1:{server.port}/0"
    async with Started(url) as (backend, _):
        assert await backend.publish([Outgoing("a", b"x", 2)] * 2) == [None, None]
        assert (await backend.history("a", None, 2)).latest.number == 2
        async with Started(server.url) as (other, _):  # which may ask
            for each in (other, backend, other):
                assert await each.publish([Outgoing("a", b"x", 2)]) == [None]
        assert (await backend.history("a", None, 2)).latest.number == 5


async def test_a_history_that_was_evicted_begins_anew(server):
    async with Started(server.url) as (backend, _):
        await backend.publish([Outgoing("a", b"1", 3)])
        first = (await backend.history("a", None, 1)).latest
        server.query("del", "{a}:position")
        await backend.publish([Outgoing("a", b"2", 3)])
        history = await backend.history("a", None, 9)
        assert [data for _, data in history.kept] == [b"2"]
        assert history.latest.number == 1
        assert history.latest.epoch != first.epoch


async def test_a_history_that_cannot_be_read_is_an_error(server):
    async with Started(server.url) as (backend, _):
        server.query("set", "{a}:position", "something else")
        with pytest.raises(BroadcastError, match="WRONGTYPE"):
            await backend.history("a", None, 1)


async def test_a_subscriber_that_is_too_slow_for_the_server_is_told(server):
    server.query("config", "set", "client-output-buffer-limit", "pubsub 100000 0 0")
    try:
        async with Started(server.url) as (backend, received):
            await backend.subscribe("a")
            big = b"x" * 65536
            for _ in range(20):
                await backend.publish([Outgoing("a", big)] * 30)
                if received.gaps:
                    break
            await received.until(gaps=1)
            await backend.publish([Outgoing("a", b"end")])
            await received.until(gaps=1)
            while received.messages[-1][1] != b"end":
                await received.until(messages=len(received.messages) + 1)
    finally:
        server.query("config", "set", "client-output-buffer-limit", "pubsub 33554432 8388608 60")


async def test_a_url_shows_no_password(caplog):
    caplog.set_level(logging.DEBUG, "aiopyramid.broadcast")
    url = "redis://ann:secret@127.0.0.1:1/0"
    async with Started(url) as (backend, _):
        await asyncio.sleep(0.3)
        with pytest.raises(BrokerUnavailable):
            await backend.publish([Outgoing("a", b"x")])
    assert "ann:***@127.0.0.1:1" in caplog.text
    assert "secret" not in caplog.text
