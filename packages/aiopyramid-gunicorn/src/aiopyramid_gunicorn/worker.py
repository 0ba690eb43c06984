"""The gunicorn workers: an event loop that serves a WSGI application."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker
from websockets.frames import CloseCode

from aiopyramid import fitness, homes, lifespan
from aiopyramid.bridge import cancel_as, spawn_greenlet
from aiopyramid.garbage import collect_less
from aiopyramid.homes import Home, home_here, let_the_loop_in
from aiopyramid.request_threads import RequestThreads, request_interruption, stacks
from aiopyramid.sse import streams
from aiopyramid.transactions import refuse_on_loop
from aiopyramid.websocket.sessions import sessions

from . import compat
from .compat import ASGIWorker
from .deadlines import Deadlines
from .exchange import Exchange, ExchangeCall
from .http1 import HTTP1Connection
from .message import Environs, Heads
from .protocol import HTTPProtocol
from .request import serve

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

with contextlib.suppress(ImportError):
    # Before the fork: a worker gets no signal until it has a loop.
    importlib.import_module("uvloop")

T = TypeVar("T")
RunPlain = Callable[[Callable[[], T]], Awaitable[T]]

EXECUTOR = "aiopyramid-executor"
CALLBACKS = "aiopyramid-callback"
EXECUTORS = (EXECUTOR, CALLBACKS, "aiopyramid-nested")

# gunicorn's default for `threads`, 1, would let requests wait for each other.
THREADS = 16

PRELOADED = """\
{what} cannot be waited for here: with preload_app, gunicorn loads the application \
in a process that has no event loop.
Put what needs one at the start into `config.add_lifespan(factory)`, \
which each worker enters on its own; or set preload_app = False."""

EXIT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

# After how long a worker accepts connections again that the system could not give, in seconds.
ACCEPT_AGAIN = 1.0

# How long a stop waits for a client's request that may be on its way, in seconds.
LAST_REQUESTS = 1.0

# How long a connection is read after its last response, in seconds, as gunicorn does.
LINGER = 2.0

# How long a quick shutdown waits for WebSocket views and requests, in seconds,
# as gunicorn does for other tasks.
QUICK = 1.0


class Generation:
    """
    Counts the configurations that the arbiter has loaded.

    gunicorn tells its workers to stop and to make room for new ones by the
    same signal. A worker is created in the arbiter, before its fork, with the
    arbiter's current configuration: so the counter moves with each reload,
    before the workers of the old configuration are told to go. It lives in
    memory that arbiter and workers share.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8)
        self.cfg: Any = None

    def of(self, cfg: Any) -> int:
        """In the arbiter: return the number of a configuration."""
        if cfg is not self.cfg:
            self.cfg = cfg
            self.memory[:] = (self.latest() + 1).to_bytes(8, "big")
        return self.latest()

    def latest(self) -> int:
        """Return the number of the arbiter's current configuration."""
        return int.from_bytes(self.memory[:], "big")


generation = Generation()


