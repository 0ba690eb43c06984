"""How messages look to PostgreSQL: for coroutines and for plain code."""

from __future__ import annotations

import base64
import hashlib

# What a notification may carry, in bytes: less than 8000 (PostgreSQL's documentation of NOTIFY),
# with the envelope; binary messages grow by a third.
MAX_PAYLOAD = 7999
MAX_ENVELOPE = 128
MAX_SIZE = (MAX_PAYLOAD - 1) // 4 * 3 - MAX_ENVELOPE

TEXT, BASE64 = "t", "b"


def channel_name(channel: str) -> str:
    """Return the name of a channel in PostgreSQL, where it has at most 63 bytes."""
    return "aiopyramid_" + hashlib.blake2b(channel.encode(), digest_size=16).hexdigest()


def to_text(data: bytes) -> str:
    """Return bytes as a notification can carry them: text without NUL."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    return BASE64 + base64.b64encode(data).decode() if "\0" in text else TEXT + text


def from_text(text: str) -> bytes:
    """
    Return the bytes that `to_text` was given.

    Raises:
        ValueError: For what it has not made.
    """
    if text.startswith(BASE64):
        return base64.b64decode(text[1:], validate=True)
    return text[1:].encode()
