"""The settings of groups, without Pyramid: a publisher reads them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from .messages import check_group

PREFIX = "aiopyramid.broadcast."

Overflow = Literal["close", "drop_oldest", "drop_newest"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

MEMORY = "memory://"
REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
POSTGRESQL = ("postgresql", "postgres")
SCHEMES = ("memory", *REDIS, *POSTGRESQL)


def _url(value: Any) -> str:
    url = str(value).strip()
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "://" not in url:
        raise ValueError
    if parts.scheme not in ("memory", "unix", *POSTGRESQL) and not parts.netloc.rpartition("@")[2]:
        raise ValueError
    return url


def _prefix(value: Any) -> str:
    return check_group(value)


def _at_least(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str) or int(value) < least:
            raise ValueError
        return int(value)

    return parse


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not 0 < float(value) <= 366 * 86400:
        raise ValueError
    return float(value)


def _overflow(value: Any) -> Overflow:
    if value not in OVERFLOWS:
        raise ValueError
    return value  # type: ignore[no-any-return]


def _history(value: Any) -> tuple[tuple[str, int], ...]:
    if isinstance(value, str):
        lines = [line.split("=") for line in value.splitlines() if line.strip()]
        value = {name.strip(): count.strip() for name, count in lines}
    kept = []
    for name, count in dict(value).items():
        if "*" in check_group(name)[:-1]:
            raise ValueError
        kept.append((name, _at_least(1)(count)))
    # The most exact one first.
    return tuple(sorted(kept, key=lambda item: (item[0].endswith("*"), -len(item[0]))))


def _setting(parse: Callable[[Any], Any], default: Any, allowed: str) -> Any:
    return field(default=default, metadata={"parse": parse, "allowed": allowed})


@dataclass(frozen=True, slots=True)
class BroadcastSettings:
    """How groups work. Sizes are in bytes, times in seconds."""

    #: Where the broker is: ``memory://`` for one process; ``redis://``, ``rediss://`` (TLS),
    #: ``unix://``, ``redis+sentinel://`` or ``rediss+sentinel://`` for Redis and Valkey;
    #: ``postgresql://`` for PostgreSQL.
    url: str = _setting(_url, MEMORY, "a URL: " + ", ".join(f"{each}://..." for each in SCHEMES))
    #: Stands before all names at the broker, so that applications can share one.
    prefix: str = _setting(_prefix, "aiopyramid", "a name of up to 200 bytes")
    #: Groups with a history: lines of ``name = count``, the number of messages that are kept. A
    #: name that ends with ``*`` stands for all groups that begin so.
    history: tuple[tuple[str, int], ...] = _setting(
        _history, (), "lines of name = count, such as chat:* = 100, with * at the end only"
    )
    #: How long a history is kept after the group's last message.
    history_age: float = _setting(_seconds, 86400.0, "a number of seconds above 0, up to a year")
    #: Messages that wait for a member that reads slowly.
    max_queue: int = _setting(_at_least(1), 100, "a whole number of at least 1")
    #: Bytes that these have together.
    max_queue_size: int = _setting(_at_least(1), 2**20, "a whole number of at least 1")
    #: What happens to a member whose queue is full: ``close`` closes its connection with code
    #: 1013, so that it reconnects; ``drop_oldest`` and ``drop_newest`` drop messages.
    overflow: Overflow = _setting(_overflow, "close", "close, drop_oldest or drop_newest")  # noqa: RUF009
    #: Messages that wait for the broker, in one worker.
    max_outgoing: int = _setting(_at_least(1), 10_000, "a whole number of at least 1")
    #: Bytes that these have together.
    max_outgoing_size: int = _setting(_at_least(1), 2**24, "a whole number of at least 1")
    #: How long the broker has to answer, and a message waits for a broker that is gone.
    timeout: float = _setting(_seconds, 5.0, "a number of seconds above 0, up to a year")

    def history_of(self, group: str) -> int:
        """
        Return how many messages of a group are kept.

        Args:
            group: The name of the group.

        Returns:
            Their number; 0 for a group without history.
        """
        for name, count in self.history:
            if group.startswith(name[:-1]) if name.endswith("*") else group == name:
                return count
        return 0

    @property
    def scheme(self) -> str:
        """Return the scheme of the URL, which tells the backend."""
        return urlsplit(self.url).scheme


def from_settings(settings: Mapping[str, Any]) -> BroadcastSettings:
    """
    Read what begins with ``aiopyramid.broadcast.`` of an application's settings.

    Args:
        settings: The settings; all others are skipped.

    Returns:
        The settings of groups, with defaults for what is not set.

    Raises:
        ValueError: For a bad value or name, with the name.
    """
    return from_values(
        {
            name.removeprefix(PREFIX): value
            for name, value in settings.items()
            if name.startswith(PREFIX)
        }
    )


def from_values(values: Mapping[str, Any]) -> BroadcastSettings:
    """
    Read settings by their names without the prefix.

    Raises:
        ValueError: For a bad value or name, with the name.
    """
    known = {each.name: each.metadata for each in fields(BroadcastSettings)}
    read = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown setting {PREFIX}{name}; the settings are {', '.join(known)}")
        try:
            read[name] = known[name]["parse"](value)
        except (ValueError, TypeError, OverflowError):
            shown = hide_password(value) if name == "url" else repr(value)
            raise ValueError(
                f"{PREFIX}{name} = {shown} is not allowed: it must be {known[name]['allowed']}"
            ) from None
    return BroadcastSettings(**read)


def hide_password(url: Any) -> str:
    """Return a URL as it may be logged."""
    text = str(url)
    head, at, rest = text.rpartition("@")
    if not at:
        return repr(text)
    scheme, colons, credentials = head.partition("://")
    user = credentials.partition(":")[0]
    return repr(f"{scheme}{colons}{user}:***@{rest}")
