"""
Groups: who is in them, and what is published to them.

``request.groups`` is the `Groups` of the application. A group is there as soon as somebody joins
it; it has members in this worker, and in others. What is published goes to the broker, and from
there to every worker that has members, this one among them: so all members of a group get its
messages in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any

from pyramid.renderers import RendererHelper
from pyramid.threadlocal import get_current_request
from websockets.frames import CloseCode

from .. import bridge, homes
from ..homes import Home
from ..websocket.connection import WebsocketConnection
from ..websocket.exceptions import check_close
from . import messages
from .backends import (
    START,
    Backend,
    History,
    HistoryBackend,
    Outgoing,
    Position,
    make_backend,
)
from .backends.memory import MemoryBackend
from .exceptions import BadEnvelope, BroadcastError
from .forms import RAW, Form
from .group import FanOut, Group, gap_in, to_message
from .members import ConnectionMember, Counters, Listener, Member, OnResync, Outbox
from .messages import NOBODY, Closing, Envelope, Kind, Numbering, Reason, Resync
from .presence import MAX_INFO_SIZE, Presence, Worker
from .sending import Publication, Sender
from .settings import MEMORY, BroadcastSettings

logger = logging.getLogger("aiopyramid.broadcast")

# How long to wait before a history is asked for again, in seconds.
RETRY = 0.1, 0.5

NOT_STARTED = (
    "groups begin with the application's lifespan: under a server, or in its first request; "
    "in a script, use aiopyramid.broadcast.publisher.Publisher"
)


class Groups:
    """
    The groups of an application.

    Args:
        registry: The application's registry.
        settings: How groups work.

    Attributes:
        counters: What has happened to messages (`Counters`).
    """

    def __init__(self, registry: Any, settings: BroadcastSettings) -> None:
        self.registry = registry
        self.settings = settings
        self.counters = Counters()
        self._warned = settings.url != MEMORY
        self._home: Home | None = None
        self._groups: dict[str, Group] = {}
        self._outboxes: dict[WebsocketConnection[Any, Any], Outbox] = {}

    def __repr__(self) -> str:
        return f"<Groups by {self.settings.scheme}, {len(self._groups)} here>"

    # With the loop of the worker.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Be connected to the broker: the lifespan of the groups, unless they are in memory.

        Raises:
            BroadcastError: If the broker refuses this application.
        """
        backend = make_backend(self.settings)
        await backend.start(self)
        try:
            self._begin(backend)
            await self._presence.start(backend)
            yield
        finally:
            await self._end()

    def _begin(self, backend: Backend) -> None:
        self._home = homes.home_here()
        self._numbering = Numbering()
        self._names = itertools.count(1)
        self._groups.clear()
        self._outboxes.clear()
        self._tasks: set[asyncio.Task[None]] = set()
        self._backend = backend
        self._fan_out = FanOut(self._home.loop)
        self._sender = Sender(backend, self.settings, self.counters)
        self._presence = Presence(self, self._numbering.publisher, self._sender)

    def _begin_in_memory(self) -> None:
        """Begin when first used, so that an application without groups does without a loop."""
        backend = MemoryBackend(self.settings)
        backend.attach(self)
        self._begin(backend)
        assert self._home is not None
        self._home.endings.append(self._end)

    async def _end(self) -> None:
        try:
            await self._presence.stop()
            await self._sender.stop()
        finally:
            self._home = None
            for member in [each for group in self._groups.values() for each in group.members]:
                member.close(CloseCode.GOING_AWAY, "")
            tasks = [*self._tasks, *(each.subscription for each in self._groups.values())]
            running = [task for task in tasks if task is not None]
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            self._groups.clear()
            await self._backend.stop()

    def _home_here(self) -> Home:
        """Return the home on whose loop the groups are, wherever this is called."""
        home = self._home
        if home is None or not home.is_running():
            on_loop = asyncio._get_running_loop() is not None
            if self.settings.url == MEMORY and on_loop:
                self._begin_in_memory()
            elif bridge.can_wait():
                bridge.await_(self._enter_here())
            home = self._home
        if home is None:
            raise RuntimeError(NOT_STARTED)
        return home

    async def _enter_here(self) -> None:
        """The first code that waits enters the lifespans; groups in memory have none."""
        if self.settings.url == MEMORY and self._home is not homes.home_here():
            self._begin_in_memory()

    def _check_on_loop(self) -> None:
        home = self._home_here()
        if asyncio.get_running_loop() is not home.loop:
            raise RuntimeError("this application's groups live on another event loop")

    def check_workers(self, environ: Mapping[str, Any]) -> None:
        """Warn, once, if there are several workers and the groups are in memory."""
        if not self._warned and environ.get("wsgi.multiprocess"):
            self._warned = True
            logger.warning(
                "groups are in the memory of each worker, and this server runs several: members "
                "get only what their own worker publishes. Set aiopyramid.broadcast.url to a "
                "broker, or run one worker"
            )

    # Publishing.

    def publish(
        self,
        group: str,
        message: str | bytes | bytearray | memoryview,
        *,
        exclude: WebsocketConnection[Any, Any] | None = None,
        after_commit: Any = None,
    ) -> Publication:
        """
        Publish a message to all members of a group, in all workers. Never waits.

        May be called on the loop and in any thread. What one coroutine or thread publishes,
        members get in that order.

        Args:
            group: The name of the group.
            message: `str` is sent as text, bytes are sent as binary.
            exclude: A connection of this worker that does not get it.
            after_commit: A transaction manager, such as ``request.tm``: publish when its
                transaction has been committed, and not if it is aborted.

        Returns:
            What can be awaited, to know that the broker has the message.

        Raises:
            TypeError: For a message or a name of another type.
            ValueError: For a name that groups cannot have, and for a message that is too large
                for the broker.
        """
        kind, payload = messages.to_payload(message)
        return self._publish(group, kind, payload, self._name_of(exclude), after_commit)

    def publish_json(
        self,
        group: str,
        value: Any,
        *,
        exclude: WebsocketConnection[Any, Any] | None = None,
        after_commit: Any = None,
    ) -> Publication:
        """
        Publish a value as text, rendered by Pyramid's ``json`` renderer, with its adapters.

        Args:
            group: The name of the group.
            value: What the renderer knows.
            exclude: As for `publish`.
            after_commit: As for `publish`.

        Returns:
            As `publish`.

        Raises:
            TypeError: For a value that the renderer does not know, and as `publish`.
            ValueError: As `publish`.
        """
        renderer = RendererHelper("json", registry=self.registry)
        text = renderer.render(value, None, request=get_current_request())
        return self.publish(group, text, exclude=exclude, after_commit=after_commit)

    def close_connections(
        self, group: str, code: int = 1000, reason: str = "", *, after_commit: Any = None
    ) -> Publication:
        """
        Close all connections that are in a group, in all workers.

        Where each connection of a user joins a group of that user, this is the logout.

        Args:
            group: The name of the group.
            code: Close code (RFC 6455 section 7.4).
            reason: Close reason, at most 123 bytes in UTF-8.
            after_commit: As for `publish`.

        Returns:
            As `publish`.

        Raises:
            ValueError: If no close frame may carry the code or reason.
        """
        check_close(code, reason)
        payload = messages.to_control({"close": [code, reason]})
        return self._publish(group, "control", payload, NOBODY, after_commit)

    def _publish(
        self, group: str, kind: Kind, payload: bytes, exclude: str, after_commit: Any
    ) -> Publication:
        messages.check_group(group)
        home = self._home_here()
        self._check_size(group, payload)
        publication = Publication()
        args = (group, kind, payload, exclude, publication)
        if after_commit is None:
            self._call(home, *args)
        else:
            after_commit.get().addAfterCommitHook(self._committed, (home, *args))
        return publication

    def _committed(self, succeeded: bool, home: Home, *args: Any) -> None:
        if succeeded:
            self._call(home, *args)
        else:
            error = BroadcastError("the transaction was aborted")
            home.call(args[-1].finish, error)

    def _call(self, home: Home, *args: Any) -> None:
        if asyncio._get_running_loop() is home.loop:
            self._send(*args)
        else:
            home.call(self._send, *args)

    def _check_size(self, group: str, payload: bytes) -> None:
        most = self.settings.max_outgoing_size
        if self._backend.max_size is not None:
            most = self._backend.max_size
        if len(payload) > most:
            raise ValueError(
                f"a message of {len(payload)} bytes to {group!r} is too large: "
                f"{self.settings.scheme} takes {most} bytes; publish where the data is, instead"
            )

    def _send(
        self, group: str, kind: Kind, payload: bytes, exclude: str, publication: Publication
    ) -> None:
        channel = messages.channel_of(self.settings.prefix, group)
        sequence, keep = 0, 0
        self.counters.published += 1
        if kind != "control":
            sequence = self._numbering.next(group)
            keep = self.settings.history_of(group)
        envelope = Envelope(kind, payload, self._numbering.publisher, sequence, exclude)
        self._sender.add(Outgoing(channel, envelope.encode(), keep), publication)

    def _name_of(self, ws: WebsocketConnection[Any, Any] | None) -> str:
        if ws is None:
            return NOBODY
        outbox = self._outboxes.get(ws)
        return NOBODY if outbox is None else outbox.name

    # Members.

    async def join(
        self,
        group: str,
        ws: WebsocketConnection[Any, Any],
        *,
        info: Any = None,
        last: int = 0,
        after: str | None = None,
        form: Form = RAW,
        on_resync: OnResync | None = None,
    ) -> None:
        """
        Let a connection get what is published to a group, from this call's return to its end.

        Joining again changes the info, and nothing else.

        Args:
            group: The name of the group.
            ws: The connection.
            info: What others learn about it from `members`: a value that JSON knows.
            last: In a group with history: send the last messages first, at most so many.
            after: In a group with history: send what came after the message with this ``id``
                first. A text from the client is good enough: what does not make sense is a gap.
            form: What is sent of each message, and of gaps: `RAW`, `TAGGED`, or a form of your
                own.
            on_resync: A function, or a coroutine function, that is called with each `Resync`.
                If there is none, and the form cannot tell the client, a gap closes the connection
                with code 1012, so that the client reconnects.

        Raises:
            WebsocketClosed: If the connection is closed.
            TypeError: For a name of another type.
            ValueError: For a name that groups cannot have, and for an info that is too large.
        """
        messages.check_group(group)
        self._check_info(info)
        self._check_history(group, last, after)
        self._check_on_loop()
        if ws.closed or ws.is_ending:
            raise ws.protocol.closed_error()
        outbox = self._outboxes.get(ws)
        if outbox is not None and group in outbox.members:
            outbox.members[group].info = info
            return
        if on_resync is None:
            self._check_form(group, form, after)
        if outbox is None:
            name = f"{self._numbering.publisher}.{next(self._names)}"
            outbox = self._outboxes[ws] = Outbox(ws, name, self.settings, self.counters)
            ws.add_ending(lambda: self._forget(ws))
        member = ConnectionMember(group, outbox, form, on_resync, info)
        outbox.members[group] = member
        try:
            await self._enter(member, group, last, after)
        except BaseException:
            self._leave(group, ws)  # or it would wait for its history for ever
            raise

    def leave(self, group: str, ws: WebsocketConnection[Any, Any]) -> None:
        """
        Let a connection get nothing more of a group. On the loop or in any thread.

        Connections that end leave their groups by themselves. One that is not in the group stays
        so.

        Args:
            group: The name of the group.
            ws: The connection.
        """
        home = self._home
        if home is not None and asyncio._get_running_loop() is not home.loop:
            home.call(self._leave, group, ws)
        else:
            self._leave(group, ws)

    def _leave(self, group: str, ws: WebsocketConnection[Any, Any]) -> None:
        outbox = self._outboxes.get(ws)
        if outbox is not None and (member := outbox.members.pop(group, None)) is not None:
            self._remove(group, member)

    async def listen(
        self, group: str, *, info: Any = None, last: int = 0, after: str | None = None
    ) -> Listener:
        """
        Listen to a group: for server-sent events, and background tasks.

        ``async with await groups.listen(name) as listener`` and then ``async for item in
        listener``, where each item is a `Message` or a `Resync`.

        Args:
            group: The name of the group.
            info: As for `join`.
            last: As for `join`.
            after: As for `join`.

        Returns:
            The listener, which has the group's messages from now on.

        Raises:
            TypeError: For a name of another type.
            ValueError: For a name that groups cannot have, and for an info that is too large.
        """
        messages.check_group(group)
        self._check_info(info)
        self._check_history(group, last, after)
        self._check_on_loop()
        name = f"{self._numbering.publisher}.{next(self._names)}"

        def leave() -> None:
            self._remove(group, listener)

        listener = Listener(group, name, self.settings, self.counters, info, leave)
        try:
            await self._enter(listener, group, last, after)
        except BaseException:
            listener.close()  # nobody else holds it
            raise
        return listener

    def _check_info(self, info: Any) -> None:
        if info is not None and len(messages.to_json(info).encode()) > MAX_INFO_SIZE:
            raise ValueError(f"info has more than {MAX_INFO_SIZE} bytes of JSON")

    def _check_history(self, group: str, last: int, after: str | None) -> None:
        if (last or after is not None) and not self.settings.history_of(group):
            raise ValueError(
                f"group {group!r} has no history: name it in aiopyramid.broadcast.history"
            )

    def _check_form(self, group: str, form: Form, after: str | None) -> None:
        """Refuse what would close a connection again and again."""
        overflow = self.settings.overflow
        if overflow != "close":
            needs = f"aiopyramid.broadcast.overflow = {overflow}"
        elif after is not None:
            needs = "after"
        else:
            return
        if form.resync(Resync(group, "overflow")) is None:
            raise ValueError(
                f"{needs} needs on_resync, or a form that tells of gaps, such as TAGGED; "
                f"{form!r} does not"
            )

    async def _enter(self, member: Member, name: str, last: int, after: str | None) -> None:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name, self.counters)
        group.members[member] = None
        group.wanted = True
        member.hold()  # first of all, it is told that it has joined
        await self._see_to_subscription(group)
        if self.settings.history_of(name):
            await self._send_history(member, name, last, after)
        else:
            member.release(name)

    async def _send_history(self, member: Member, name: str, last: int, after: str | None) -> None:
        position = None if after is None else Position.parse(after)
        if after is not None and position is None:
            position = Position("?", 0)  # of no epoch: everything, behind a gap
        try:
            history = await self._history(name, position, last)
        except BroadcastError as exc:
            # Nothing else arrives before it does.
            logger.warning("the history of %r cannot be read: %s; it is tried again", name, exc)
            self._start(self._send_history_later(member, name, position, last))
        else:
            self._release(member, name, position, history)

    async def _send_history_later(
        self, member: Member, name: str, position: Position | None, last: int
    ) -> None:
        history = await self._history_in_the_end(name, position, last)
        group = self._groups.get(name)
        if group is not None and member in group.members:
            self._release(member, name, position, history)

    def _release(self, member: Member, name: str, after: Position | None, history: History) -> None:
        gap = after is not None and gap_in(history, after)
        kept = [to_message(name, envelope, where) for envelope, where in _decoded(history)]
        told = Resync(name, "history") if gap else None
        member.release(name, kept, told, history.latest or START)

    async def _history(self, group: str, after: Position | None, last: int) -> History:
        assert isinstance(self._backend, HistoryBackend)
        return await self._backend.history(self._channel(group), after, last)

    async def _history_in_the_end(self, group: str, after: Position | None, last: int) -> History:
        """Read a history as soon as the broker lets us."""
        while True:
            await asyncio.sleep(random.uniform(*RETRY))  # noqa: S311 - no secret
            with contextlib.suppress(BroadcastError):
                return await self._history(group, after, last)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _channel(self, group: str) -> str:
        return messages.channel_of(self.settings.prefix, group)

    def _forget(self, ws: WebsocketConnection[Any, Any]) -> None:
        outbox = self._outboxes.pop(ws, None)
        if outbox is not None:
            outbox.clear()
            for name, member in outbox.members.items():
                self._remove(name, member)
            outbox.members.clear()

    def _remove(self, name: str, member: Member) -> None:
        group = self._groups.get(name)
        if group is None:
            return
        group.members.pop(member, None)
        if not group.members:
            group.wanted = False
            if self._home is not None and (group.subscription is None or group.subscription.done()):
                group.subscription = asyncio.get_running_loop().create_task(self._subscribe(group))

    async def _see_to_subscription(self, group: Group) -> None:
        if group.is_subscribed:
            return
        if group.subscription is None or group.subscription.done():
            group.subscription = asyncio.get_running_loop().create_task(self._subscribe(group))
        await asyncio.shield(group.subscription)

    async def _subscribe(self, group: Group) -> None:
        """Subscribe and unsubscribe, until that is as it should be."""
        channel = self._channel(group.name)
        while group.wanted is not group.is_subscribed:
            if group.wanted:
                await self._backend.subscribe(channel)
                group.is_subscribed = True
                await self._find_position(group)
            else:
                group.forget()  # who joins meanwhile waits for the next round
                await self._backend.unsubscribe(channel)
        if not group.wanted:
            self._groups.pop(group.name, None)

    async def _find_position(self, group: Group) -> None:
        """Find out where a group with history is, so that the first gap is found too."""
        if group.latest is None and self.settings.history_of(group.name):
            with contextlib.suppress(BroadcastError):  # resync follows
                history = await self._history(group.name, None, 0)
                group.latest = group.latest or history.latest or START

    # What the broker delivers.

    def received(self, channel: str, data: bytes, position: Position | None = None) -> None:
        """Take what a backend has received (`Receiver`)."""
        try:
            envelope = messages.decode(data)
            name = channel.removeprefix(self._channel(""))
            if name == channel:
                self._presence.received(messages.from_control(envelope.payload))
                return
            group = self._groups.get(name)
            if group is None:
                return  # everybody has left just now
            if envelope.kind == "control":
                values = messages.from_control(envelope.payload)
                group.add_closing(Closing(*values["close"]))
            else:
                self._take(group, envelope, position)
        except (BadEnvelope, KeyError, TypeError) as exc:
            logger.warning("what came by %r is ignored: %s", channel, exc)
            return
        self._fan_out.add(group)

    def _take(self, group: Group, envelope: Envelope, position: Position | None) -> None:
        if group.is_filling and position is not None:
            group.put_aside(envelope, position)
            return
        is_next = group.is_next(envelope, position)
        if is_next is None:
            return
        if not is_next:
            if position is not None and group.latest is not None:
                self._fill(group, "lost")
                group.put_aside(envelope, position)
                return
            group.add_gap("lost")
        group.add(envelope, position)

    def resync(self, channel: str, reason: Reason) -> None:
        """Take note of a gap (`Receiver`): fill it by the history, or tell the members."""
        group = self._groups.get(channel.removeprefix(self._channel("")))
        if group is None:
            return
        group.seen.clear()
        if group.latest is not None:
            self._fill(group, reason)
        else:
            group.add_gap(reason)
            self._fan_out.add(group)

    def _fill(self, group: Group, reason: Reason) -> None:
        group.fill_again = True
        if not group.is_filling:
            group.begin_to_fill()
            self._start(self._fill_by_history(group, reason))

    async def _fill_by_history(self, group: Group, reason: Reason) -> None:
        while group.fill_again:
            group.fill_again = False
            latest = group.latest
            try:
                history = await self._history(group.name, latest, 0)
            except BroadcastError as exc:
                text = "the history of %r cannot be read: %s; it is tried again"
                logger.warning(text, group.name, exc)
                history = await self._history_in_the_end(group.name, latest, 0)
            # Where nothing is known to have been, everything may have been lost.
            unknown = latest is None or (latest == START and history.latest is None)
            if latest is None or unknown or gap_in(history, latest):
                group.add_gap(reason)
                group.latest = history.latest
            for envelope, position in _decoded(history):
                group.add(envelope, position)
        for envelope, position in group.end_filling():
            self._take(group, envelope, position)
        self._fan_out.add(group)

    # Who is there.

    def local_count(self, group: str) -> int:
        """
        Return how many members a group has in this worker. Asks nobody.

        Args:
            group: The name of the group.

        Returns:
            Their number.
        """
        found = self._groups.get(group)
        return 0 if found is None else len(found.members)

    def local_members(self, group: str) -> list[Any]:
        """
        Return the infos of a group's members in this worker. Asks nobody.

        Args:
            group: The name of the group.

        Returns:
            What was given to `join` or `listen` as ``info``, for each member; ``None`` for one
            without.
        """
        found = self._groups.get(group)
        return [] if found is None else [member.info for member in found.members]

    async def count(self, group: str) -> int:
        """
        Return how many members a group has, in all workers.

        Each worker is asked: one that was killed does not count.

        Args:
            group: The name of the group.

        Returns:
            Their number. Two connections of a user are two.

        Raises:
            BroadcastError: If the broker cannot be reached.
        """
        self._check_on_loop()
        return sum(await self._presence.ask(messages.check_group(group), "count"))

    async def members(self, group: str) -> list[Any]:
        """
        Return the infos of a group's members in all workers.

        Args:
            group: The name of the group.

        Returns:
            What was given to `join` or `listen` as ``info``, for each member; ``None`` for one
            without.

        Raises:
            BroadcastError: If the broker cannot be reached.
        """
        self._check_on_loop()
        found = await self._presence.ask(messages.check_group(group), "members")
        return [info for infos in found for info in infos]

    async def workers(self) -> list[Worker]:
        """
        Return the workers that there are, this one included.

        Returns:
            A `Worker` for each.

        Raises:
            BroadcastError: If the broker cannot be reached.
        """
        self._check_on_loop()
        return [Worker(**values) for values in await self._presence.ask("", "worker")]

    async def drain(self, over: float = 30.0, *, host: str | None = None) -> None:
        """
        Let workers refuse new connections, and close those that they have one after the other.

        They are closed with code 1012, so that clients reconnect, to other workers. Requests
        are answered as before.

        Args:
            over: How long that takes, in seconds.
            host: The name of the host whose workers are drained; this worker alone, if there is
                none.

        Raises:
            BroadcastError: If the broker cannot be reached.
        """
        self._check_on_loop()
        await self._presence.drain(over, host)


def _decoded(history: History) -> Iterator[tuple[Envelope, Position]]:
    for position, data in history.kept:
        try:
            yield messages.decode(data), position
        except BadEnvelope as exc:
            logger.warning("a message of a history is ignored: %s", exc)
