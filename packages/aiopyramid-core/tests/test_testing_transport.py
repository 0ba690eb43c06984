from __future__ import annotations

import asyncio

import pytest

from aiopyramid.testing.transport import HIGH, READ_SIZE, pair

pytestmark = pytest.mark.both_loops


class Recorder(asyncio.Protocol):
    def __init__(self, *, half_open=False):
        self.half_open = half_open
        self.received = bytearray()
        self.pieces = []
        self.calls = []
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        self.pieces.append(len(data))
        self.changed.set()

    def eof_received(self):
        self.calls.append("eof")
        self.changed.set()
        return self.half_open

    def connection_lost(self, exc):
        self.calls.append(f"lost {type(exc).__name__}" if exc else "lost")
        self.changed.set()

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")
        self.changed.set()

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def connect(**options):
    ends = []
    for transport in pair():
        protocol = Recorder(**options)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        ends.append(protocol)
    return ends


async def settle():
    """Let the loop run what follows from what has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_is_written_arrives_at_the_other_end_in_a_later_turn():
    one, other = connect()
    one.transport.write(b"one ")
    one.transport.writelines([b"and ", memoryview(b"two")])
    assert other.received == b""
    await other.until(lambda: other.received == b"one and two")
    other.transport.write(b"back")
    await one.until(lambda: one.received == b"back")
    assert one.transport.get_protocol() is one


async def test_much_arrives_in_pieces():
    one, other = connect()
    data = bytes(range(256)) * 1000
    one.transport.write(data)
    await other.until(lambda: len(other.received) == len(data))
    assert other.received == data
    assert max(other.pieces) == READ_SIZE


async def test_an_end_that_does_not_read_makes_the_other_pause():
    one, other = connect()
    one.transport.set_write_buffer_limits(high=10, low=4)
    assert one.transport.get_write_buffer_limits() == (4, 10)
    other.transport.pause_reading()
    assert not other.transport.is_reading()
    one.transport.write(b"x" * 10)
    assert one.calls == []
    one.transport.write(b"x")
    assert one.calls == ["pause"]
    await settle()
    assert other.received == b""
    assert one.transport.get_write_buffer_size() == 11
    other.transport.resume_reading()
    assert other.transport.is_reading()
    await one.until(lambda: one.calls == ["pause", "resume"])
    assert other.received == b"x" * 11
    assert one.transport.get_write_buffer_size() == 0


async def test_writing_resumes_only_below_the_low_limit():
    one, other = connect()
    one.transport.set_write_buffer_limits(high=10, low=4)
    other.data_received = lambda data: other.transport.pause_reading()
    one.transport.write(b"x" * (READ_SIZE + 5))
    await settle()
    assert one.transport.get_write_buffer_size() == 5
    assert one.calls == ["pause"]
    one.transport.set_write_buffer_limits(high=20)
    assert one.transport.get_write_buffer_limits() == (5, 20)
    assert one.calls == ["pause", "resume"]


async def test_reading_can_pause_before_all_has_arrived():
    one, other = connect()
    one.transport.write(b"x")
    other.transport.pause_reading()
    await settle()
    assert other.received == b""
    other.transport.resume_reading()
    await other.until(lambda: other.received == b"x")


async def test_the_limits_are_those_of_asyncio():
    one, _ = connect()
    assert one.transport.get_write_buffer_limits() == (HIGH // 4, HIGH)
    one.transport.set_write_buffer_limits(low=100)
    assert one.transport.get_write_buffer_limits() == (100, 400)
    for limits in ({"high": 1, "low": 2}, {"high": 1, "low": -1}):
        with pytest.raises(ValueError, match="must be >="):
            one.transport.set_write_buffer_limits(**limits)


async def test_closing_sends_what_is_written_first():
    one, other = connect()
    one.transport.write(b"last words")
    one.transport.close()
    one.transport.close()
    assert one.transport.is_closing()
    one.transport.write(b"too late")
    await other.until(lambda: "lost" in other.calls)
    assert other.received == b"last words"
    assert other.calls == ["eof", "lost"]
    assert one.calls == ["lost"]


async def test_an_end_that_closes_while_the_other_does_not_read_waits():
    one, other = connect()
    other.transport.pause_reading()
    one.transport.write(b"x")
    one.transport.close()
    await settle()
    assert one.calls == other.calls == []
    other.transport.resume_reading()
    await other.until(lambda: "lost" in other.calls)
    assert other.received == b"x"
    assert one.calls == ["lost"]


async def test_the_end_is_not_seen_before_it_is_read():
    one, other = connect()
    other.transport.pause_reading()
    one.transport.close()
    await settle()
    assert one.calls == ["lost"]
    assert other.calls == []
    other.transport.resume_reading()
    await other.until(lambda: other.calls == ["eof", "lost"])


async def test_one_direction_can_end_before_the_other():
    one, other = connect(half_open=True)
    assert one.transport.can_write_eof()
    one.transport.write(b"question")
    one.transport.write_eof()
    with pytest.raises(RuntimeError, match="cannot write after write_eof"):
        one.transport.write(b"more")
    await other.until(lambda: other.calls == ["eof"])
    other.transport.write(b"answer")
    await one.until(lambda: one.received == b"answer")
    other.transport.close()
    await one.until(lambda: one.calls == ["eof"])
    one.transport.close()
    await one.until(lambda: "lost" in one.calls)
    assert one.calls == ["eof", "lost"]


async def test_a_closed_end_takes_nothing_more():
    one, other = connect(half_open=True)
    one.transport.set_write_buffer_limits(high=0)
    other.transport.write(b"x")
    other.transport.pause_reading()
    one.transport.pause_reading()
    other.transport.close()  # but not lost: it has something to send
    one.transport.write(b"dropped")
    await settle()
    assert one.calls == ["pause", "resume"]
    assert other.received == b""
    one.transport.resume_reading()
    await one.until(lambda: "eof" in one.calls)
    assert other.calls == ["lost"]


async def test_writing_to_an_end_that_is_gone_loses_the_connection():
    one, other = connect(half_open=True)
    other.transport.close()
    await one.until(lambda: one.calls == ["eof"])
    one.transport.write(b"x")
    await one.until(lambda: one.calls == ["eof", "lost ConnectionResetError"])
    one.transport.write(b"y")
    assert one.transport.get_write_buffer_size() == 0


async def test_aborting_drops_what_is_not_sent_and_tells_a_peer_that_does_not_read():
    one, other = connect()
    other.transport.pause_reading()
    one.transport.write(b"x")
    one.transport.abort()
    one.transport.abort()
    await other.until(lambda: other.calls)
    assert other.calls == ["lost ConnectionResetError"]
    assert one.calls == ["lost"]
    assert other.received == b""


async def test_a_protocol_may_abort_while_it_receives():
    one, other = connect()
    one.transport.set_write_buffer_limits(high=0)
    other.data_received = lambda data: other.transport.abort()
    one.transport.write(b"x")
    await settle()
    assert one.calls == ["pause", "lost ConnectionResetError"]
    assert other.calls == ["lost"]
