from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("psycopg", reason="needs psycopg")

from brokers import Received, run_postgresql

from aiopyramid.broadcast.backends import HistoryBackend, Outgoing
from aiopyramid.broadcast.backends.postgresql import PostgresqlBackend
from aiopyramid.broadcast.backends.postgresql_messages import MAX_SIZE
from aiopyramid.broadcast.exceptions import BroadcastError, BrokerUnavailable
from aiopyramid.broadcast.settings import from_values

run = pytest.fixture(scope="module")(run_postgresql)


@pytest.fixture(scope="module")
def database(run):
    return run.database()


class Started:
    """A backend, and what it receives."""

    def __init__(self, url, **settings):
        self.backend = PostgresqlBackend(from_values({"url": url, "timeout": 2, **settings}))
        self.received = Received()

    async def __aenter__(self):
        await self.backend.start(self.received)
        return self.backend, self.received

    async def __aexit__(self, *exc_info):
        await self.backend.stop()


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
ALL = f"{CUT} AND datname = current_database()"


@pytest.mark.both_loops
async def test_what_is_published_to_a_channel_arrives_in_order(database):
    async with Started(database.url()) as (backend, received):
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


async def test_every_byte_arrives_up_to_the_limit(database):
    assert not isinstance(PostgresqlBackend, HistoryBackend)
    async with Started(database.url()) as (backend, received):
        await backend.subscribe("a")
        largest = b"t 0123456789ab 123456789012 0123456789ab.123456789012\n" + b"\xff" * MAX_SIZE
        sent = [bytes(range(256)), "späti \0".encode(), "späti".encode(), b"", largest]
        assert await backend.publish([Outgoing("a", data) for data in sent]) == [None] * 5
        await received.until(messages=5)
        assert [data for _, data in received.messages] == sent


async def test_what_others_notify_is_ignored(database, caplog):
    async with Started(database.url()) as (backend, received):
        await backend.subscribe("a")
        (name,) = backend._channels
        database.query(f"SELECT pg_notify('{name}', 'b no base64')")
        await backend.publish([Outgoing("a", b"x")])
        await received.until(messages=1)
        assert [data for _, data in received.messages] == [b"x"]
    assert "is ignored" in caplog.text


async def test_a_fault_ends_nothing(database, caplog):
    async with Started(database.url()) as (backend, received):
        take = received.received

        def fail(channel, data):
            take(channel, data)
            if data == b"fails":
                raise ArithmeticError("a fault")

        received.received = fail
        await backend.subscribe("a")
        await backend.publish([Outgoing("a", b"fails"), Outgoing("a", b"end")])
        await received.until(messages=2)
    assert caplog.text.count("ArithmeticError: a fault") == 1


async def test_connections_that_are_cut_are_made_again_and_the_gap_told(database, caplog):
    async with Started(database.url()) as (backend, received):
        await backend.subscribe("a")
        await backend.subscribe("b")
        assert await backend.publish([Outgoing("a", b"1")]) == [None]
        await received.until(messages=1)
        database.query(ALL)
        await received.until(gaps=2)
        assert sorted(received.gaps) == [("a", "reconnect"), ("b", "reconnect")]
        (error,) = await backend.publish([Outgoing("a", b"2")])
        assert isinstance(error, BroadcastError)
        assert await backend.publish([Outgoing("a", b"3")]) == [None]
        await received.until(messages=2)
    assert "was lost" in caplog.text


async def test_a_server_that_is_gone_comes_back(run, database, caplog):
    async with Started(database.url()) as (backend, received):
        await backend.subscribe("a")
        run.end()
        while backend._listening:
            await asyncio.sleep(0.01)
        await backend.subscribe("b")  # does not wait
        with pytest.raises(BrokerUnavailable):
            await backend.publish([Outgoing("a", b"1")])
        async with Started(database.url()) as (other, also):
            assert "cannot be reached" in caplog.text
            await other.subscribe("b")
            run.start()
            await received.until(gaps=2)
            await also.until(gaps=1)
            assert await backend.publish([Outgoing("b", b"2")]) == [None]
            await received.until(messages=1)
            await also.until(messages=1)


async def test_a_server_that_is_silent_is_asked(database):
    async with Started(database.url(), timeout=0.2) as (backend, received):
        await backend.subscribe("a")
        asked = "query = 'SELECT 1' AND state = 'idle'"
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(database.sessions, asked):
                await asyncio.sleep(0.05)
        await backend.publish([Outgoing("a", b"1")])
        await received.until(messages=1)
        assert received.gaps == []


async def test_a_server_that_does_not_answer_is_lost():
    """One that says nothing at all, though it accepts connections."""

    writers = []

    async def say_nothing(reader, writer):
        writers.append(writer)

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with Started(f"postgresql://127.0.0.1:{port}/x", timeout=0.2) as (backend, _):
            with pytest.raises(BrokerUnavailable, match="no answer in time"):
                await backend.publish([Outgoing("a", b"1")])
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_a_server_that_refuses_stops_the_start(database):
    url = database.url().rsplit("/", 1)[0] + "/nowhere"
    with pytest.raises(BroadcastError, match="refuses") as caught:
        await PostgresqlBackend(from_values({"url": url})).start(Received())
    assert not isinstance(caught.value, BrokerUnavailable)


def test_a_url_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        PostgresqlBackend(from_values({"url": "postgresql://host/db?nonsense=1"}))
