"""Forms: how the members of a group are sent its messages, and encoded once for all of them."""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Sequence
from typing import Protocol

from ..websocket.frames import BINARY, TEXT, encode_message
from .messages import NOBODY, Message, Resync, to_json

logger = logging.getLogger("aiopyramid.broadcast")

COMPRESSED = 0x40

# Below, a frame does not become smaller.
MIN_COMPRESSED = 64

TAIL = b"\x00\x00\xff\xff"
"""What a flush adds, and a compressed message does without (RFC 7692 section 7.2.1)."""


class Form(Protocol):
    """What WebSockets get of a message, and of a gap. Members that share one share the frames."""

    def message(self, message: Message) -> str | bytes:
        """
        Return what a member gets of a message.

        Args:
            message: The message.

        Returns:
            `str` is sent as text, bytes are sent as binary.
        """

    def resync(self, resync: Resync) -> str | bytes | None:
        """
        Return what a member gets of a gap.

        Args:
            resync: The gap.

        Returns:
            The text or the bytes; ``None`` if there is no way to tell.
        """

    def joined(self, group: str, id_: str | None) -> str | bytes | None:
        """
        Return what a new member gets when it has joined, behind the history.

        Args:
            group: The name of the group.
            id_: In a group with history, what tells a later ``join`` where to go on.

        Returns:
            The text or the bytes; ``None`` for nothing.
        """


class Raw:
    """Sends what was published. Of a gap, a client cannot be told so."""

    def message(self, message: Message) -> str | bytes:
        """Return what was published."""
        return message.data

    def resync(self, resync: Resync) -> None:
        """Return ``None``."""

    def joined(self, group: str, id_: str | None) -> None:
        """Return ``None``."""


class Tagged:
    """
    Sends JSON: ``{"group": ..., "id": ..., "data": ...}``, or ``"base64"`` for bytes.

    ``id`` is there in groups with history. Without data, the member has joined the group. A gap is
    ``{"group": ..., "resync": reason}``. The client in JavaScript reads this.
    """

    def message(self, message: Message) -> str:
        """Return the JSON of a message."""
        fields = {"group": message.group}
        if message.id is not None:
            fields["id"] = message.id
        if isinstance(message.data, bytes):
            fields["base64"] = base64.b64encode(message.data).decode()
        else:
            fields["data"] = message.data
        return to_json(fields)

    def resync(self, resync: Resync) -> str:
        """Return the JSON of a gap."""
        return to_json({"group": resync.group, "resync": resync.reason})

    def joined(self, group: str, id_: str | None) -> str:
        """Return the JSON of a position."""
        return to_json({"group": group} if id_ is None else {"group": group, "id": id_})


RAW = Raw()
TAGGED = Tagged()


def encode(data: str | bytes, window_bits: int) -> bytes:
    """
    Return the frame for a message.

    Args:
        data: The message.
        window_bits: The compression that the peer understands (RFC 7692), as the logarithm of
            its window; 0 for none. The frame does not refer to those before.
    """
    first, payload = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
    if window_bits and len(payload) >= MIN_COMPRESSED:
        compressor = zlib.compressobj(wbits=-window_bits)
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        compressed = compressed.removesuffix(TAIL)
        if len(compressed) < len(payload):
            return encode_message(first | COMPRESSED, compressed)
    return encode_message(first, payload)


class Frames:
    """The frames of messages that go out together, for each form and compression."""

    __slots__ = ("_encoded", "excluding", "messages")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        #: The members that do not get one of them.
        self.excluding = {each._exclude for each in messages if each._exclude != NOBODY}
        self._encoded: dict[tuple[int, int], bytes | None] = {}

    def encoded(self, form: Form, window_bits: int) -> bytes | None:
        """Return the frames, one behind the other; ``None`` if the form cannot make them."""
        key = id(form), window_bits  # the form itself need not be hashable
        try:
            return self._encoded[key]
        except KeyError:
            frames = self._encoded[key] = self._encode(form, window_bits)
            return frames

    def _encode(self, form: Form, window_bits: int) -> bytes | None:
        try:
            return b"".join(encode(form.message(each), window_bits) for each in self.messages)
        except Exception:
            # Of the application's own form: it must not end what serves the others.
            logger.exception("%r cannot send %r", form, self.messages)
            return None
