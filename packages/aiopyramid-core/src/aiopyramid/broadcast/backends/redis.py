"""Redis and Valkey, by pub/sub; histories are streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from ..exceptions import BroadcastError, BrokerUnavailable
from ..messages import Reason
from ..settings import BroadcastSettings, hide_password
from . import History, Jump, Outgoing, Position, Receiver
from .redis_commands import (
    NUMBERED,
    check_url,
    history_command,
    is_sentinel,
    make_sentinel,
    publish_command,
    sentinels_of,
)

logger = logging.getLogger("aiopyramid.broadcast")

# How long to wait before connecting again, in seconds: first, and at most.
FIRST_DELAY = 0.1
MAX_DELAY = 5.0

# Channels that are subscribed to by one command.
CHANNELS = 500

# Messages that are handled before others of the loop's callbacks have their turn.
BUDGET = 64


def make_pool(settings: BroadcastSettings) -> Any:
    """
    Return what makes connections to the server that the URL names.

    Raises:
        ValueError: For a URL that cannot be read.
    """
    check_url(settings)
    options: dict[str, Any] = {
        "protocol": 2,  # what is pushed comes in order with what is answered
        "retry": Retry(NoBackoff(), 0),  # a connection that is lost must not be hidden
        "socket_timeout": None,
        "socket_connect_timeout": settings.timeout,
    }
    if not is_sentinel(settings):
        return ConnectionPool.from_url(settings.url, **options)
    return make_sentinel(Sentinel, settings, options).connection_pool


class Link:
    """
    A connection, and the task that reads from it.

    Args:
        connection: The connection, connected.
        take: Called with each thing that is read.
    """

    def __init__(self, connection: Any, take: Callable[[Any], None]) -> None:
        self._connection = connection
        self._take = take
        self.heard = asyncio.get_running_loop().time()
        #: Ends when the connection is lost, with the reason.
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> BaseException:
        clock = asyncio.get_running_loop().time
        count = 0
        while True:
            try:
                reply = await self._connection.read_response(disconnect_on_error=False)
            except ResponseError as exc:
                reply = exc
            except (RedisError, OSError) as exc:
                return exc
            self.heard = clock()
            try:
                self._take(reply)
            except Exception:
                logger.exception("what came from Redis cannot be handled: %.200r", reply)
            count += 1
            if count % BUDGET == 0:
                await asyncio.sleep(0)

    @property
    def is_lost(self) -> bool:
        return self.reading.done()

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """
        Send commands.

        Raises:
            RedisError: If the connection is lost.
        """
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    async def close(self) -> None:
        """Close the connection, and wait for the task."""
        self.reading.cancel()
        await asyncio.wait([self.reading])
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)


class RedisBackend:
    """
    One connection that is subscribed, and one for what is sent.

    Raises:
        ValueError: For a URL that cannot be read.
    """

    max_size: int | None = None

    def __init__(self, settings: BroadcastSettings) -> None:
        self._settings = settings
        self._pool = make_pool(settings)
        self._receiver: Receiver | None = None
        self._channels: dict[str, None] = {}
        self._joining: dict[str, list[asyncio.Future[None]]] = {}
        self._subscribed: Link | None = None
        self._commands: Link | None = None
        self._connecting = asyncio.Lock()
        self._replies: deque[asyncio.Future[Any]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"the broker at {hide_password(self._settings.url)}"

    async def start(self, receiver: Receiver) -> None:
        """Connect; if the server cannot be reached, go on trying."""
        self._receiver = receiver
        try:
            self._subscribed = await self._connect(self._pushed)
        except BrokerUnavailable as exc:
            logger.error("%r cannot be reached: %s; it is tried again", self, exc)
        self._task = asyncio.create_task(self._stay_subscribed(self._subscribed))

    async def stop(self) -> None:
        """Close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for link in (self._subscribed, self._commands):
            if link is not None:
                await link.close()
        self._subscribed = self._commands = None
        self._fail_replies()
        for sentinel in sentinels_of(self._pool):
            await sentinel.aclose()

    async def _connect(self, take: Callable[[Any], None]) -> Link:
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(self._settings.timeout):
                await connection.connect()
        except (RedisError, OSError) as exc:
            await _drop(connection)
            if _is_final(exc):
                raise BroadcastError(f"{self!r} refuses: {exc}") from exc
            raise BrokerUnavailable(str(exc) or "no answer in time") from exc
        except BaseException:
            await _drop(connection)
            raise
        return Link(connection, take)

    # Receiving.

    async def _stay_subscribed(self, link: Link | None) -> None:
        delay = FIRST_DELAY
        while True:
            if link is None:
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - no secret
                delay = min(delay * 2, MAX_DELAY)
                try:
                    link = await self._connect(self._pushed)
                except BroadcastError as exc:
                    logger.debug("%r cannot be reached: %s", self, exc)
                    continue
                self._subscribed = link
                await self._subscribe_again(link)
            try:
                reason = await self._until_lost(link)
            finally:
                self._subscribed = None
                self._let_joining_go()
                await link.close()
            delay = FIRST_DELAY
            logger.warning("%r was lost: %s; it is tried again", self, reason)
            link = None

    async def _subscribe_again(self, link: Link) -> None:
        channels = list(self._channels)
        if channels:
            logger.warning("%r is back: %d channels may have gaps", self, len(channels))
        with contextlib.suppress(RedisError):  # reading ends as well
            for begin in range(0, len(channels), CHANNELS):
                await link.send([("SUBSCRIBE", *channels[begin : begin + CHANNELS])])

    async def _until_lost(self, link: Link) -> object:
        """Ping a server that is silent; one that does not answer is lost."""
        timeout, clock = self._settings.timeout, asyncio.get_running_loop().time
        while True:
            await asyncio.wait([link.reading], timeout=timeout)
            if link.is_lost:
                return link.reading.result()
            silent = clock() - link.heard
            if silent >= 2 * timeout:
                return f"it has been silent for {silent:.1f} s"
            if silent >= timeout:
                with contextlib.suppress(RedisError):
                    async with asyncio.timeout(timeout):
                        await link.send([("PING",)])

    def _pushed(self, push: Any) -> None:
        if not isinstance(push, list):  # a pong, before anything is subscribed to
            return
        kind, name, *rest = push
        if kind == b"message":
            self._message(name.decode(), rest[0])
        elif kind == b"subscribe":
            channel = name.decode()
            waiting = self._joining.pop(channel, [])
            for waiter in waiting:
                _finish(waiter)
            if not waiting and channel in self._channels:
                self._tell(channel, "reconnect")

    def _message(self, channel: str, data: bytes) -> None:
        assert self._receiver is not None
        position = None
        if data.startswith(NUMBERED):
            line, _, data = data.partition(b"\n")
            position = Position.parse(line[1:].decode(errors="replace"))
        self._receiver.received(channel, data, position)

    def _tell(self, channel: str, reason: Reason) -> None:
        assert self._receiver is not None
        self._receiver.resync(channel, reason)

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel, and wait for the server's answer."""
        self._channels[channel] = None
        link = self._subscribed
        if link is None or link.is_lost:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._joining.setdefault(channel, []).append(waiter)
        with contextlib.suppress(RedisError):  # the connection is lost
            await link.send([("SUBSCRIBE", channel)])
        try:
            await asyncio.wait_for(waiter, self._settings.timeout)
        except TimeoutError:
            waiting = self._joining.get(channel, [])
            if waiter in waiting:
                waiting.remove(waiter)

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel."""
        self._channels.pop(channel, None)
        if self._subscribed is not None:
            with contextlib.suppress(RedisError):
                await self._subscribed.send([("UNSUBSCRIBE", channel)])

    def _let_joining_go(self) -> None:
        for waiters in self._joining.values():
            for waiter in waiters:
                _finish(waiter)
        self._joining.clear()

    # Sending.

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[BaseException | None]:
        """Publish messages by one write."""
        age = self._settings.history_age
        replies = await self._ask([publish_command(item, age) for item in batch])
        return [reply if isinstance(reply, BaseException) else None for reply in replies]

    async def history(self, channel: str, after: Position | None, last: int) -> History:
        """Read a channel's stream."""
        (reply,) = await self._ask([history_command(channel, after, last)])
        if isinstance(reply, BaseException):
            raise reply
        if reply[0] is None:
            return History((), None)
        latest = Position(reply[0].decode(), int(reply[1]))
        kept = [
            (Position(latest.epoch, int(key.partition(b"-")[0])), values[1])
            for key, values in reply[2]
        ]
        if after is None:
            kept = kept[::-1]
        jump = None if reply[3] is None else Jump(*map(int, reply[3].split()))
        return History(kept, latest, jump)

    async def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """
        Send commands, and return their replies; errors are among them.

        Raises:
            BrokerUnavailable: If nothing was sent.
        """
        async with self._connecting:
            link = self._commands
            if link is None or link.is_lost:
                if link is not None:
                    self._commands = None
                    await link.close()
                self._fail_replies()
                try:
                    link = self._commands = await self._connect(self._replied)
                except BrokerUnavailable:
                    raise
                except BroadcastError as exc:  # such as a password that was changed
                    raise BrokerUnavailable(str(exc)) from exc
                link.reading.add_done_callback(lambda _: self._fail_replies())
            futures: list[asyncio.Future[Any]] = [
                asyncio.get_running_loop().create_future() for _ in commands
            ]
            self._replies.extend(futures)
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await link.send(commands)
                    await asyncio.wait(futures)
            except (RedisError, OSError) as exc:
                # A reply that comes now would be taken for that to the next command.
                self._commands = None
                await link.close()
                self._fail_replies(f"no reply: {exc or 'not in time'}")
        return [future.result() for future in futures]

    def _replied(self, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            reply = BroadcastError(f"{self!r} refuses: {reply}")
        if self._replies:
            _finish(self._replies.popleft(), reply)

    def _fail_replies(self, why: str = "the connection was lost") -> None:
        error = BroadcastError(f"{self!r}: {why}; it may have been published or not")
        while self._replies:
            _finish(self._replies.popleft(), error)


def _finish(future: asyncio.Future[Any], result: Any = None) -> None:
    if not future.done():
        future.set_result(result)


async def _drop(connection: Any) -> None:
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def _is_final(exc: BaseException) -> bool:
    """Return True for an error that trying again does not cure."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, AuthenticationError | InvalidResponse | ssl.SSLError):
            return True
        if isinstance(seen, ResponseError):
            # Such as LOADING, MASTERDOWN: of a server that comes up.
            return not str(seen).startswith(("LOADING", "MASTERDOWN", "max number of clients"))
        seen = seen.__cause__ or seen.__context__
    return "Invalid Database" in str(exc)
