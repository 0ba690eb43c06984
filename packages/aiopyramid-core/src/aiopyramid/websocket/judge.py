"""
The judge of all frames that are not beyond doubt (RFC 6455 section 5), without any I/O.

This is the Sans-I/O protocol of the websockets library, which gets whole frames one at
a time; what it is lax about is checked here, before it sees the frame.
"""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN

from .frames import MASKED, TEXT

if TYPE_CHECKING:
    from websockets.protocol import Protocol

# In the first byte of a frame.
CONTROL = 0x08
RESERVED = 0x70
COMPRESSED = 0x40
OPCODE = 0x0F

MAX_CONTROL_SIZE = 125
MAX_REASON_SIZE = MAX_CONTROL_SIZE - 2


class Pong(NamedTuple):
    """A pong, and the payload of the ping that it answers."""

    payload: bytes


class Judge:
    """
    Judges the frames of one connection, and makes those that answer them.

    Args:
        max_message_size: The largest message, whole and decompressed, in bytes.
        protocol: The library's protocol, as the handshake has left it.
    """

    # There may be thousands.
    __slots__ = (
        "_decoder",
        "_fragments",
        "_protocol",
        "_size",
        "in_message",
        "max_frame_size",
        "max_size",
    )

    def __init__(self, max_message_size: int, protocol: Protocol) -> None:
        self.max_size = max_message_size
        # Compression can make a message a little larger.
        slack = 64 + max_message_size // 16 if protocol.extensions else 0
        self.max_frame_size = max_message_size + slack
        self._protocol = protocol
        protocol.max_message_size = self.max_frame_size
        self._fragments: io.StringIO | io.BytesIO | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._size = 0  # of the fragments
        #: True between the fragments of a message.
        self.in_message = False

    # Questions.

    @property
    def open(self) -> bool:
        """True until a close frame has been sent or received."""
        return self._protocol.state is OPEN

    @property
    def ended(self) -> bool:
        """True if nothing more is to be sent or judged, so that the TCP connection can end."""
        return self._protocol.eof_sent

    def continues(self, first: int) -> bool:
        """Return True if a frame with this first byte is a data frame where one may stand."""
        reserved = RESERVED & ~COMPRESSED if self._protocol.extensions else RESERVED
        return (
            first & (reserved | CONTROL) == 0
            and first & OPCODE <= Opcode.BINARY
            and (first & OPCODE == Opcode.CONT) is self.in_message
        )

    def objection(self, first: int, second: int, length: int) -> Close | None:
        """
        Judge a frame by its header, before its payload has arrived.

        Args:
            first: The first byte.
            second: The second byte.
            length: The length of the payload, in bytes.

        Returns:
            The code and reason to fail the connection with; ``None`` if the frame is welcome.
        """
        form = second & ~MASKED
        if not second & MASKED:
            return Close(CloseCode.PROTOCOL_ERROR, "client frames must be masked")
        if (form == 126 and length < 126) or (form == 127 and length < 65536):
            return Close(CloseCode.PROTOCOL_ERROR, "length is not in its shortest form")
        if first & CONTROL:
            if length > MAX_CONTROL_SIZE:
                return Close(CloseCode.PROTOCOL_ERROR, "control frame too long")
            return None
        # Of a continuation it is not known here whether it is compressed.
        exact = first & OPCODE and not first & COMPRESSED
        if length + (self._protocol.current_size or 0) > (
            self.max_size if exact else self.max_frame_size
        ):
            return self._too_big()
        return None

    def close_status(self) -> Close | None:
        """Return the code and reason that came first, the peer's or ours (section 7.1.5)."""
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        if received is not None and (self._protocol.close_rcvd_then_sent or sent is None):
            return received
        return sent

    # Frames from the peer.

    def receive(self, frame: bytes) -> str | bytes | Pong | None:
        """
        Judge a whole frame.

        Args:
            frame: The frame, to whose header there is no objection.

        Returns:
            A message that it completes, or a pong. What is to be written after it,
            :meth:`answer` returns.
        """
        protocol = self._protocol
        if frame[0] & OPCODE == Opcode.CLOSE:
            # A close frame inside of a fragmented message is legal: the
            # message just never ends (section 5.4).
            protocol.current_size = None
        protocol.receive_data(frame)
        self.in_message = protocol.current_size is not None
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PONG:
                return Pong(bytes(event.data))
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and self.open:
                try:
                    return self._join(event)
                except UnicodeDecodeError as exc:
                    reason = f"{exc.reason} at position {exc.start}"
                    self.fail(Close(CloseCode.INVALID_DATA, reason))
        return None

    def _join(self, frame: Frame) -> str | bytes | None:
        if frame.opcode is not Opcode.CONT:
            self._size = 0
            text = frame.opcode is Opcode.TEXT
            self._decoder = codecs.getincrementaldecoder("utf-8")() if text else None
            self._fragments = io.StringIO() if text else io.BytesIO()
        assert self._fragments is not None
        data: Any = frame.data
        self._size += len(data)
        if self._size > self.max_size:
            self.fail(self._too_big())
            return None
        if self._decoder is not None:
            # Wrong text is refused as soon as it is seen.
            data = self._decoder.decode(bytes(data), final=frame.fin)
        self._fragments.write(data)
        if not frame.fin:
            return None
        message = self._fragments.getvalue()
        self.drop_fragments()
        return message

    def drop_fragments(self) -> None:
        """Forget a message that will not be completed."""
        self._fragments = self._decoder = None

    def _too_big(self) -> Close:
        return Close(CloseCode.MESSAGE_TOO_BIG, f"message exceeds {self.max_size} bytes")

    # Frames to the peer.

    def answer(self) -> bytes:
        """Return what is to be written now."""
        return b"".join(self._protocol.data_to_send())

    def encode_message(self, first_byte: int, payload: bytes) -> bytes:
        """
        Return the frame of a message, with the extensions.

        Args:
            first_byte: ``TEXT`` or ``BINARY``.
            payload: The message, in UTF-8 if it is text.
        """
        protocol = self._protocol
        (protocol.send_text if first_byte == TEXT else protocol.send_binary)(payload)
        return self.answer()

    def forget_context(self) -> int:
        """
        Compress each message by itself from now on, so that others can be sent between them.

        Returns:
            The peer's window for compressed messages, as a logarithm; 0 for no compression.
        """
        window_bits = 0
        for extension in self._protocol.extensions:
            assert isinstance(extension, PerMessageDeflate)
            extension.local_no_context_takeover = True
            vars(extension).pop("encoder", None)
            window_bits = extension.local_max_window_bits
        return window_bits

    def ping(self, payload: bytes) -> bytes:
        """Return a ping."""
        self._protocol.send_ping(payload)
        return self.answer()

    def close(self, code: int, reason: str) -> bytes:
        """Return a close frame, whose code and reason `check_close` has accepted."""
        self._protocol.send_close(code, reason)
        return self.answer()

    def fail(self, close: Close) -> None:
        """
        Fail the connection (section 7.1.7): nothing is judged after this.

        :meth:`answer` returns the close frame, unless one was sent before.
        """
        reason = close.reason.encode()[:MAX_REASON_SIZE].decode(errors="ignore")
        self._protocol.fail(close.code, reason)
