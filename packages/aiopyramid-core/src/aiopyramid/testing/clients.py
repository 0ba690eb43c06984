"""Clients that call an application in the same process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from types import EllipsisType, TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from .. import homes
from ..homes import Home, home_here
from ..lifespan import Lifespan
from ..request_threads import PlacedCall, RequestThreads
from .events import Events, EventsOpening, SyncEvents
from .websocket import (
    LONGER,
    TIMEOUT,
    Compression,
    Opening,
    SyncWebsocket,
    Timeout,
    Websocket,
    wait_for,
    where,
)

try:
    from webtest import TestApp
except ModuleNotFoundError as exc:
    if exc.name != "webtest":
        raise
    raise ImportError(
        "aiopyramid.testing needs WebTest, which is not installed "
        '(pip install "aiopyramid-core[testing]")',
        name="webtest",
    ) from None

P = ParamSpec("P")
T = TypeVar("T")
Answer = TypeVar("Answer", covariant=True)
ToWebsocket = TypeVar("ToWebsocket", covariant=True)
ToEvents = TypeVar("ToEvents", covariant=True)

THREADS = 10

# How long lifespans may take, in seconds.
LIFESPAN_TIMEOUT = homes.END_TIMEOUT

# The close codes of a block that ends: that of a connection, and that of its client.
CODE = 1000
CODE_OF_CLIENT = 1001

NOT_OPEN = "the client is not open: use it in `async with aiopyramid.testing.client(app) as c:`"


class Verb(Generic[P]):
    """
    A method of `webtest.TestApp` that makes requests, in a client's own way of calling it.

    Args:
        method: The method; that of the same name is called of the client's TestApp.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], Any]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, client: None, owner: object) -> Self: ...
    @overload
    def __get__(
        self, client: BaseClient[Answer, Any, Any], owner: object
    ) -> Callable[P, Answer]: ...
    def __get__(self, client: BaseClient[Answer, Any, Any] | None, owner: object) -> Any:
        if client is None:
            return self
        method = getattr(client.app, self.method.__name__)

        @functools.wraps(method)
        def verb(*args: P.args, **kwargs: P.kwargs) -> Answer:
            return client.call(method, *args, **kwargs)

        return verb


