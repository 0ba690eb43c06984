"""Publishing from plain programs: Celery tasks, scripts, cron jobs. Without Pyramid and asyncio."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from . import messages
from .backends import Outgoing
from .exceptions import BroadcastError
from .messages import NOBODY, Envelope, Kind, Numbering
from .settings import MEMORY, POSTGRESQL, BroadcastSettings, from_settings, from_values


class Connection(Protocol):
    """A connection of plain code to a broker."""

    max_size: int

    def publish(self, item: Outgoing) -> None:
        """
        Publish a message, and wait until the broker has it.

        Raises:
            BroadcastError: If it did not get there, or may not have.
        """

    def close(self) -> None:
        """Close the connection."""


class Publisher:
    """
    Publishes to the groups of an application, from outside of it.

    Each call waits until the broker has the message. It connects when first needed, and again
    when the connection is lost. May be used by several threads, and by processes that are forked
    later, such as Celery's: each has a connection of its own.

    Args:
        url: The application's ``aiopyramid.broadcast.url``.
        settings: Further settings that the application has, without
            ``aiopyramid.broadcast.``: ``prefix``, ``history``, ``history_age``, ``timeout``.

    Raises:
        ValueError: For a bad setting.
        ImportError: If the library for the broker is not installed.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        self._begin(from_values({"url": url, **settings}))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Publisher:
        """
        Make a publisher of an application's settings, such as those of its ini file.

        Args:
            settings: The settings; those that do not begin with ``aiopyramid.broadcast.`` are
                skipped.

        Returns:
            The publisher.

        Raises:
            ValueError: For a bad value or name, and for ``memory://``, which has no outside.
            ImportError: If the library for the broker is not installed.
        """
        publisher = cls.__new__(cls)
        publisher._begin(from_settings(settings))
        return publisher

    def _begin(self, settings: BroadcastSettings) -> None:
        if settings.url.startswith(MEMORY):
            raise ValueError(
                f"aiopyramid.broadcast.url = {settings.url!r} is in the memory of the application "
                "alone: publishing from outside needs a broker"
            )
        self._settings = settings
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._numbering = Numbering()
        self._lock = threading.Lock()
        self._connection = _connect(self._settings)

    def _start_after_fork(self) -> None:
        if os.getpid() != self._process:
            self._inherited = self._connection  # not to be closed, which its owner would notice
            self._start()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the broker."""
        self._connection.close()

    def publish(
        self,
        group: str,
        message: str | bytes | bytearray | memoryview,
        *,
        after_commit: Any = None,
    ) -> None:
        """
        Publish a message to all members of a group.

        Args:
            group: The name of the group.
            message: `str` is sent as text, bytes are sent as binary.
            after_commit: A transaction manager, such as ``transaction.manager``: publish when its
                transaction has been committed, and not if it is aborted.

        Raises:
            BroadcastError: If the message did not reach the broker, or may not have. After a
                commit, that is logged.
            TypeError: For a message or a name of another type.
            ValueError: For a name that groups cannot have, and for a message that is too large.
        """
        self._publish(group, *messages.to_payload(message), after_commit)

    def publish_json(self, group: str, value: Any, *, after_commit: Any = None) -> None:
        """
        Publish a value as JSON; see `publish`.

        Args:
            group: The name of the group.
            value: What the module `json` knows. Pyramid's adapters do not count here.
            after_commit: As for `publish`.

        Raises:
            TypeError: For what JSON does not know.
            ValueError: For NaN and infinity as well.
            BroadcastError: As `publish`.
        """
        self.publish(group, messages.to_json(value), after_commit=after_commit)

    def close_connections(
        self, group: str, code: int = 1000, reason: str = "", *, after_commit: Any = None
    ) -> None:
        """
        Close all connections that are in a group, in all workers.

        Args:
            group: The name of the group.
            code: Close code: 1000, or 3000 to 4999, or another one that a server may send
                (RFC 6455 section 7.4).
            reason: Close reason, at most 123 bytes in UTF-8.
            after_commit: As for `publish`.

        Raises:
            BroadcastError: As for `publish`.
            ValueError: If no close frame may carry the code or reason.
        """
        from ..websocket.exceptions import check_close

        check_close(code, reason)
        payload = messages.to_control({"close": [code, reason]})
        self._publish(group, "control", payload, after_commit)

    def drain(self, host: str, over: float = 30.0) -> None:
        """
        Let the workers on a host refuse new connections, and close those that they have.

        Args:
            host: The name of the host, as `socket.gethostname` gives it there.
            over: How long the closing takes, in seconds.

        Raises:
            BroadcastError: As for `publish`.
        """
        payload = messages.to_control({"drain": over, "host": host})
        envelope = Envelope("control", payload, self._numbering.publisher, 0, NOBODY)
        channel = messages.workers_channel(self._settings.prefix)
        self._start_after_fork()
        with self._lock:
            self._connection.publish(Outgoing(channel, envelope.encode()))

    def _publish(self, group: str, kind: Kind, payload: bytes, after_commit: Any) -> None:
        messages.check_group(group)
        if len(payload) > self._connection.max_size:
            raise ValueError(
                f"a message of {len(payload)} bytes to {group!r} is too large: "
                f"{self._settings.scheme} takes {self._connection.max_size} bytes"
            )
        if after_commit is None:
            self._send(group, kind, payload)
        else:
            after_commit.get().addAfterCommitHook(self._committed, (group, kind, payload))

    def _committed(self, succeeded: bool, group: str, kind: Kind, payload: bytes) -> None:
        if succeeded:
            self._send(group, kind, payload)  # what it raises, the transaction logs

    def _send(self, group: str, kind: Kind, payload: bytes) -> None:
        self._start_after_fork()
        settings, control = self._settings, kind == "control"
        channel = messages.channel_of(settings.prefix, group)
        keep = 0 if control else settings.history_of(group)
        with self._lock:  # or the numbers and the messages were not in one order
            sequence = 0 if control else self._numbering.next(group)
            envelope = Envelope(kind, payload, self._numbering.publisher, sequence, NOBODY)
            self._connection.publish(Outgoing(channel, envelope.encode(), keep))


def _connect(settings: BroadcastSettings) -> Connection:
    if settings.scheme in POSTGRESQL:
        return PostgresqlConnection(settings)
    return RedisConnection(settings)


class RedisConnection:
    """By the client of ``redis``, which connects when first needed."""

    def __init__(self, settings: BroadcastSettings) -> None:
        from redis.exceptions import RedisError

        from .backends import redis_commands

        self.max_size = settings.max_outgoing_size
        self._settings = settings
        self._error = RedisError
        self._client = redis_commands.make_client(settings)
        self._commands = redis_commands

    def publish(self, item: Outgoing) -> None:
        """Publish a message."""
        try:
            self._client.execute_command(
                *self._commands.publish_command(item, self._settings.history_age)
            )
        except (self._error, OSError) as exc:
            raise BroadcastError(f"the message may not have been published: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        for client in (self._client, *self._commands.sentinels_of(self._client.connection_pool)):
            client.close()


class PostgresqlConnection:
    """By a connection of ``psycopg``."""

    def __init__(self, settings: BroadcastSettings) -> None:
        import psycopg

        from .backends import postgresql_messages

        self._library = psycopg
        self._format = postgresql_messages
        self.max_size = postgresql_messages.MAX_SIZE
        self._settings = settings
        self._connection: Any = None

    def publish(self, item: Outgoing) -> None:
        """Publish a message."""
        try:
            self._connected().execute(
                "SELECT pg_notify(%s, %s)",
                [self._format.channel_name(item.channel), self._format.to_text(item.data)],
            )
        except (self._library.Error, OSError) as exc:
            self.close()
            raise BroadcastError(f"the message may not have been published: {exc}") from exc

    def _connected(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = self._library.connect(
                self._settings.url,
                autocommit=True,
                connect_timeout=max(int(self._settings.timeout), 2),
            )
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