class LoopWorker(ASGIWorker):  # type: ignore[misc]
    """gunicorn's asynchronous worker, with a WSGI application in place of an ASGI one."""

    alive: bool
    wsgi: WSGIApplication
    asgi = staticmethod(serve)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generation = generation.of(self.cfg)
        self.signalled = False
        #: The signals that have come before the loop runs; ``None`` when it does.
        self.early_signals: list[int] | None = None
        self.wake = asyncio.Event()
        self.quick = asyncio.Event()
        self.connections: set[HTTP1Connection | HTTPProtocol] = set()
        self.requests: set[Exchange | asyncio.Task[Any]] = set()
        self.drained = asyncio.Event()  # set when no more requests can come
        self.environs = Environs(self.cfg)
        self._accepting = False
        self._connecting: set[asyncio.Task[None]] = set()
        self.idle = asyncio.Event()  # set while no request runs
        self.idle.set()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """
        Called by gunicorn when it starts. Unlike gunicorn's worker, use ``threads``.

        Raises:
            RuntimeError: If ``http_parser`` is ``fast`` and cannot be.
        """
        compat.check_fast_parser(cfg)

    @classmethod
    def setup(cls) -> None:
        """Called by gunicorn in the arbiter, before it preloads an application."""
        if homes.process_home is None:
            homes.obstacle = PRELOADED  # until the fork

    def init_process(self) -> None:
        """Begin the worker's life, after the fork."""
        self._log_as_gunicorn()
        super().init_process()

    def _log_as_gunicorn(self) -> None:
        """Let our log go where gunicorn's goes, unless the application has configured logging."""
        logger, theirs = logging.getLogger("aiopyramid"), self.log.error_log
        if logger.handlers is theirs.handlers:
            logger.handlers = []  # the application may have done so while it was loaded
        if not logger.hasHandlers():
            logger.handlers = theirs.handlers
            logger.setLevel(theirs.level)

    def load_wsgi(self) -> None:
        """Load the application; on a syntax error under ``--reload``, one that shows it."""
        self.set_home(Home(self.loop))
        Worker.load_wsgi(self)
        self._log_as_gunicorn()

    def set_home(self, home: Home) -> None:
        """Let this worker's loop be the loop of this process."""
        self.home = homes.process_home = home
        home.loader = threading.get_ident()
        home.stop = self.end_because
        self.executor = ThreadPoolExecutor(self._threads(), EXECUTOR)
        self.loop.set_default_executor(self.executor)
        home.callbacks = self.callbacks = ThreadPoolExecutor(self._threads(), CALLBACKS)

    # Connections.

    def _accept(self, listener: Any) -> None:
        """Accept a connection, unless another worker was faster."""
        try:
            sock, peer = listener.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            # Such as too many open files: it may pass.
            self.log.error("Cannot accept a connection: %s", exc)
            self._set_accepting(False)
            self.loop.call_later(ACCEPT_AGAIN, self.accept_again)
            return
        sock.setblocking(False)
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._set_accepting(False)
        task = self.loop.create_task(self._connect(sock, peer, listener.sock.getsockname()))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, sock: socket.socket, peer: Any, server: Any) -> None:
        connection = HTTP1Connection(self, sock, peer, server)
        protocol = HTTPProtocol(self) if self.cfg.protocol == "uwsgi" else connection
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, sock, ssl=self.ssl)
        except OSError as exc:  # SSLError among them
            self.log.debug("No connection with %s: %s", peer, exc)
            sock.close()
        finally:
            if not connection.made:  # or gunicorn counts it itself
                self.connection_ended()

    def connection_ended(self) -> None:
        """Count a connection less; there may be room for another."""
        self.nr_conns -= 1
        self.accept_again()

    def accept_again(self) -> None:
        """Accept connections, if there is room for another."""
        if self.alive and self.nr_conns < self.worker_connections:
            self._set_accepting(True)

    def _set_accepting(self, accepting: bool) -> None:
        if accepting != self._accepting:
            self._accepting = accepting
            for listener in self.sockets:
                if accepting:
                    self.loop.add_reader(listener.sock.fileno(), self._accept, listener)
                else:
                    self.loop.remove_reader(listener.sock.fileno())

    # Requests.

    def exchange_begins(self, exchange: Exchange) -> None:
        """Count a request, and run its plain code."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self.wake.set()
        self.requests.add(exchange)
        self.idle.clear()
        self.run_exchange(exchange)

    def exchange_ends(self, exchange: Exchange) -> None:
        """Remove an exchange from the running requests."""
        self.requests.discard(exchange)
        if not self.requests:
            self.idle.set()

    def run_exchange(self, exchange: Exchange) -> None:
        """Run the plain code of an exchange, and tell it when that has ended."""
        raise NotImplementedError

    def request_begins(self) -> None:
        """Add the current task to the running requests."""
        self.requests.add(asyncio.current_task())  # type: ignore[arg-type]
        self.idle.clear()

    def request_ends(self) -> None:
        """Remove the current task from the running requests."""
        self.requests.discard(asyncio.current_task())
        if not self.requests:
            self.idle.set()

    def run_plain(self, has_left: Callable[[], bool]) -> RunPlain[Any]:
        """
        Return what runs the plain code of a request.

        Args:
            has_left: Returns True if the client has left.
        """
        raise NotImplementedError

    # Signals.

    def handle_exit_signal(self) -> None:
        """Stop gracefully (SIGTERM)."""
        self.signalled = True
        super().handle_exit_signal()
        self.wake.set()

    def handle_quit_signal(self) -> None:
        """Stop at once (SIGQUIT, SIGINT)."""
        self.signalled = True
        super().handle_quit_signal()
        self.quick.set()
        self.wake.set()

    def handle_usr1_signal(self) -> None:
        """Reopen the log files (SIGUSR1)."""
        super().handle_usr1_signal()
        self.environs.reopen()

    def handle_abort_signal(self) -> None:
        """Stop because the heartbeat stopped (SIGABRT)."""
        self._quick_shutdown = True
        super().handle_abort_signal()

    def closing_code(self) -> int:
        """Return the close code for WebSockets: 1001 if gunicorn stops, else 1012."""
        stops = self.signalled and self.generation == generation.latest()
        return CloseCode.GOING_AWAY if stops else CloseCode.SERVICE_RESTART

    # Life.

    def init_signals(self) -> None:
        """Handle signals on the loop; remember those that stop until it runs."""
        super().init_signals()
        self.early_signals = []
        # uvloop would forget them.
        for signum in EXIT_SIGNALS:
            signal.signal(signum, self._remember_signal)

    def _remember_signal(self, signum: int, frame: object) -> None:
        if self.early_signals is not None:
            self.early_signals.append(signum)

    def _handle_early_signals(self) -> None:
        if self.early_signals is None:
            return
        super().init_signals()
        early, self.early_signals = self.early_signals, None
        for signum in early:
            if signum == signal.SIGTERM:
                self.handle_exit_signal()
            else:
                self.handle_quit_signal()

    async def _serve(self) -> None:
        self._handle_early_signals()
        home_here()  # for threads that start from here
        self._start(self._threads())
        refuse_on_loop()
        let_the_loop_in()
        self._prepare()
        await self._enter_lifespans()
        collect_less()
        if self.alive:
            self._set_accepting(True)
            await self._beat()
        await self._shutdown()

    def _threads(self) -> int:
        threads: int = self.cfg.threads
        return threads if threads > 1 else THREADS

    async def _enter_lifespans(self) -> None:
        """Enter what the application has added, or stop the arbiter as well."""
        first = lifespan.entering()
        if first is None:
            return
        entering = asyncio.create_task(first)
        stopping = asyncio.create_task(self.wake.wait())
        await asyncio.wait([entering, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not entering.done():
            entering.cancel()
        elif (exception := entering.exception()) is not None:
            self.log.error("A lifespan could not be entered", exc_info=exception)
            await self.home.end(self.cfg.graceful_timeout)
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR)

    def end_because(self, reason: BaseException) -> None:
        """End this worker, in whose place the arbiter starts another."""
        self.log.error("%s ends because of %r", self, reason)
        self.alive = False
        self.wake.set()

    def _start(self, threads: int) -> None:
        """Prepare for requests."""

    def _stop(self) -> None:
        """End what `_start` began."""

    def _prepare(self) -> None:
        """Read the settings that connections and requests need."""
        self.ssl = self._get_ssl_context()
        if self.cfg.is_ssl and self.ssl is None:
            # gunicorn has logged why; this ends the arbiter as well.
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR)
        cfg, log = self.cfg, self.log
        self.heads_reader = Heads(cfg)
        self.environs.reopen()
        self.may_upgrade_to_h2c = cfg.http2_cleartext in ("upgrade", "both")
        self.may_begin_with_h2c = cfg.http2_cleartext in ("prior-knowledge", "both")
        self.pre_request = compat.pre_request_hook(cfg, log)
        self.post_request = compat.post_request_hook(cfg)
        logs = type(log).access is not Logger.access or log.access_log_enabled
        self.access = log.access if logs else None
        self.disconnect_grace = cfg.asgi_disconnect_grace_period
        self.max_kept = self.worker_connections - cfg.threads
        connection = HTTP1Connection
        self.heads = Deadlines(self.loop, cfg.timeout, connection.overdue)
        self.kept = Deadlines(self.loop, cfg.keepalive, connection.close_if_idle)
        self.unread = Deadlines(self.loop, cfg.timeout, connection.read_nothing)
        self.lingering = Deadlines(self.loop, LINGER, connection.lingered_enough)

    async def _beat(self) -> None:
        """Notify the arbiter once a second that this worker lives, until the worker is to stop."""
        while self.alive:
            if self._lives():
                self.notify()
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                self.signalled = True
                break
            try:
                await asyncio.wait_for(self.wake.wait(), 1.0)
            except TimeoutError:
                continue

    def _lives(self) -> bool:
        return True

    async def _beat_on(self) -> None:
        # In a reload, the arbiter watches workers that are about to end as well.
        while True:
            self.notify()
            await asyncio.sleep(1.0)

    async def _shutdown(self) -> None:
        begin = self.loop.time()
        beat = asyncio.create_task(self._beat_on())
        streams.end()
        websockets = asyncio.create_task(
            sessions.end(self.closing_code(), self.cfg.graceful_timeout)
        )
        requests = asyncio.create_task(self._end_requests())
        self._set_accepting(False)
        idle = asyncio.create_task(self._close_idle_connections())
        await super()._shutdown()  # returns when no connection is left, or when time is up
        idle.cancel()
        self.drained.set()
        await asyncio.wait([requests])
        await asyncio.wait([websockets], timeout=QUICK if self.quick.is_set() else None)
        # The tasks that are left do not end by themselves.
        self._quick_shutdown = True
        self._stop()
        await self.home.end(self._time_left(begin))
        beat.cancel()

    def _time_left(self, begin: float) -> float:
        """Return the time for what is still to end, when a shutdown has begun, in seconds."""
        if self.quick.is_set():
            return QUICK
        timeout: float = self.cfg.graceful_timeout
        margin = min(QUICK, timeout / 4) / 4
        left: float = begin + timeout - self.loop.time()
        return max(left, 2 * margin) - margin

    async def _close_idle_connections(self) -> None:
        # A client may be sending a request, the first one or another.
        await asyncio.sleep(LAST_REQUESTS)
        while True:
            for task in self._connecting:
                task.cancel()
            for connection in tuple(self.connections):
                connection.close_if_idle()
            await asyncio.sleep(0.1)

    async def _end_requests(self) -> None:
        """Wait for requests, and cancel the rest before the arbiter kills this worker."""
        margin = min(QUICK, self.cfg.graceful_timeout / 4)
        done = [asyncio.create_task(wait) for wait in (self._requests_ended(), self.quick.wait())]
        await asyncio.wait(
            done, timeout=self.cfg.graceful_timeout - margin, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.cancel()
        if self.requests:
            if not self.quick.is_set():
                self.log.warning(
                    "%d requests did not end in time and are cancelled. All threads:\n%s",
                    len(self.requests),
                    stacks(),
                )
            for request in tuple(self.requests):
                request.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.idle.wait(), margin / 2)
        self._quick_shutdown = True
        self.home.give_up()

    async def _requests_ended(self) -> None:
        # Until all connections are gone, another request may come. And a request may
        # outlive its connection, when its client has left.
        await self.drained.wait()
        await self.idle.wait()

    def _cleanup(self) -> None:
        self._ignore_exit_signals()
        super()._cleanup()
        for signum in EXIT_SIGNALS:
            # Unlike SIG_IGN, subprocesses of hooks do not inherit a handler.
            signal.signal(signum, lambda signum, frame: None)
        # Cancelled tasks may still have needed threads.
        for executor in (self.executor, self.callbacks):
            executor.shutdown(wait=False, cancel_futures=True)
        hook = self.cfg.worker_exit

        def worker_exit(server: Any, worker: Any) -> None:
            try:
                hook(server, worker)
            finally:
                leave_threads_behind()

        self.cfg.set("worker_exit", worker_exit)

    def _ignore_exit_signals(self) -> None:
        """
        Ignore signals that ask for what already happens.

        A loop that closes would give them back their default, which ends the process before
        its ``worker_exit`` hook; and asyncio's loops get a signal at that moment in a state in
        which they cannot handle it.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_SIGNALS)
        for signum in EXIT_SIGNALS:
            self.loop.remove_signal_handler(signum)
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_SIGNALS)