class BaseClient(Generic[Answer, ToWebsocket, ToEvents]):
    """
    What both clients have in common.

    Attributes:
        app: The `webtest.TestApp`, with its cookies, its ``extra_environ`` and its authorization.
    """

    def __init__(self, app: Any, *, timeout: float | None, raise_exceptions: bool) -> None:
        self.app = app if isinstance(app, TestApp) else TestApp(app)
        self._timeout = timeout
        self._raise_exceptions = raise_exceptions
        self._open: set[Websocket | Events] = set()
        self._stack = contextlib.AsyncExitStack()

    delete = Verb(TestApp.delete)
    delete_json = Verb(TestApp.delete_json)
    do_request = Verb(TestApp.do_request)
    get = Verb(TestApp.get)
    head = Verb(TestApp.head)
    options = Verb(TestApp.options)
    patch = Verb(TestApp.patch)
    patch_json = Verb(TestApp.patch_json)
    post = Verb(TestApp.post)
    post_json = Verb(TestApp.post_json)
    put = Verb(TestApp.put)
    put_json = Verb(TestApp.put_json)
    request = Verb(TestApp.request)

    def call(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Answer:
        """Call plain code that makes requests, such as ``response.form.submit``."""
        raise NotImplementedError

    def websocket(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra_environ: Mapping[str, Any] | None = None,
        subprotocols: Sequence[str] | None = None,
        origin: str | None = None,
        compression: Compression = "deflate",
        timeout: Timeout = ...,
        raise_exceptions: bool | None = None,
    ) -> ToWebsocket:
        """
        Open a WebSocket connection: ``async with c.websocket("/ws") as ws``.

        Cookies are sent and kept as for all requests. Leaving the block closes the connection
        and waits until the view has ended.

        Args:
            url: The path of the WebSocket view, or its whole address (``ws:``, ``http:``).
            headers: More headers for the handshake.
            extra_environ: More values for its WSGI environ.
            subprotocols: The subprotocols to offer, the preferred one first.
            origin: The origin of the page that opens the connection, as a browser would tell.
            compression: ``"deflate"`` to offer compression, as browsers do, or ``None``.
            timeout: How long each wait for the server may take, in seconds; ``None`` for no
                limit. By default, as chosen for the client.
            raise_exceptions: Whether an exception of the view is raised in the test: where the
                test waits for the view next, or at the end of the block. By default, as
                chosen for the client.

        Returns:
            A context manager, which gives the connection.

        Raises:
            HandshakeRefused: From ``with``, if the answer is not that of a WebSocket view. It
                has the ``response``.
            TimeoutError: From ``with``, if the view does not answer the handshake in time, or
                does not end in time after the block.
            Exception: From ``with``, what the application raises.
        """
        opening: ToWebsocket = self._connecting(
            Opening(
                self.app,
                url,
                headers=headers,
                extra_environ=extra_environ,
                subprotocols=subprotocols,
                origin=origin,
                compression=compression,
                timeout=self._limit(timeout),
                raise_exceptions=(
                    self._raise_exceptions if raise_exceptions is None else raise_exceptions
                ),
            )
        )
        return opening

    def events(
        self,
        url: str,
        *,
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: Timeout = ...,
    ) -> ToEvents:
        """
        Listen to server-sent events: ``async with c.events("/news") as events``.

        Leaving the block is leaving as a client: it closes the view's iterator.

        Args:
            url: The path of the view.
            last_event_id: The ``id`` of the last event that was seen, as from a browser that
                reconnects.
            headers: More headers.
            timeout: How long each wait for an event may take, in seconds; ``None`` for no
                limit. By default, as chosen for the client.

        Returns:
            A context manager, which gives the `Events`.

        Raises:
            NoEvents: From ``with``, if the answer has none. It has the ``response``.
        """
        opening: ToEvents = self._connecting(
            EventsOpening(
                self.app,
                url,
                headers=headers,
                last_event_id=last_event_id,
                timeout=self._limit(timeout),
            )
        )
        return opening

    def _limit(self, timeout: Timeout) -> float | None:
        return self._timeout if isinstance(timeout, EllipsisType) else timeout

    def _connecting(self, opening: Opening | EventsOpening) -> Any:
        raise NotImplementedError

    async def _finish(self, opening: Any, response: Any) -> Any:
        opened = await opening.finish(response)
        self._open.add(opened)
        return opened

    async def _leave(self, opened: Any, code: int) -> BaseException | None:
        try:
            error: BaseException | None = await opened.leave(code)
            return error
        finally:
            self._open.discard(opened)

    async def _enter_all(self) -> None:
        """Enter the application's lifespans."""
        limit = None if self._timeout is None else LIFESPAN_TIMEOUT
        await self._stack.enter_async_context(lifespans(self.app.app, limit))

    async def _leave_all(self) -> BaseException | None:
        """Close what is open, and leave the lifespans; return what the test is to be told."""
        results = [await self._leave(ws, CODE_OF_CLIENT) for ws in tuple(self._open)]
        errors = [error for error in results if error is not None]
        try:
            await self._stack.aclose()
        except (Exception, BaseExceptionGroup) as exc:
            errors.append(exc)
        return _one(errors)


class Connecting(Generic[T]):
    """What a `Client` is to open by ``async with``: a WebSocket connection, or events."""

    def __init__(self, client: Client, opening: Any) -> None:
        self._client = client
        self._opening = opening

    async def __aenter__(self) -> T:
        self._opened: T = await self._client._connect(self._opening)
        return self._opened

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        error = await self._client._leave(self._opened, CODE)
        if exc is None and error is not None:
            raise error


class SyncConnecting(Generic[T]):
    """What a `SyncClient` is to open by ``with``."""

    def __init__(self, client: SyncClient, opening: Any) -> None:
        self._client = client
        self._opening = opening

    def __enter__(self) -> T:
        self._opened = self._client._connect(self._opening)
        opened: T = self._opening.sync(self._opened)
        return opened

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        error = wait_for(self._client._leave(self._opened, CODE))
        if exc is None and error is not None:
            raise error


class Client(BaseClient[Coroutine[Any, Any, Any], Connecting[Websocket], Connecting[Events]]):
    """A client for tests that are coroutines; `client` makes it."""

    def __init__(
        self, app: Any, *, timeout: float | None, raise_exceptions: bool, threads: int
    ) -> None:
        super().__init__(app, timeout=timeout, raise_exceptions=raise_exceptions)
        self._places = threads
        self._threads: RequestThreads | None = None

    async def __aenter__(self) -> Self:
        await self._enter_all()
        self._threads = RequestThreads(home_here(), self._places)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._threads is not None
        try:
            error = await self._leave_all()
        finally:
            self._threads.close()
            self._threads = None
        if exc is None and error is not None:
            raise error

    async def call(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """
        Call plain code that makes requests, in a thread: ``await c.call(response.form.submit)``.

        All that is made of it - requests, responses, redirects that are followed - runs as a
        request does under a server: plain code in that one thread, coroutines on this loop.

        Args:
            func: A plain function.
            args: Positional arguments for ``func``.
            kwargs: Keyword arguments for ``func``.

        Returns:
            What ``func`` returns.

        Raises:
            BaseException: What ``func`` raises.
        """
        return await self._run(None, functools.partial(func, *args, **kwargs))

    def _connecting(self, opening: Opening | EventsOpening) -> Connecting[Any]:
        return Connecting(self, opening)

    async def _connect(self, opening: Any) -> Any:
        try:
            response = await self._run(opening.timeout, opening.request, opening.what)
            return await self._finish(opening, response)
        finally:
            await opening.forget()

    async def _run(self, timeout: float | None, func: Callable[[], T], what: str = "") -> T:
        # The TestApp may be used by several threads: what its requests share is the cookie
        # jar, which has a lock.
        if self._threads is None:
            raise RuntimeError(NOT_OPEN)
        call = self._threads.call(func)
        # A task of its own, so that context variables of one request are not those of the next.
        task = asyncio.create_task(call.result())
        call.has_left = functools.partial(_is_cancelled, task)
        place = ""
        try:
            await asyncio.wait([task], timeout=timeout)
            if not task.done():
                place = _where_is(call)
        finally:
            if not task.done():
                task.cancel()
                # Plain code that waits for nothing cannot be interrupted.
                await asyncio.wait([task], timeout=timeout)
        if place:
            raise TimeoutError(
                f"the {what} was not answered within {timeout} s. {LONGER} "
                f"The application is here:\n{place}"
            )
        try:
            return task.result()
        finally:
            del call, task  # an exception in it knows this frame


class SyncClient(BaseClient[Any, SyncConnecting[SyncWebsocket], SyncConnecting[SyncEvents]]):
    """A client for tests that are plain functions; `sync_client` makes it."""

    def __enter__(self) -> Self:
        wait_for(self._enter_all())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        error = wait_for(self._leave_all())
        if exc is None and error is not None:
            raise error

    def call(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """
        Call plain code that makes requests, in this thread, where it may be called as well.

        Args:
            func: A plain function, such as ``response.form.submit``.
            args: Positional arguments for ``func``.
            kwargs: Keyword arguments for ``func``.

        Returns:
            What ``func`` returns.

        Raises:
            BaseException: What ``func`` raises.
        """
        return func(*args, **kwargs)

    def _connecting(self, opening: Opening | EventsOpening) -> SyncConnecting[Any]:
        return SyncConnecting(self, opening)

    def _connect(self, opening: Any) -> Any:
        try:
            return wait_for(self._finish(opening, opening.request()))
        finally:
            wait_for(opening.forget())


def client(
    app: Any,
    *,
    timeout: float | None = TIMEOUT,
    raise_exceptions: bool = False,
    threads: int = THREADS,
) -> Client:
    """
    Make a client for tests that are coroutines: ``async with client(app) as c``.

    It has the methods of `webtest.TestApp` that make requests, as coroutines. The
    application's plain code runs in threads, all of one request in one thread, and its
    coroutines on the loop of the test. Requests may be made at the same time; one that is
    cancelled ends as if its client had left.

    Args:
        app: A WSGI application, or a `webtest.TestApp`.
        timeout: How long each wait for a WebSocket view may take, in seconds; ``None`` for no
            limit.
        raise_exceptions: Whether exceptions of WebSocket views are raised in the test.
        threads: How many requests may begin at a time; those that wait do not count.

    Returns:
        A context manager, which gives itself. It enters the application's lifespans at its
        beginning. At its end, the connections that are open are closed with code 1001, and the
        lifespans are left. An exception of these is raised.
    """
    return Client(app, timeout=timeout, raise_exceptions=raise_exceptions, threads=threads)


def sync_client(
    app: Any, *, timeout: float | None = TIMEOUT, raise_exceptions: bool = False
) -> SyncClient:
    """
    Make a client for tests that are plain functions: ``with sync_client(app) as c``.

    It has the methods of `webtest.TestApp` that make requests, handshakes included: they run
    in the thread of the test, and cannot be interrupted. Coroutines run on this process's
    loop, in another thread.

    Args:
        app: A WSGI application, or a `webtest.TestApp`.
        timeout: How long each wait for an open WebSocket may take, in seconds; ``None`` for no
            limit.
        raise_exceptions: Whether exceptions of WebSocket views are raised in the test.

    Returns:
        A context manager, which gives itself; begin and end are as for `client`.
    """
    return SyncClient(app, timeout=timeout, raise_exceptions=raise_exceptions)


@contextlib.asynccontextmanager
async def lifespans(app: Any, timeout: float | None) -> AsyncIterator[None]:
    """
    Enter the lifespans of an application on this loop, and leave them in the end.

    Where middleware hides the application, its first request enters them.

    Args:
        app: The application.
        timeout: How long entering may take, and each leaving, in seconds.

    Raises:
        TimeoutError: If that does not suffice.
        BaseException: What a lifespan raises, and what stopped the worker meanwhile: a
            background task that failed, for example.
    """
    home = home_here()
    lifespan: Lifespan | None = getattr(app, "registry", {}).get(Lifespan)
    if lifespan is not None and lifespan.home is not home and lifespan.home in _uses:
        raise RuntimeError(f"{lifespan!r} has a client on another loop")
    use = _uses.get(home)
    if use is None:
        use = _uses[home] = _Use(home)
    use.clients += 1
    try:
        if lifespan is not None:
            await _bounded(lifespan.enter, timeout, "was not entered")
        yield
    finally:
        use.clients -= 1
        if not use.clients:
            await use.end(timeout)
    if not use.clients and (error := _one(use.errors)):
        raise error


class _Use:
    """
    What the clients of a loop have entered, which the last one leaves.

    Args:
        home: The loop.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.clients = 0
        self.errors: list[BaseException] = []
        self.before = list(home.endings)
        self.stop = home.stop
        home.stop = self.errors.append

    async def end(self, timeout: float | None) -> None:
        del _uses[self.home]
        while endings := [each for each in self.home.endings if each not in self.before]:
            self.home.endings.remove(endings[-1])
            try:
                await _bounded(endings[-1], timeout, "was not left")
            except (Exception, BaseExceptionGroup) as exc:
                self.errors.append(exc)
        self.home.stop = self.stop


_uses: WeakKeyDictionary[Home, _Use] = WeakKeyDictionary()


async def _bounded(
    method: Callable[[], Awaitable[None]], timeout: float | None, problem: str
) -> None:
    try:
        async with asyncio.timeout(timeout) as scope:
            await method()
    except TimeoutError as exc:
        if not scope.expired():
            raise
        whose = getattr(method, "__self__", method)
        raise TimeoutError(f"{whose!r} {problem} within {timeout} s") from exc


def _one(errors: list[BaseException]) -> BaseException | None:
    if len(errors) > 1:
        return BaseExceptionGroup("several things have failed", errors)
    return errors[0] if errors else None


def _is_cancelled(task: asyncio.Task[Any]) -> bool:
    return task.cancelling() > 0


def _where_is(call: PlacedCall[Any]) -> str:
    wait = call.wait
    if wait is not None and wait.task is not None:
        return where(wait.task)
    frame = sys._current_frames().get(call.ident)
    return "".join(traceback.format_stack(frame)) if frame else "no thread runs it\n"
