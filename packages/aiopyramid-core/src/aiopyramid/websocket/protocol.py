"""
The protocol of an open connection (RFC 6455), between transport and `ws`.

What arrives is cut into whole frames. Plain messages go straight to the queue of the view
(:mod:`aiopyramid.websocket.frames`); every other frame goes to the judge
(:mod:`aiopyramid.websocket.judge`). The protocol reads whether or not the view receives,
so that it sees a disconnect at once and answers pings, until the queue is full.

How far a connection is from its end (:class:`State`), what its reading waits for
(:class:`Reading`), and which of them go together:

=========== ================================================== ===== ===== ======= =====
state       meaning                                            READY FULL  WAITING DONE
=========== ================================================== ===== ===== ======= =====
``OPEN``    both sides may send messages                       yes   yes   yes     no
``CLOSING`` a close frame was sent or received, or the peer    yes   no    yes     yes
            has ended without one: no more messages
``ENDED``   our last byte is written                           no    no    no      yes
``LOST``    the transport is gone                              no    no    no      yes
=========== ================================================== ===== ===== ======= =====

A state is only left for one that stands below it. ``complete`` is set when all that
matters of what the peer sends is in the buffer, since it has ended, or its close frame was
seen there. The queue then takes any number of messages, so that the connection can end at
once. It is still bounded by memory: what is compressed may be a thousand times as large.
Where that stops it, the view is told of the end before it has received everything.
"""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from websockets.frames import Close, CloseCode, Opcode

from .exceptions import WebsocketClosed
from .frames import MASK_SIZE, encode_message, find_frame, find_payload, read_messages
from .judge import OPCODE, Judge, Pong
from .keepalive import Keepalive
from .messages import MessageQueue
from .turns import BUDGET, FRAME_SIZE, turns_of
from .writer import Writer

if TYPE_CHECKING:
    from websockets.protocol import Protocol

    from .options import WebsocketOptions

# While the queue is full, this much is read of what comes behind it, in bytes.
READ_AHEAD = 65536

# Frames that are skipped in the time in which one is handled.
SKIPPED_FRAMES = 16


class State(enum.IntEnum):
    """How far a connection is from its end."""

    OPEN = 0
    CLOSING = 1
    ENDED = 2
    LOST = 3


class Reading(enum.Enum):
    """What reading waits for."""

    READY = "nothing but bytes"
    FULL = "room in the queue"
    WAITING = "a later turn of the loop"
    DONE = "nothing: what comes is dropped"


OPEN, CLOSING, ENDED, LOST = State
READY, FULL, WAITING, DONE = Reading


