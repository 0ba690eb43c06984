"""PostgreSQL, by LISTEN and NOTIFY: for small messages, and shops without Redis."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from ..exceptions import BroadcastError, BrokerUnavailable
from ..settings import BroadcastSettings, hide_password
from . import Outgoing, Receiver
from .postgresql_messages import MAX_SIZE, channel_name, from_text, to_text

logger = logging.getLogger("aiopyramid.broadcast")

# How long to wait before connecting again, in seconds: first, and at most.
FIRST_DELAY = 0.1
MAX_DELAY = 5.0

PUBLISH = """
SELECT pg_notify(channel, payload)
FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS message (channel, payload, number)
ORDER BY number
"""

# SQLSTATE classes of what trying again does not cure: authorization, and no such database.
FINAL = ("28", "3D", "42")


class PostgresqlBackend:
    """
    One connection that listens, and one that notifies.

    Raises:
        ValueError: For a URL that cannot be read.
    """

    max_size: int | None = MAX_SIZE

    def __init__(self, settings: BroadcastSettings) -> None:
        self._settings = settings
        try:
            psycopg.conninfo.conninfo_to_dict(settings.url)
        except psycopg.ProgrammingError as exc:
            raise ValueError(str(exc).strip()) from None
        self._receiver: Receiver | None = None
        self._channels: dict[str, str] = {}  # by their names in PostgreSQL
        self._listening = False
        self._statements: deque[tuple[sql.Composed, asyncio.Future[None]]] = deque()
        self._woken = asyncio.Event()
        self._notifying: psycopg.AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"the broker at {hide_password(self._settings.url)}"

    async def start(self, receiver: Receiver) -> None:
        """Connect; if the server cannot be reached, go on trying."""
        self._receiver = receiver
        connection = None
        try:
            connection = await self._connect()
            self._listening = True
        except BrokerUnavailable as exc:
            logger.error("%r cannot be reached: %s; it is tried again", self, exc)
        self._task = asyncio.create_task(self._keep_listening(connection))

    async def stop(self) -> None:
        """Close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._notifying is not None:
            await self._notifying.close()

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        timeout = self._settings.timeout
        try:
            async with asyncio.timeout(timeout):
                return await psycopg.AsyncConnection.connect(
                    self._settings.url, autocommit=True, connect_timeout=max(int(timeout), 2)
                )
        except (psycopg.Error, OSError) as exc:
            if _is_final(exc):
                raise BroadcastError(f"{self!r} refuses: {exc}") from exc
            raise BrokerUnavailable(str(exc) or "no answer in time") from exc

    # Receiving.

    async def _keep_listening(self, connection: psycopg.AsyncConnection[Any] | None) -> None:
        delay = FIRST_DELAY
        while True:
            if connection is None:
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - no secret
                delay = min(delay * 2, MAX_DELAY)
                try:
                    connection = await self._connect()
                except BroadcastError as exc:
                    logger.debug("%r cannot be reached: %s", self, exc)
                    continue
            again = None if self._listening else dict(self._channels)
            self._listening = True
            try:
                reason = await self._listen(connection, again or {})
            finally:
                await connection.close()
            delay = FIRST_DELAY
            logger.warning("%r was lost: %s; it is tried again", self, reason)
            connection = None

    async def _listen(
        self, connection: psycopg.AsyncConnection[Any], again: dict[str, str]
    ) -> object:
        connection.add_notify_handler(self._notified)
        timeout = self._settings.timeout
        try:
            await self._listen_again(connection, again)
            while True:
                woken = await self._wait(connection.fileno(), timeout)
                async with asyncio.timeout(timeout):
                    if not woken:
                        await connection.execute("SELECT 1")  # does it answer?
                    while self._statements:
                        statement, done = self._statements[0]
                        await connection.execute(statement)
                        self._statements.popleft()
                        _finish(done)
                self._consume(connection)
        except TimeoutError:
            return "it does not answer"
        except (psycopg.Error, OSError) as exc:
            return str(exc).strip()
        finally:
            self._listening = False
            while self._statements:  # done when it is back, with a gap
                _finish(self._statements.popleft()[1])

    async def _wait(self, fd: int, timeout: float) -> bool:
        """Wait for notifications, or statements; return False if there were none in time."""
        # Not for longer: while statements run, psycopg itself waits for this descriptor.
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, self._woken.set)
        try:
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
            self._woken.clear()
        return True

    def _consume(self, connection: psycopg.AsyncConnection[Any]) -> None:
        connection.pgconn.consume_input()
        while (found := connection.pgconn.notifies()) is not None:
            self._take(found.relname.decode(), found.extra.decode())

    def _notified(self, notify: psycopg.Notify) -> None:
        self._take(notify.channel, notify.payload)

    def _take(self, name: str, text: str) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        assert self._receiver is not None
        try:
            data = from_text(text)
        except ValueError:
            logger.warning("what came by %r is ignored: %.80r", channel, text)
            return
        try:
            self._receiver.received(channel, data)
        except Exception:
            logger.exception("what came by %r cannot be handled: %.200r", channel, text)

    async def _listen_again(
        self, connection: psycopg.AsyncConnection[Any], channels: dict[str, str]
    ) -> None:
        if channels:
            logger.warning("%r is back: %d channels may have gaps", self, len(channels))
        assert self._receiver is not None
        for name, channel in channels.items():
            async with asyncio.timeout(self._settings.timeout):
                await connection.execute(_statement("LISTEN", name))
            self._receiver.resync(channel, "reconnect")

    async def subscribe(self, channel: str) -> None:
        """Listen to a channel."""
        name = channel_name(channel)
        self._channels[name] = channel
        await self._execute(_statement("LISTEN", name))

    async def unsubscribe(self, channel: str) -> None:
        """Listen no more."""
        name = channel_name(channel)
        self._channels.pop(name, None)
        await self._execute(_statement("UNLISTEN", name))

    async def _execute(self, statement: sql.Composed) -> None:
        if self._listening:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._statements.append((statement, done))
            self._woken.set()
            await done

    # Sending.

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[BaseException | None]:
        """Publish messages by one statement."""
        connection = self._notifying
        if connection is None or connection.broken or connection.closed:
            try:
                connection = self._notifying = await self._connect()
            except BrokerUnavailable:
                raise
            except BroadcastError as exc:  # such as a password that was changed
                raise BrokerUnavailable(str(exc)) from exc
        names = [channel_name(item.channel) for item in batch]
        texts = [to_text(item.data) for item in batch]
        try:
            async with asyncio.timeout(self._settings.timeout):
                await connection.execute(PUBLISH, [names, texts])
        except (psycopg.Error, OSError) as exc:
            self._notifying = None
            await connection.close()
            why = str(exc).strip() or "no answer in time"
            error = BroadcastError(f"{self!r}: {why}; it may have been published or not")
            return [error] * len(batch)
        return [None] * len(batch)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _statement(verb: str, name: str) -> sql.Composed:
    return sql.SQL(f"{verb} {{}}").format(sql.Identifier(name))


def _is_final(exc: BaseException) -> bool:
    """Return True for an error that trying again does not cure."""
    state = getattr(exc, "sqlstate", None)
    if state is not None:
        return bool(state[:2] in FINAL)
    # Of a connection that is refused, libpq tells the text alone.
    text = str(exc)
    return "password authentication failed" in text or "does not exist" in text
