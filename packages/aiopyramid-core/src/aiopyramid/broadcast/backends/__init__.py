"""
Backends: what carries messages from one process to all others.

A backend has five methods (`Backend`). It knows channels and bytes, and nothing of groups and
members. One that can keep messages has a sixth (`HistoryBackend`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..messages import Reason
from ..settings import MEMORY, POSTGRESQL, PREFIX, BroadcastSettings, hide_password


class Position(NamedTuple):
    """The number of a message in its channel's history; numbers of another epoch do not count."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """
        Read what a client has sent back.

        Args:
            text: What the client says.

        Returns:
            The position; ``None`` if it is none.
        """
        epoch, _, number = text.rpartition(".")
        if not epoch or not number.isascii() or not number.isdecimal() or len(number) > 18:
            return None
        return cls(epoch, int(number))


START = Position("-", 0)
"""Before the first message of whatever epoch."""


class Outgoing(NamedTuple):
    """What is to be published, and how many messages the channel's history keeps, if any."""

    channel: str
    data: bytes
    keep: int = 0


class Jump(NamedTuple):
    """A place where numbers are left out, though no message is missing that the broker knows of."""

    last: int
    first: int


class History(NamedTuple):
    """The messages that a channel has kept, in order; the position of the latest; the last jump."""

    kept: Sequence[tuple[Position, bytes]]
    latest: Position | None
    jump: Jump | None = None


class Receiver(Protocol):
    """Whom a backend tells what has arrived. On the loop, and without waiting."""

    def received(self, channel: str, data: bytes, position: Position | None = None) -> None:
        """
        Take a message of a channel.

        Args:
            channel: The name of the channel at the broker.
            data: The bytes that were published.
            position: Where it is, if the channel has a history.
        """

    def resync(self, channel: str, reason: Reason) -> None:
        """
        Take note that messages may be missing here.

        Args:
            channel: The name of the channel at the broker.
            reason: Why: one of those of a `Resync`.
        """


class Backend(Protocol):
    """Carries messages. All methods are called on one loop, by one task at a time each."""

    #: The largest message in bytes, if it is small.
    max_size: int | None

    async def start(self, receiver: Receiver) -> None:
        """
        Connect, and receive from now on.

        A broker that cannot be reached is tried again until `stop`.

        Args:
            receiver: Whom to tell what arrives.

        Raises:
            BroadcastError: If trying again is of no use, such as with a wrong password.
        """

    async def stop(self) -> None:
        """End everything that was started."""

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[BaseException | None]:
        """
        Publish messages, in order.

        Args:
            batch: The messages.

        Returns:
            For each of them, what has failed; ``None`` if the broker has it.

        Raises:
            BrokerUnavailable: If nothing was sent, so that it may be tried again.
        """

    async def subscribe(self, channel: str) -> None:
        """
        Receive what is published to a channel, from the return of this call on.

        While the broker cannot be reached, return at once. `Receiver.resync` is called for the
        channel when it can be.

        Args:
            channel: The name of the channel at the broker.
        """

    async def unsubscribe(self, channel: str) -> None:
        """
        Receive nothing of a channel any more.

        Args:
            channel: The name of the channel at the broker.
        """


@runtime_checkable
class HistoryBackend(Backend, Protocol):
    """A backend that keeps messages."""

    async def history(self, channel: str, after: Position | None, last: int) -> History:
        """
        Return the kept messages of a channel.

        Args:
            channel: The channel.
            after: Those behind this position; all of them, if it is of another epoch.
            last: Without ``after``, at most so many, the latest.

        Raises:
            BroadcastError: If the broker does not answer.
        """


def make_backend(settings: BroadcastSettings) -> Backend:
    """
    Make the backend that the URL asks for.

    Args:
        settings: The settings of groups.

    Returns:
        The backend, which has not connected yet.

    Raises:
        ImportError: If its library is not installed, with the name of the extra.
    """
    if settings.url.startswith(MEMORY):
        from .memory import MemoryBackend

        return MemoryBackend(settings)
    if settings.scheme in POSTGRESQL:
        try:
            from .postgresql import PostgresqlBackend
        except ImportError as exc:
            raise _missing(settings, "psycopg", "postgresql") from exc
        return PostgresqlBackend(settings)
    try:
        from .redis import RedisBackend
    except ImportError as exc:
        raise _missing(settings, "redis", "redis") from exc
    return RedisBackend(settings)


def check_backend(settings: BroadcastSettings) -> None:
    """
    Refuse settings that no backend can follow, before anything is connected.

    Raises:
        ImportError: If the library is not installed, with the name of the extra.
        ValueError: For a URL that cannot be read, or a history where nothing is kept.
    """
    try:
        backend = make_backend(settings)
    except ValueError as exc:
        url = hide_password(settings.url)
        raise ValueError(f"{PREFIX}url = {url} is not allowed: {exc}") from None
    if settings.history and not isinstance(backend, HistoryBackend):
        raise ValueError(
            f"{PREFIX}history is not for {settings.scheme}://, which keeps no messages: "
            "use Redis, or memory"
        )


def _missing(settings: BroadcastSettings, library: str, extra: str) -> ImportError:
    return ImportError(
        f"{settings.scheme}:// needs {library}: pip install 'aiopyramid-core[{extra}]'"
    )