def leave_threads_behind() -> None:
    """Exit if jobs of an executor do not end, because Python would wait for them."""
    jobs = [thread for thread in threading.enumerate() if thread.name.startswith(EXECUTORS)]
    for thread in jobs:
        thread.join(0.1 / len(jobs))  # idle ones end by themselves
    if any(thread.is_alive() for thread in jobs):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class AsyncGunicornWorker(LoopWorker):
    """
    Runs each request in a thread, and the coroutines that it waits for on the event loop.

    gunicorn's settings mean what they mean for its own workers. ``threads`` is
    the number of requests that may begin to run plain code at a time; with 1,
    gunicorn's default, it is 16. Requests that wait for coroutines do not count.
    """

    def _start(self, threads: int) -> None:
        self.threads = RequestThreads(self.home, threads)
        self.log.info(
            "aiopyramid: %d request threads (setting: threads); requests that wait do not count",
            threads,
        )

    def _stop(self) -> None:
        self.threads.close()

    def run_plain(self, has_left: Callable[[], bool]) -> RunPlain[Any]:
        """Let a request thread run the plain code of a request."""

        def run_plain(func: Callable[[], T]) -> Awaitable[T]:
            call = self.threads.call(func)
            call.has_left = has_left
            return call.result()

        return run_plain

    def run_exchange(self, exchange: Exchange) -> None:
        """Let a request thread run the plain code of an exchange."""
        call = exchange.call = ExchangeCall(exchange, self.threads)
        call.submit()

    def _lives(self) -> bool:
        stalled = self.threads.stalled()
        if not self.timeout or stalled < self.cfg.timeout:
            return True
        self.log.critical(
            "No request has made progress for %d s, and %d requests are queued. All threads:\n%s",
            stalled,
            len(self.threads.queue),
            stacks(),
        )
        os.utime(self.tmp.fileno(), (0, 0))  # as if the heart had stopped when they did
        return False


class LoopGunicornWorker(LoopWorker):
    """
    Runs each request in a greenlet on the event loop, and its plain view in a thread.

    For applications whose plain code, apart from views, neither blocks nor
    keeps state in thread-locals. ``threads`` is the number of threads for plain
    views; with 1, gunicorn's default, it is 16.
    """

    @classmethod
    def setup(cls) -> None:
        """Called by gunicorn before the application is loaded: check that it is fit."""
        super().setup()
        fitness.required = True

    def run_plain(self, has_left: Callable[[], bool]) -> RunPlain[Any]:
        """Run the plain code of a request in a greenlet."""

        def run_plain(func: Callable[[], T]) -> Awaitable[T]:
            return spawn_greenlet(in_greenlet, func)

        def in_greenlet(func: Callable[[], T]) -> T:
            cancel_as(lambda exc: request_interruption(client_left=has_left()))
            return func()

        return run_plain

    def run_exchange(self, exchange: Exchange) -> None:
        """Run the plain code of an exchange in a greenlet."""
        task = exchange.task = self.loop.create_task(
            self.run_plain(exchange.connection.has_left)(exchange.run)
        )
        task.add_done_callback(exchange.task_ended)
