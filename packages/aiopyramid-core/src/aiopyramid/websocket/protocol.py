"""
The protocol of an open connection (RFC 6455), between transport and `ws`.

One framer cuts what arrives into whole frames. A plain data frame - final,
uncompressed, outside of a fragmented message - goes straight to the view. Every
other frame is fed, whole, to the Sans-I/O protocol of the websockets library,
which is the judge of RFC 6455; what it is lax about is checked here.

The protocol reads whether or not the view receives, so that it sees a
disconnect at once and answers pings, until ``max_queue`` messages wait.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import logging
import time
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - wheels have it
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from websockets.extensions import Extension

    from .connection import WebsocketConnection
    from .options import WebsocketOptions

logger = logging.getLogger("aiopyramid.websocket")

# The first byte of a whole, uncompressed message in one frame.
TEXT = 0x80 | Opcode.TEXT
BINARY = 0x80 | Opcode.BINARY
MASKED = 0x80
CONTROL = 0x08
RESERVED = 0x70
COMPRESSED = 0x40

# While messages wait, this much is read of what comes behind them.
READ_AHEAD = 65536

# Sends of one loop iteration are joined up to this size.
FLUSH_SIZE = 65536


def encode_header(first_byte: int, length: int) -> bytes:
    """Make the header of an unmasked frame (RFC 6455 section 5.2)."""
    if length < 126:
        return bytes((first_byte, length))
    if length < 65536:
        return bytes((first_byte, 126)) + length.to_bytes(2, "big")
    return bytes((first_byte, 127)) + length.to_bytes(8, "big")


def check_close(code: int, reason: str) -> None:
    """
    Check that a close frame may carry a code and a reason.

    Raises:
        ValueError: If it may not.
    """
    try:
        Frame(Opcode.CLOSE, Close(code, reason).serialize()).check()
    except ProtocolError as exc:
        raise ValueError(f"cannot close with code {code!r} and reason {reason!r}: {exc}") from None


class WebsocketProtocol(asyncio.Protocol):
    """
    Turns bytes from the transport into messages, and messages into bytes.

    Args:
        connection: What receives the messages.
        options: The view's options.
        extensions: What the handshake has negotiated.
    """

    # There may be thousands.
    __slots__ = (
        "buffer",
        "bytes_received",
        "bytes_sent",
        "close_ahead",
        "close_timer",
        "connection",
        "decoder",
        "ended",
        "failure",
        "flushed",
        "fragments",
        "fragments_size",
        "gave_way",
        "giving_way",
        "in_burst",
        "judge",
        "keepalive_timer",
        "last_pong",
        "loop",
        "lost",
        "max_frame_size",
        "messages_received",
        "messages_sent",
        "needed",
        "not_data",
        "open",
        "options",
        "pending",
        "pending_size",
        "ping_count",
        "pings",
        "position",
        "reading",
        "scanned",
        "send_timer",
        "short",
        "transport",
        "waiters",
        "writable",
    )

    def __init__(
        self,
        connection: WebsocketConnection,
        options: WebsocketOptions,
        extensions: list[Extension],
    ) -> None:
        self.connection = connection
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.max_frame_size = options.max_message_size
        self.short = min(125, options.max_message_size)
        self.not_data = RESERVED | CONTROL
        if extensions:
            # Compressed, a message may be a little larger than it is.
            self.max_frame_size += 64 + options.max_message_size // 16
            self.not_data &= ~COMPRESSED
        self.judge = Protocol(SERVER, state=OPEN, max_size=self.max_frame_size, logger=logger)
        self.judge.extensions = extensions
        self.transport: Any = None
        # Reading
        self.buffer: bytes | bytearray = b""
        self.needed = 2  # size that the buffer must have to hold the next frame
        self.position = 0  # where the buffer's next frame begins
        self.scanned = 0  # up to where no close frame was found in it
        self.reading = True
        self.close_ahead = False  # a close frame ends what is in the buffer
        self.giving_way = False  # the view answers before the next frame is judged
        self.gave_way = False  # it has had its turn
        self.fragments: io.StringIO | io.BytesIO | None = None
        self.fragments_size = 0
        self.decoder: codecs.IncrementalDecoder | None = None
        # Writing
        self.pending: list[bytes] = []
        self.pending_size = 0
        self.in_burst = False
        self.flushed = 0  # bytes of bursts since a sender last gave way
        self.writable: asyncio.Future[None] | None = None  # set while the peer is too slow
        self.last_pong: bytes | None = None
        # Timers
        self.close_timer: asyncio.TimerHandle | None = None
        self.send_timer: asyncio.TimerHandle | None = None
        self.keepalive_timer: asyncio.TimerHandle | None = None
        self.pings: dict[bytes, tuple[float, asyncio.Future[float] | None]] = {}
        self.ping_count = 0
        # Counters
        self.messages_received = self.messages_sent = 0
        self.bytes_received = self.bytes_sent = 0
        # The end
        self.open = True  # neither side has begun to close
        self.ended = False  # nothing is written any more
        self.lost = False  # the transport is gone
        self.failure: Close | None = None  # how it ended, if not with a close frame
        self.waiters: list[asyncio.Future[None]] = []  # for the end

    # The transport's side.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=self.options.write_limit)
        transport.resume_reading()  # the HTTP protocol may have paused it
        self._schedule_ping()
        self.connection.opened()

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self.buffer:
            self._buffer_more(data)
            if len(self.buffer) < self.needed or self.giving_way:
                return
            if not self.reading and not self._read_ahead():
                return
            self._parse(self.buffer, 0)
        else:
            self._parse(data, 0)

    def _buffer_more(self, data: bytes) -> None:
        if isinstance(self.buffer, bytes):
            self.buffer = bytearray(memoryview(self.buffer)[self.position :])
        else:
            del self.buffer[: self.position]
        self.scanned = max(self.scanned - self.position, 0)
        self.position = 0
        self.buffer += data

    def eof_received(self) -> None:
        """Let the transport close: a half-open WebSocket is of no use."""
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        self.lost = True
        self._stop_timers()
        self._closed()
        self.buffer, self.position = b"", 0
        self.pending.clear()
        self._release_writers()
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.connection.lost()

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()
        if self.options.send_timeout:
            self.send_timer = self.loop.call_later(self.options.send_timeout, self._send_overdue)

    def resume_writing(self) -> None:
        self._release_writers()
        if self.last_pong is not None and not self.lost:
            pong, self.last_pong = self.last_pong, None
            self.write(pong)

    def _release_writers(self) -> None:
        if self.send_timer is not None:
            self.send_timer.cancel()
            self.send_timer = None
        if self.writable is not None:
            if not self.writable.done():
                self.writable.set_result(None)
            self.writable = None

    def _send_overdue(self) -> None:
        self.abort(CloseCode.ABNORMAL_CLOSURE, "the peer does not read what it is sent")

    # Reading: from bytes to frames.

    def _parse(self, data: bytes | bytearray, position: int) -> None:
        """Cut ``data``, with a frame at ``position``, into frames; keep the rest."""
        judge, connection = self.judge, self.connection
        size = len(data)
        needed = 2
        while self.reading:
            if size - position < 2:
                break
            first, second = data[position], data[position + 1]
            plain = first in (TEXT, BINARY) and judge.current_size is None and self.open
            mask = position + 2
            length = second - MASKED
            # Most frames are short, plain and masked: no need to look closer.
            if not plain or not 0 <= length <= self.short:
                length &= 0x7F
                if length > 125:
                    mask += 2 if length == 126 else 8
                    if size < mask:
                        needed = mask - position
                        break
                    length = int.from_bytes(data[position + 2 : mask], "big")
                if connection.has_messages() and not (self.gave_way or self._is_data(first)):
                    self._give_way()
                    break
                if not self._header_is_legal(first, second, length):
                    break
            end = mask + 4 + length
            if size < end:
                needed = end - position
                break
            if plain:
                payload = apply_mask(data[mask + 4 : end], data[mask : mask + 4])
                try:
                    message = payload if first == BINARY else str(payload, "utf-8")
                except UnicodeDecodeError as exc:
                    self._fail_utf8(exc)
                    break
                self.messages_received += 1
                connection.deliver(message)
            else:
                self._judge(first, bytes(data[position:end]))
                self.gave_way = False
            position = end
        if position == size or judge.eof_sent or self.lost:
            self.buffer, self.position, self.scanned = b"", 0, 0
        else:
            # Not cut off: a lot of small frames would be copied again and again.
            self.buffer, self.position = data, position
            self.scanned = max(self.scanned, position)
            if not self.reading and self._read_ahead():
                self.loop.call_soon(self._parse_ahead)
        self.needed = needed

    def _give_way(self) -> None:
        """
        Let the view answer its messages before the frame behind them is judged.

        A client may send a question and a close frame in one go, or break the
        rules after having kept them.
        """
        self.giving_way = self.gave_way = True
        self.transport.pause_reading()
        self.loop.call_soon(self._go_on)

    def _is_data(self, first: int) -> bool:
        """Tell whether a frame is a data frame that is in order, as its first byte goes."""
        continues = first & 0x0F == Opcode.CONT
        return (
            first & self.not_data == 0
            and first & 0x0F < 3
            and (continues is (self.judge.current_size is not None))
        )

    def _go_on(self) -> None:
        if self.giving_way:
            self.giving_way = False
            self._parse(self.buffer, self.position)
            if self.reading and not self.giving_way and not self.lost:
                self.transport.resume_reading()

    def _header_is_legal(self, first: int, second: int, length: int) -> bool:
        """Check what can be known before the payload has arrived; else fail."""
        if self.judge.eof_sent:
            return False  # nothing is of interest any more (section 7.1.7)
        form = second & 0x7F
        if second < MASKED:
            return self.fail(CloseCode.PROTOCOL_ERROR, "client frames must be masked")
        if (form == 126 and length < 126) or (form == 127 and length < 65536):
            return self.fail(CloseCode.PROTOCOL_ERROR, "length is not in its shortest form")
        if first & CONTROL:
            if length > 125:
                return self.fail(CloseCode.PROTOCOL_ERROR, "control frame too long")
        elif length + (self.judge.current_size or 0) > self.max_frame_size:
            return self._fail_size()
        return True

    def pause_reading(self) -> None:
        """
        Deliver no more: as many messages wait as may.

        What comes is still read ahead, up to a limit: so that a disconnect is
        seen, and a close frame behind the messages.
        """
        if not self.close_ahead:
            self.reading = False

    def _read_ahead(self) -> bool:
        """Look for a close frame in the buffer; then all messages are delivered."""
        buffer, size = self.buffer, len(self.buffer)
        while size - self.scanned >= 2:
            length, start = buffer[self.scanned + 1] & 0x7F, self.scanned + 2
            if length > 125:
                start += 2 if length == 126 else 8
                length = int.from_bytes(buffer[self.scanned + 2 : start], "big")
            if size < start + 4 + length:
                break
            if buffer[self.scanned] & 0x0F == Opcode.CLOSE:
                self.reading = self.close_ahead = True
                return True
            self.scanned = start + 4 + length
        if size > READ_AHEAD:
            self.transport.pause_reading()
        return False

    def _parse_ahead(self) -> None:
        if self.buffer:
            self._parse(self.buffer, self.position)

    def resume_reading(self) -> None:
        """Deliver on: there is room for messages again."""
        if self.reading:
            return
        self.reading = True
        if self.buffer and not self.giving_way:
            self._parse(self.buffer, self.position)
        if self.reading and not self.giving_way and not self.lost:
            self.transport.resume_reading()

    # Judging: from frames to messages.

    def _judge(self, first: int, frame: bytes) -> None:
        judge = self.judge
        opcode = first & 0x0F
        if opcode == Opcode.CLOSE:
            # A close frame inside of a fragmented message is legal: the
            # message just never ends (RFC 6455 section 5.4).
            judge.current_size = None
        judge.receive_data(frame)
        for event in judge.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PONG:
                self._pong_received(bytes(event.data))
            elif event.opcode not in (Opcode.PING, Opcode.CLOSE) and self.open:
                try:
                    self._fragment_received(event)
                except UnicodeDecodeError as exc:
                    self._fail_utf8(exc)
        if self.writable is not None and opcode == Opcode.PING and judge.state is OPEN:
            # The peer does not read. It needs one pong at most, for its
            # latest ping (RFC 6455 section 5.5.3).
            self.last_pong = b"".join(judge.data_to_send())
        self._write_judgement()

    def _fragment_received(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self.fragments_size = 0
        if frame.opcode is Opcode.TEXT:
            self.decoder = codecs.getincrementaldecoder("utf-8")()
            self.fragments = io.StringIO()
        elif frame.opcode is Opcode.BINARY:
            self.decoder = None
            self.fragments = io.BytesIO()
        assert self.fragments is not None
        data: Any = frame.data
        self.fragments_size += len(data)
        if self.fragments_size > self.options.max_message_size:
            self._fail_size()
            return
        if self.decoder is not None:
            # Wrong text is refused as soon as it is seen.
            data = self.decoder.decode(bytes(data), final=frame.fin)
        self.fragments.write(data)
        if frame.fin:
            message = self.fragments.getvalue()
            self.fragments = self.decoder = None
            self.connection.deliver(message)
            self.messages_received += 1

    def _write_judgement(self) -> None:
        """Write what the judge answers, and follow it to the end of the connection."""
        for data in self.judge.data_to_send():
            if data:
                self.write(data)
        if self.judge.state is not OPEN:
            self._closed()
        if self.judge.eof_sent:
            self._end()

    def _fail_size(self) -> bool:
        limit = self.options.max_message_size
        return self.fail(CloseCode.MESSAGE_TOO_BIG, f"message exceeds {limit} bytes")

    def _fail_utf8(self, exc: UnicodeDecodeError) -> None:
        self.fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")

    # Writing.

    def write(self, data: bytes) -> None:
        """
        Write a frame.

        Writes at once, unless something was written since the view last waited
        for a message: then the view is busy sending, and its frames are joined
        until the loop's next iteration.
        """
        if self.lost:
            return
        self.bytes_sent += len(data)
        if not self.in_burst:
            self.in_burst = True
            self.transport.write(data)
            return
        if not self.pending:
            self.loop.call_soon(self.flush)
        self.pending.append(data)
        self.pending_size += len(data)
        if self.pending_size >= FLUSH_SIZE:
            self.flush()

    def flush(self) -> None:
        """Hand what was joined to the transport."""
        self.in_burst = False
        if self.pending and not self.lost:
            data = b"".join(self.pending)
            self.pending.clear()
            self.pending_size = 0
            self.flushed += len(data)
            self.transport.write(data)

    def send_message(self, first_byte: int, payload: bytes) -> None:
        """Write a whole message: ``first_byte`` is `TEXT` or `BINARY`."""
        if self.judge.extensions:
            send = self.judge.send_text if first_byte == TEXT else self.judge.send_binary
            send(payload)
            self._write_judgement()
        else:
            self.write(encode_header(first_byte, len(payload)) + payload)
        self.messages_sent += 1

    # Pings.

    def ping(self, waiter: asyncio.Future[float] | None = None) -> bytes:
        """Send a ping; ``waiter`` gets the latency in seconds when the pong comes."""
        self.ping_count += 1
        payload = self.ping_count.to_bytes(4, "big")
        # Not loop.time(): uvloop's is in whole milliseconds.
        self.pings[payload] = (time.monotonic(), waiter)
        self.judge.send_ping(payload)
        self._write_judgement()
        return payload

    def _pong_received(self, payload: bytes) -> None:
        if payload not in self.pings:
            return  # unsolicited (RFC 6455 section 5.5.3)
        now = time.monotonic()
        # It answers all earlier pings too.
        for earlier in list(self.pings):
            sent, waiter = self.pings.pop(earlier)
            latency = now - sent
            if waiter is None:  # for keep-alive
                self._schedule_ping(latency)
            elif not waiter.done():
                waiter.set_result(latency)
            if earlier == payload:
                self.connection.latency = latency
                break

    def _schedule_ping(self, elapsed: float = 0) -> None:
        """Ping when ``ping_interval`` is over, of which ``elapsed`` already is."""
        if self.keepalive_timer is not None:
            self.keepalive_timer.cancel()
        if self.options.ping_interval and self.open:
            self.keepalive_timer = self.loop.call_later(
                max(0, self.options.ping_interval - elapsed), self._keep_alive
            )

    def _keep_alive(self) -> None:
        payload = self.ping()
        if self.options.ping_timeout:
            self.keepalive_timer = self.loop.call_later(
                self.options.ping_timeout, self._check_pong, payload
            )
        else:
            self.pings.pop(payload)
            self._schedule_ping()

    def _check_pong(self, payload: bytes) -> None:
        if self.reading:
            self.fail(CloseCode.INTERNAL_ERROR, "no pong in time")
        else:
            # While reading is paused, a pong that has come cannot be seen.
            self.pings.pop(payload)
            self._schedule_ping(self.options.ping_timeout)

    # The end.

    def close(self, code: int, reason: str) -> None:
        """
        Begin the closing handshake, unless it has begun (RFC 6455 section 7.1.2).

        Args:
            code: A code that `check_close` has accepted.
            reason: A reason that it has accepted.
        """
        if not self.open:
            return
        self.judge.send_close(code, reason)
        self._write_judgement()
        self.flush()
        # The peer's close frame may stand behind messages that nobody wants now.
        self.resume_reading()
        self._abort_later()

    def fail(self, code: int, reason: str) -> bool:
        """Fail the connection (RFC 6455 section 7.1.7). Always returns False."""
        self.judge.fail(code, reason.encode()[:123].decode(errors="ignore"))
        self._write_judgement()
        return False

    def abort(self, code: int, reason: str) -> None:
        """Drop a connection whose peer cannot be told so."""
        if self.failure is None and self.judge.close_rcvd is None:
            self.failure = Close(code, reason)
        self.transport.abort()

    def _closed(self) -> None:
        """From now on, neither side sends messages."""
        if not self.open:
            return
        self.open = False
        self.fragments = self.decoder = None
        if self.keepalive_timer is not None:
            self.keepalive_timer.cancel()
            self.keepalive_timer = None
        for _, waiter in self.pings.values():
            if waiter is not None and not waiter.done():
                waiter.set_exception(self.connection.closed_error())
        self.pings.clear()
        self.connection.closing()

    def _end(self) -> None:
        """Close the TCP connection, but let the peer read what was sent."""
        if self.ended or self.lost:
            return
        self.ended = self.reading = True
        self.flush()
        self._abort_later()
        if self.transport.can_write_eof():
            # Closing with unread data makes TCP drop what the peer has not
            # read yet, the close frame among it. So read on, to the peer's end.
            self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.transport.close()

    def _abort_later(self) -> None:
        if self.close_timer is None and not self.lost:
            self.close_timer = self.loop.call_later(
                self.options.close_timeout,
                self.abort,
                CloseCode.ABNORMAL_CLOSURE,
                "no closing handshake in time",
            )

    def _stop_timers(self) -> None:
        for timer in (self.close_timer, self.send_timer, self.keepalive_timer):
            if timer is not None:
                timer.cancel()
        self.close_timer = self.send_timer = self.keepalive_timer = None

    def close_status(self) -> Close:
        """Tell the code and reason that ended the connection: those that came first."""
        judge = self.judge
        if judge.close_rcvd is not None and (
            judge.close_rcvd_then_sent or judge.close_sent is None
        ):
            return judge.close_rcvd
        if judge.close_sent is not None:
            return judge.close_sent
        return self.failure or Close(CloseCode.ABNORMAL_CLOSURE, "")
