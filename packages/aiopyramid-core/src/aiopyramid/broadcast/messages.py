"""
What goes through a broker: messages to groups, in envelopes. Without Pyramid, asyncio and I/O.

An envelope is a line of ASCII, which tells what follows and who has published it, and the
payload behind it.
"""

from __future__ import annotations

import itertools
import json
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .exceptions import BadEnvelope

Kind = Literal["text", "binary", "control"]
Reason = Literal["reconnect", "overflow", "lost", "history"]

MAX_GROUP_SIZE = 200
"""Bytes of the name of a group, in UTF-8."""

NOBODY = "-"
"""Where the name of a member could stand that does not get a message."""

# Groups that one publisher numbers its messages for. One that was forgotten begins anew.
NUMBERED_GROUPS = 10_000


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message to a group.

    Attributes:
        group: The name of the group.
        data: What was published, `str` or `bytes`.
        id: In a group with history, what tells a later ``join`` or ``listen`` where to go on.
    """

    group: str
    data: str | bytes
    id: str | None = None
    _exclude: str = field(default=NOBODY, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Resync:
    """
    A gap: messages of a group were lost, or may have been.

    Attributes:
        group: The name of the group.
        reason: ``"reconnect"``: the broker could not be reached for a while. ``"lost"``: a
            message did not arrive. ``"overflow"``: messages came faster than this member, or
            this worker, could take them. ``"history"``: the history does not reach back to where
            the member wanted to go on.
    """

    group: str
    reason: Reason


class Closing(NamedTuple):
    """The end of all connections in a group, with the code and the reason for them."""

    code: int
    reason: str


class Envelope(NamedTuple):
    """A message on its way: see `Numbering` for ``publisher`` and ``sequence``."""

    kind: Kind
    payload: bytes
    publisher: str
    sequence: int
    exclude: str  # the name of a member that does not get it, or `NOBODY`

    def encode(self) -> bytes:
        """Return the bytes for the broker."""
        return b"%s %s %d %s\n%s" % (
            self.kind[:1].encode(),
            self.publisher.encode(),
            self.sequence,
            self.exclude.encode(),
            self.payload,
        )


KINDS: dict[bytes, Kind] = {b"t": "text", b"b": "binary", b"c": "control"}


def decode(data: bytes) -> Envelope:
    """
    Read the bytes that a broker has delivered.

    Raises:
        BadEnvelope: If they are not what `Envelope.encode` makes.
    """
    try:
        line, payload = data.split(b"\n", 1)
        kind, publisher, sequence, exclude = line.split(b" ")
        envelope = Envelope(
            KINDS[kind], payload, publisher.decode("ascii"), int(sequence), exclude.decode("ascii")
        )
        if kind == b"t":
            payload.decode()
    except (ValueError, KeyError):
        raise BadEnvelope(f"this was not published by aiopyramid: {data[:80]!r}") from None
    return envelope


def to_payload(message: Any) -> tuple[Kind, bytes]:
    """
    Return the kind of a message and its bytes.

    Raises:
        TypeError: If it is neither `str` nor bytes-like.
        ValueError: For a text that UTF-8 cannot encode.
    """
    if isinstance(message, str):
        return "text", message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return "binary", bytes(message)
    raise TypeError(
        "a message is str, bytes, bytearray or memoryview, "
        f"not {type(message).__name__}; publish_json() takes other values"
    )


def to_json(value: Any) -> str:
    """
    Render a value without Pyramid.

    Raises:
        TypeError: For what JSON does not know.
        ValueError: Likewise, for NaN and infinity.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def check_group(group: Any) -> str:
    """
    Return the name of a group.

    Raises:
        TypeError: If it is not a `str`.
        ValueError: If it is empty, too long, or has characters that cannot be printed.
    """
    if not isinstance(group, str):
        raise TypeError(f"the name of a group is a str, not {group!r}")
    if not group or not group.isprintable() or len(group.encode()) > MAX_GROUP_SIZE:
        raise ValueError(
            f"{group[:MAX_GROUP_SIZE]!r} cannot be the name of a group: it has 1 to "
            f"{MAX_GROUP_SIZE} bytes in UTF-8, which can be printed"
        )
    return group


def to_control(values: dict[str, Any]) -> bytes:
    """Return the payload of what workers tell each other."""
    return to_json(values).encode()


def from_control(payload: bytes) -> dict[str, Any]:
    """
    Read what `to_control` has made.

    Raises:
        BadEnvelope: If it is something else.
    """
    try:
        values = json.loads(payload)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise BadEnvelope(f"this was not published by aiopyramid: {payload[:80]!r}")
    return values


def channel_of(prefix: str, group: str) -> str:
    """Return the channel of a group."""
    return f"{prefix}:group:{group}"


def workers_channel(prefix: str) -> str:
    """Return the channel on which all workers listen."""
    return f"{prefix}:workers"


def worker_channel(prefix: str, worker: str) -> str:
    """Return the channel on which one worker listens."""
    return f"{prefix}:worker:{worker}"


@dataclass(slots=True)
class Numbering:
    """
    Numbers the messages of one publisher: for each group from 1 on, without a gap.

    A publisher is a worker process, or a `~aiopyramid.broadcast.publisher.Publisher`.
    """

    publisher: str = field(default_factory=lambda: secrets.token_hex(6))
    _counts: OrderedDict[str, itertools.count[int]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, group: str) -> int:
        """Return the number of the next message to a group. May be called in any thread."""
        with self._lock:
            count = self._counts.pop(group, None) or itertools.count(1)
            self._counts[group] = count
            if len(self._counts) > NUMBERED_GROUPS:
                self._counts.popitem(last=False)
            return next(count)


class Seen:
    """
    What has arrived of a group without history: finds the gaps in each publisher's numbers.

    Args:
        max_publishers: How many publishers are remembered, the latest ones.
    """

    __slots__ = ("_last", "_max")

    def __init__(self, max_publishers: int = 1000) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()
        self._max = max_publishers

    def is_next(self, envelope: Envelope) -> bool:
        """Return False if messages are missing before this one, which counts as seen now."""
        publisher, sequence = envelope.publisher, envelope.sequence
        last = self._last.pop(publisher, None)
        self._last[publisher] = sequence
        if len(self._last) > self._max:
            self._last.popitem(last=False)
        # A publisher that has forgotten the group begins with 1 again.
        return last is None or sequence in (last + 1, 1)

    def clear(self) -> None:
        """Forget everything: what comes next is the first."""
        self._last.clear()