class WebsocketProtocol(asyncio.Protocol):
    """
    Turns bytes from the transport into messages, and messages into bytes.

    Args:
        options: The view's options.
        protocol: The library's protocol, as the handshake has left it.
        opened: Called when the transport is there.
        closing: Called once when the connection begins to end.
        lost: Called once at the end.
    """

    # There may be thousands.
    __slots__ = (
        "_announced",
        "_close_timer",
        "_closing",
        "_encode",
        "_gave_way",
        "_loop",
        "_lost",
        "_opened",
        "_scanned",
        "_waiters",
        "buffer",
        "bytes_received",
        "complete",
        "failure",
        "judge",
        "keepalive",
        "messages_sent",
        "options",
        "position",
        "queue",
        "reading",
        "state",
        "transport",
        "writer",
    )

    def __init__(
        self,
        options: WebsocketOptions,
        protocol: Protocol,
        *,
        opened: Callable[[], None],
        closing: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self.options = options
        self._opened = opened
        self._closing = closing
        self._lost = lost
        self.transport: Any = None
        self.queue = MessageQueue(loop, options.max_queue, options.max_queue_size)
        self.judge = Judge(options.max_message_size, protocol)
        self._encode = self.judge.encode_message if protocol.extensions else encode_message
        self.writer = Writer(loop, options.send_timeout, self._send_overdue)
        self.keepalive = Keepalive(
            loop,
            options.ping_interval,
            options.ping_timeout,
            self._send_ping,
            self._activity,
            self._peer_silent,
        )
        self.state = OPEN
        self.reading = READY
        self.complete = False
        self.buffer: bytes | bytearray = b""
        self.position = 0  # where the buffer's next frame begins
        self._scanned = 0  # up to where no close frame was found in it
        self._gave_way = False  # the view has had the chance to answer
        self._announced = False
        self._close_timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.failure: Close | None = None  # how it ended, if not with a close frame
        self.messages_sent = self.bytes_received = 0

    # The transport's side.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.writer.start(transport)
        transport.set_write_buffer_limits(high=self.options.write_limit)
        transport.resume_reading()  # the HTTP protocol may have paused it
        self.keepalive.start()
        self._opened()

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self.reading is READY:
            self._parse(self._joined(data) if self.buffer else data, 0, BUDGET)
        elif self.reading is not DONE and not self.complete:
            self.buffer = self._joined(data)
            if self.reading is FULL:
                self._look_ahead(BUDGET)

    def _joined(self, data: bytes) -> bytearray:
        """Return what is in the buffer, from its next frame on, and ``data`` behind it."""
        buffer = self.buffer
        # Not cut off frame by frame: a lot of small ones would be copied again and again.
        if isinstance(buffer, bytes):
            buffer = bytearray(memoryview(buffer)[self.position :])
        else:
            del buffer[: self.position]
        self._scanned = max(self._scanned - self.position, 0)
        self.position = 0
        buffer += data
        return buffer

    def eof_received(self) -> bool:
        """
        Called when the peer has ended, perhaps without a close frame.

        A half-open WebSocket is of no use, so the transport closes; but not before the
        view has all that came before the end.
        """
        self._peer_ended()
        return self.reading is WAITING and bool(self.transport.can_write_eof())

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.writer.stop()
        self._peer_ended()

    def pause_writing(self) -> None:
        self.writer.pause()

    def resume_writing(self) -> None:
        self.writer.resume()

    # Reading: from bytes to frames.

    def _parse(self, data: bytes | bytearray, position: int, budget: int) -> int:
        """
        Handle the frames that have been received, and keep the rest in the buffer.

        Args:
            data: What has been received.
            position: Where a frame begins.
            budget: How many frames to handle at most.

        Returns:
            What is left of the budget.
        """
        judge, queue, size = self.judge, self.queue, len(data)
        messages = queue.messages
        while True:
            room = budget
            if self.state is OPEN:
                queue_room = queue.room() if messages else queue.max_count
                if queue_room < room:
                    room = queue_room
                if not judge.in_message:
                    count = -len(messages)
                    end = read_messages(data, position, judge.max_size, room, messages)
                    if end != position:
                        count += len(messages)
                        queue.added(count, end - position)
                        position = end
                        budget -= count
                        room -= count
            if position == size:
                if self.buffer:
                    self.buffer, self.position, self._scanned = b"", 0, 0
                if self.complete:
                    self._peer_done()
                return budget
            found = find_payload(data, position)
            if found is None:
                break
            if room <= 0:
                if budget > 0:
                    self.reading = FULL
                else:
                    self._wait_for_turn()
                break
            first, (mask, length) = data[position], found
            if messages and not (self._gave_way or judge.continues(first)):
                self._give_way()
                break
            objection = judge.objection(first, data[position + 1], length)
            if objection is not None:
                self.fail(objection)
                return budget
            end = mask + MASK_SIZE + length
            if size < end:
                break
            self._gave_way = False
            self._judge(first & OPCODE, bytes(data[position:end]))
            if self.state >= ENDED:
                return budget
            budget -= 1 + length // FRAME_SIZE
            position = end
        self.buffer, self.position = data, position
        self._scanned = max(self._scanned, position)
        if self.reading is FULL:
            if not self.complete:
                return self._look_ahead(budget)
            self._announce_end()
        elif self.complete and self.reading is READY:
            self._peer_done()
        return budget

    def _give_way(self) -> None:
        """
        Let the view answer its messages before the frame behind them is judged.

        A client may send a question and a close frame in one go, or break the
        rules after having kept them.
        """
        self._gave_way = True
        self._pause(WAITING)
        self._loop.call_soon(self.take_turn, BUDGET)

    def _wait_for_turn(self) -> None:
        self._pause(WAITING)
        turns_of(self._loop).join(self)

    def take_turn(self, budget: int) -> int:
        """
        Go on with what is in the buffer.

        Args:
            budget: How many frames to handle at most.

        Returns:
            What is left of the budget.
        """
        if self.reading is not WAITING:
            return budget  # it has ended
        self.reading = READY
        budget = self._parse(self.buffer, self.position, budget)
        if self.transport is not None and (
            self.reading is READY or (self.reading is FULL and not self._is_far_ahead())
        ):
            self.transport.resume_reading()
        return budget

    def _pause(self, reading: Reading) -> None:
        self.reading = reading
        if self.transport is not None:
            self.transport.pause_reading()

    def _look_ahead(self, budget: int) -> int:
        """
        While the queue is full, look for a close frame behind it.

        Args:
            budget: As many frames as can be handled with it are skipped at most.

        Returns:
            What is left of the budget.
        """
        self._scanned, found = find_frame(
            self.buffer, self._scanned, Opcode.CLOSE, budget * SKIPPED_FRAMES
        )
        if found is None:
            self._wait_for_turn()
            return 0
        if found:
            self._complete()
            self._wait_for_turn()
        elif self._is_far_ahead():
            self._pause(FULL)
        return budget

    def _complete(self) -> None:
        self.complete = True
        self.queue.max_count = sys.maxsize

    def _is_far_ahead(self) -> bool:
        return len(self.buffer) - self.position > READ_AHEAD

    def resume(self) -> None:
        """Read on: the queue has room again."""
        if self.reading is FULL:
            self._wait_for_turn()

    def _judge(self, opcode: int, frame: bytes) -> None:
        event = self.judge.receive(frame)
        if isinstance(event, Pong):
            self.keepalive.pong_received(event.payload)
        elif event is not None:
            self.queue.messages.append(event)
            self.queue.added(1, len(event))
        if opcode == Opcode.PING and self.judge.open:
            self.writer.write_pong(self.judge.answer())
        else:
            self._follow_judge()

    def _follow_judge(self) -> None:
        """Write what the judge answers, and follow it to the end of the connection."""
        answer = self.judge.answer()
        if answer:
            self.writer.write(answer)
        if not self.judge.open:
            self._begin_closing()
        if self.judge.ended:
            self._end()

    # Writing.

    def send_message(self, first_byte: int, payload: bytes) -> None:
        """Write a whole message: ``first_byte`` is ``TEXT`` or ``BINARY``."""
        self.writer.write(self._encode(first_byte, payload))
        self.messages_sent += 1

    def _send_overdue(self) -> None:
        self._abort("the peer does not read what it is sent")

    # Pings.

    def _send_ping(self, payload: bytes) -> None:
        self.writer.write(self.judge.ping(payload))

    def _activity(self) -> int | None:
        return self.bytes_received if self.reading is READY else None

    def _peer_silent(self) -> None:
        self.fail(Close(CloseCode.INTERNAL_ERROR, "no pong in time"))

    # The end.

    def close(self, code: int, reason: str) -> None:
        """
        Begin the closing handshake, unless it has begun (RFC 6455 section 7.1.2).

        Args:
            code: A code that `check_close` has accepted.
            reason: A reason that it has accepted.
        """
        if self.state is not OPEN:
            return
        if self.transport is None:
            self._end()
            return
        self.writer.write(self.judge.close(code, reason))
        self.writer.flush()
        self._begin_closing()
        # The peer's close frame may stand behind messages that nobody wants now.
        self.resume()
        self._abort_later()

    def fail(self, close: Close) -> None:
        """Fail the connection (RFC 6455 section 7.1.7)."""
        self.judge.fail(close)
        self._follow_judge()

    def wait_until_lost(self) -> asyncio.Future[None]:
        """Return a future that is done when the transport is gone."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        if self.state is LOST:
            waiter.set_result(None)
        else:
            self._waiters.append(waiter)
        return waiter

    def _peer_ended(self) -> None:
        """No more bytes will come."""
        self._complete()
        if self.reading is FULL:
            self._wait_for_turn()
        elif self.reading is not WAITING:
            self._peer_done()

    def _peer_done(self) -> None:
        """All that the peer has sent was handled, and no more will come."""
        if self.transport is None:
            self._end()
        else:
            self._begin_closing()
            self.reading = DONE
            self.transport.close()

    def _begin_closing(self) -> None:
        """From now on, neither side sends messages."""
        if self.state is OPEN:
            self.state = CLOSING
            self.judge.drop_fragments()
            self.keepalive.stop(self.closed_error)
            self.queue.wake()
            self._announce_end()

    def _announce_end(self) -> None:
        """Announce, once, that the connection ends: the view's time to end begins."""
        if not self._announced:
            self._announced = True
            self._closing()

    def _end(self) -> None:
        """Close the TCP connection, but let the peer read what was sent."""
        self._begin_closing()
        self.reading = DONE
        self.buffer, self.position = b"", 0
        if self.transport is None:
            self._end_lost()
        elif self.state < ENDED:
            self.state = ENDED
            self._abort_later()
            if self.writer.finish():
                # Closing with unread data makes TCP drop what the peer has not
                # read yet, the close frame among it. So read on, to the peer's end.
                self.transport.resume_reading()

    def _end_lost(self) -> None:
        if self.state is LOST:
            return
        self.state = LOST
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._lost()

    def _abort_later(self) -> None:
        if self._close_timer is None:
            self._close_timer = self._loop.call_later(
                self.options.close_timeout, self._abort, "no closing handshake in time"
            )

    def _abort(self, reason: str) -> None:
        """Drop a connection whose peer cannot be told why."""
        if self.failure is None:
            self.failure = Close(CloseCode.ABNORMAL_CLOSURE, reason)
        if self.transport is not None:
            self.transport.abort()

    def close_status(self) -> Close:
        """Return the code and reason that ended the connection: those that came first."""
        return self.judge.close_status() or self.failure or Close(CloseCode.ABNORMAL_CLOSURE, "")

    def closed_error(self) -> WebsocketClosed:
        """Make the error for what needs an open connection."""
        status = self.close_status()
        return WebsocketClosed(int(status.code), status.reason)
