"""
What lives as long as a worker's event loop: connection pools, clients, background tasks.

``config.add_lifespan(factory)`` adds an asynchronous context manager to an application. It
is entered on the loop of each process that serves the application, before the first request,
and left when the last request and connection have ended. Who runs the loop does both: a
worker of gunicorn or uWSGI, a test client; elsewhere, the first request (or the first code
that waits) enters it, and it is left when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from pyramid.exceptions import ConfigurationError
from pyramid.registry import Introspectable
from pyramid.threadlocal import manager

from . import homes
from .creation import when_created
from .homes import Home

if TYPE_CHECKING:
    from pyramid.config import Configurator

logger = logging.getLogger("aiopyramid")

Factory = Callable[[Any], AbstractAsyncContextManager[Any]]
OnError = Literal["restart", "stop"]

# How long a background task that has failed waits before it begins again, in seconds: first,
# at most, and after how long a run the next failure is a first one again.
FIRST_DELAY = 1.0
MAX_DELAY = 60.0
HEALTHY = 60.0


def includeme(config: Configurator) -> None:
    """Add the directives ``add_lifespan`` and ``add_background_task``."""
    config.add_directive("add_lifespan", add_lifespan)
    config.add_directive("add_background_task", add_background_task)
    when_created(config, _created)


def add_lifespan(config: Configurator, factory: Any) -> None:
    """
    Add an asynchronous context manager that is entered and left with each worker's loop.

    Those of an application are entered in the order in which they were added, and left in
    reverse. If one cannot be entered, the worker does not start.

    Args:
        factory: Called with the application's registry; or its dotted name. A function that
            ``contextlib.asynccontextmanager`` decorates, for example.

    Raises:
        pyramid.exceptions.ConfigurationError: If ``factory`` does not make such a thing.
    """
    factory = config.maybe_dotted(factory)
    if not callable(factory):
        raise ConfigurationError(f"add_lifespan needs a callable, not {factory!r}")
    if inspect.isasyncgenfunction(factory) or inspect.iscoroutinefunction(factory):
        raise ConfigurationError(
            f"add_lifespan({_name(factory)}): it must return an asynchronous context manager; "
            "decorate an async function that yields once "
            "with @contextlib.asynccontextmanager"
        )

    def add() -> None:
        _lifespan_of(config.registry).factories.append(factory)

    _action(config, "lifespan", factory, add, {"factory": factory})


def add_background_task(
    config: Configurator,
    function: Any,
    on_error: OnError = "restart",
) -> None:
    """
    Run a coroutine function on each worker's loop, for as long as the worker lives.

    It begins when the application's lifespans have been entered, and is cancelled before they
    are left. In scripts and shells, which serve no requests, it does not begin. When it
    returns, it is done. An exception is logged; what follows is asked for.

    Args:
        function: A coroutine function, called with the application's registry; or its dotted
            name.
        on_error: ``"restart"`` calls it again, after one second and then twice as long each
            time, up to a minute; ``"stop"`` stops the worker, in place of which gunicorn
            and uWSGI start another. Elsewhere, that interrupts the process as Ctrl-C does.

    Raises:
        pyramid.exceptions.ConfigurationError: If ``function`` is not a coroutine function,
            or ``on_error`` neither of these.
    """
    function = config.maybe_dotted(function)
    if not (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "func", None))
        or inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004 - the function is needed
    ):
        raise ConfigurationError(
            f"add_background_task needs a coroutine function, not {function!r}"
        )
    if on_error not in ("restart", "stop"):
        raise ConfigurationError(
            f"add_background_task({_name(function)}): on_error = {on_error!r} "
            "must be 'restart' or 'stop'"
        )

    def add() -> None:
        _lifespan_of(config.registry).tasks.append(BackgroundTask(function, on_error))

    values = {"function": function, "on_error": on_error}
    _action(config, "background task", function, add, values)


def _action(
    config: Configurator, what: str, func: Any, add: Callable[[], None], values: dict[str, Any]
) -> None:
    discriminator = (f"aiopyramid {what}", func)
    introspectable = Introspectable(f"{what}s", discriminator, _name(func), what)
    introspectable.update(values)
    config.action(discriminator, add, introspectables=(introspectable,))


def _name(func: Any) -> str:
    return getattr(func, "__qualname__", None) or repr(func)


def set_first(registry: Any, factory: Factory | None) -> None:
    """
    Set what is entered before all that the application adds, in place of what was set before.

    Args:
        registry: The application's registry.
        factory: As for `add_lifespan`; ``None`` for nothing.
    """
    if factory is not None or registry.get(Lifespan) is not None:
        _lifespan_of(registry).first = factory


def _lifespan_of(registry: Any) -> Lifespan:
    lifespan: Lifespan | None = registry.get(Lifespan)
    if lifespan is None:
        lifespan = registry[Lifespan] = Lifespan(registry)
    return lifespan


@dataclass(frozen=True)
class BackgroundTask:
    """A coroutine function that runs for a worker's life, and what follows when it fails."""

    function: Callable[[Any], Awaitable[Any]]
    on_error: OnError

    async def run(self, registry: Any, stop: Callable[[BaseException], None]) -> None:
        """
        Run the function, again and again if that is asked for.

        Args:
            registry: The application's registry.
            stop: Called with an exception after which the worker must stop.
        """
        clock, delay = asyncio.get_running_loop().time, FIRST_DELAY
        while True:
            begin = clock()
            try:
                await self.function(registry)
                return
            except (Exception, BaseExceptionGroup, asyncio.CancelledError, SystemExit) as exc:
                if isinstance(exc, asyncio.CancelledError) and _is_being_cancelled():
                    raise
                if self.on_error == "stop" or isinstance(exc, SystemExit):
                    logger.exception("Background task %s failed", _name(self.function))
                    stop(exc)
                    return
                if clock() - begin >= HEALTHY:
                    delay = FIRST_DELAY
                logger.exception(
                    "Background task %s failed, and begins again in %d s",
                    _name(self.function),
                    delay,
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Lifespan:
    """
    The lifespans and background tasks of an application.

    Args:
        registry: The application's registry.
    """

    def __init__(self, registry: Any) -> None:
        self.registry = registry
        self.first: Factory | None = None
        self.factories: list[Factory] = []
        self.tasks: list[BackgroundTask] = []
        self._run: _Run | None = None

    def __repr__(self) -> str:
        return f"the lifespan of {self.registry.__name__}"

    @property
    def home(self) -> Home | None:
        """The loop on which they are entered, or being entered."""
        return self._run.home if self._run is not None and self._run.is_alive else None

    @property
    def is_entered(self) -> bool:
        """Whether everything has been entered, in this process, and nothing left."""
        run = self._run
        return run is not None and run.entered.done() and run.is_alive

    @property
    def can_be_entered(self) -> bool:
        """Whether it is neither entered nor being left."""
        run = self._run
        return not self.is_entered and (run is None or run.task.done() or not run.leaving.is_set())

    @property
    def is_serving(self) -> bool:
        """Whether the background tasks have begun as well."""
        return self.is_entered and self._run is not None and self._run.has_tasks

    async def enter(self, *, serve: bool = True) -> None:
        """
        Enter the lifespans on this loop, in order, and begin the background tasks.

        Does nothing if that has been done, and waits if it is being done.

        Args:
            serve: Whether this is for requests: background tasks begin for no other code.

        Raises:
            BaseException: What the first lifespan that cannot be entered raises. Those before
                it have been left again.
        """
        home, run = homes.home_here(), self._run
        if home is homes.own_loop.home and homes.own_loop.is_ending:
            raise RuntimeError(f"{self!r} is not entered any more: the process ends")
        if run is not None and run.home is not home and run.is_alive:
            # A test has used the application on another loop before.
            leaving = asyncio.run_coroutine_threadsafe(run.leave(), run.home.loop)
            await asyncio.wrap_future(leaving)
        if run is not None and run.home is home and run.leaving.is_set():
            await asyncio.wait([run.task])
            run = self._run  # somebody may have been faster
        if run is None or run.home is not home or not run.is_alive:
            run = self._run = _Run(self, home)
        await asyncio.shield(run.entered)  # others may wait for the same
        if serve:
            run.begin_tasks()

    async def leave(self) -> None:
        """Cancel the background tasks, and leave the lifespans in reverse; on the same loop."""
        if self._run is not None:
            await self._run.leave()


class _Run:
    """A task that enters the lifespans of an application, and leaves them when it is told to."""

    def __init__(self, lifespan: Lifespan, home: Home) -> None:
        self.home = home
        self.lifespan = lifespan
        self.entered: asyncio.Future[None] = home.loop.create_future()
        self.leaving = asyncio.Event()
        self.has_tasks = False
        self.tasks: list[asyncio.Task[None]] = []
        # One task for both, or task groups and timeouts could not be held open.
        self.context = home.context.copy()
        self.context.run(manager.push, {"request": None, "registry": lifespan.registry})
        self.context.run(homes.works_for_loop.set, True)
        self.task = home.loop.create_task(
            self._live(), name=repr(lifespan), context=self.context.copy()
        )
        home.endings.append(self.leave)

    def __repr__(self) -> str:
        return repr(self.lifespan)

    @property
    def is_alive(self) -> bool:
        return not (self.task.done() or self.leaving.is_set()) and self.home.is_running()

    def begin_tasks(self) -> None:
        if self.has_tasks or not self.is_alive:
            return
        self.has_tasks = True
        self.tasks += [
            self.home.loop.create_task(
                task.run(self.lifespan.registry, self._stop),
                name=_name(task.function),
                context=self.context.copy(),
            )
            for task in self.lifespan.tasks
        ]

    async def leave(self) -> None:
        self.leaving.set()
        if not self.entered.done():
            self.task.cancel()
        self._forget()
        try:
            await self.task  # and cancel it, if this is cancelled
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise

    async def _live(self) -> None:
        registry = self.lifespan.registry
        try:
            async with contextlib.AsyncExitStack() as stack:
                first = self.lifespan.first
                for factory in [*([first] if first else []), *self.lifespan.factories]:
                    await stack.enter_async_context(factory(registry))
                stack.push_async_callback(_cancel, self.tasks)
                self.entered.set_result(None)
                await self.leaving.wait()
        except GeneratorExit:
            raise  # the loop was closed, and nobody has asked for an end
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and _is_being_cancelled():
                self.entered.cancel()
                raise
            error = _as_error(exc, self.lifespan)
            if not self.entered.done():
                self.entered.set_exception(error)
            elif self.leaving.is_set():
                if error is exc:
                    raise
                raise error from exc
            else:
                # A task group of its own was cancelled by one of its tasks, for example.
                logger.error("%r ended before the worker", self.lifespan, exc_info=error)
                self._stop(error)
        finally:
            self._forget()

    def _forget(self) -> None:
        with contextlib.suppress(ValueError):  # the loop is about to end
            self.home.endings.remove(self.leave)

    def _stop(self, reason: BaseException) -> None:
        self.home.stop(reason)


def _as_error(exc: BaseException, lifespan: Lifespan) -> BaseException:
    """Make of what would end a loop or a task, such as `SystemExit`, an ordinary error."""
    if isinstance(exc, Exception | BaseExceptionGroup):
        return exc
    error = RuntimeError(f"{lifespan!r} raised {exc!r}")
    error.__cause__ = exc
    return error


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


_lifespans: list[ref[Lifespan]] = []
"""Those of all applications that have been created, in that order."""


def _created(event: Any) -> None:
    lifespan = event.app.registry.get(Lifespan)
    if lifespan is not None:
        _lifespans.append(ref(lifespan))
        homes.prepare = functools.partial(entering, serve=False)


def entering(*, serve: bool = True) -> Coroutine[Any, Any, None] | None:
    """
    Return what enters the lifespans of all applications of this process, if there are any.

    Applications that have been created count, in that order, unless they are entered. The
    coroutine raises what the first lifespan raises that cannot be entered.

    Args:
        serve: As for `Lifespan.enter`.
    """
    _lifespans[:] = [each for each in _lifespans if each() is not None]
    waiting = [each for each in (each() for each in _lifespans) if each and each.can_be_entered]
    return _enter_all(waiting, serve=serve) if waiting else None


async def _enter_all(waiting: list[Lifespan], *, serve: bool) -> None:
    for each in waiting:
        await each.enter(serve=serve)


def leave() -> None:
    """
    Leave the lifespans of this process and end its loop, where no server of ours runs one.

    That happens by itself at the end of a process. This is for processes that end without
    Python's exit handlers, such as those of Celery's prefork pool
    (``celery.signals.worker_process_shutdown``).
    """
    homes.own_loop.end()
