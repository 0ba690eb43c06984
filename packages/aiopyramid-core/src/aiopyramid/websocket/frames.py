"""
Frames as bytes (RFC 6455 section 5.2): the fast way for those that are beyond doubt.

Nothing here keeps state, does I/O or fails: what is not beyond doubt is left where it
stands, for :mod:`aiopyramid.websocket.judge`.
"""

from __future__ import annotations

from collections.abc import MutableSequence

from websockets.frames import Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - wheels have it
    from websockets.utils import apply_mask

# The first byte of a whole, uncompressed message in one frame.
TEXT = 0x80 | Opcode.TEXT
BINARY = 0x80 | Opcode.BINARY

MASKED = 0x80  # in the second byte
MASK_SIZE = 4


def encode_header(first_byte: int, length: int) -> bytes:
    """Return the header of an unmasked frame."""
    if length < 126:
        return bytes((first_byte, length))
    if length < 65536:
        return bytes((first_byte, 126)) + length.to_bytes(2, "big")
    return bytes((first_byte, 127)) + length.to_bytes(8, "big")


def encode_message(first_byte: int, payload: bytes) -> bytes:
    """
    Return the frame of a whole message.

    Args:
        first_byte: ``TEXT`` or ``BINARY``.
        payload: The message, in UTF-8 if it is text.
    """
    length = len(payload)
    if length < 126:  # most are
        return bytes((first_byte, length)) + payload
    return encode_header(first_byte, length) + payload


def find_payload(data: bytes | bytearray, position: int) -> tuple[int, int] | None:
    """
    Read the header of the frame at ``position``, which is taken to be masked.

    Returns:
        Where the mask begins and the length of the payload, in bytes; ``None`` if
        the header is not complete.
    """
    start = position + 2
    if len(data) < start:
        return None
    length = data[position + 1] & 0x7F
    if length < 126:
        return start, length
    end = start + (2 if length == 126 else 8)
    if len(data) < end:
        return None
    return end, int.from_bytes(data[start:end], "big")


def find_frame(
    data: bytes | bytearray, position: int, opcode: int, max_count: int
) -> tuple[int, bool | None]:
    """
    Skip whole frames up to one with a certain opcode.

    Args:
        data: What has been received.
        position: Where a frame begins.
        opcode: The opcode to look for.
        max_count: How many frames to skip at most.

    Returns:
        Where the search has ended, and whether such a frame is there; ``None`` if so
        many frames were skipped that it is not known yet.
    """
    for _ in range(max_count):
        found = find_payload(data, position)
        if found is None:
            return position, False
        mask, length = found
        end = mask + MASK_SIZE + length
        if len(data) < end:
            return position, False
        if data[position] & 0x0F == opcode:
            return position, True
        position = end
    return position, None


def read_messages(
    data: bytes | bytearray,
    position: int,
    max_size: int,
    max_count: int,
    messages: MutableSequence[str | bytes],
) -> int:
    """
    Read messages that are beyond doubt: whole, in one frame, uncompressed and legal.

    Args:
        data: What has been received, outside of a fragmented message.
        position: Where a frame begins.
        max_size: The largest payload, in bytes.
        max_count: How many messages to read at most.
        messages: What they are appended to.

    Returns:
        Where the first frame begins that is not one of them.
    """
    size = len(data)
    while size - position > 1 and max_count > 0:
        first = data[position]
        length = data[position + 1] - MASKED
        mask = position + 2
        if (first != TEXT and first != BINARY) or length < 0:
            break
        if length > 125:
            shortest, end = (126, mask + 2) if length == 126 else (65536, mask + 8)
            if size < end:
                break
            length = int.from_bytes(data[mask:end], "big")
            mask = end
            if length < shortest:
                break
        if length > max_size:
            break
        start = mask + MASK_SIZE
        end = start + length
        if size < end:
            break
        payload = apply_mask(data[start:end], data[mask:start])
        if first == BINARY:
            messages.append(payload)
        else:
            try:
                messages.append(str(payload, "utf-8"))
            except UnicodeDecodeError:
                break
        position = end
        max_count -= 1
    return position
