from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import socket
import ssl
import threading
from types import SimpleNamespace

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from websockets.frames import CloseCode

from aiopyramid import fitness, homes
from aiopyramid.bridge import await_, in_worker_thread
from aiopyramid.exceptions import ScopeError
from aiopyramid.homes import home_here
from aiopyramid.websocket.sessions import sessions
from aiopyramid_gunicorn import worker as module
from aiopyramid_gunicorn.compat import ASGIWorker
from aiopyramid_gunicorn.worker import AsyncGunicornWorker, Generation, LoopGunicornWorker

BOTH = pytest.mark.parametrize("kind", [AsyncGunicornWorker, LoopGunicornWorker])


@pytest.fixture(autouse=True)
def process_as_found(monkeypatch):
    """Keep workers from changing the process of the tests."""
    for name in ("process_home", "obstacle"):
        monkeypatch.setattr(homes, name, getattr(homes, name))
    # Applications of other tests, which may be there still.
    monkeypatch.setattr(module.lifespan, "_lifespans", [])
    monkeypatch.setattr(module, "generation", Generation())
    monkeypatch.setattr(module, "refuse_on_loop", lambda: None)
    monkeypatch.setattr(module, "let_the_loop_in", lambda: None)
    monkeypatch.setattr(module, "collect_less", lambda: None)


@pytest.fixture
async def worker_here(new_worker):
    """Make a worker on the running loop."""

    def worker_here(kind=LoopGunicornWorker, **options):
        worker = new_worker(kind, **options)
        worker.loop = asyncio.get_running_loop()
        worker.set_home(home_here())
        return worker

    return worker_here


def test_each_configuration_is_a_generation():
    generation = Generation()
    old, new = Config(), Config()
    assert [generation.of(cfg) for cfg in (old, old, new)] == [1, 1, 2]
    assert generation.latest() == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_sees_later_generations():
    generation = Generation()
    generation.of(Config())
    read, write = os.pipe()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:  # as a worker, which sees what the arbiter does from now on
        os.read(ready, 1)
        os.write(write, bytes([generation.latest()]))
        os._exit(0)
    generation.of(Config())
    os.write(go, b"x")
    assert os.read(read, 1) == b"\2"
    os.waitpid(child, 0)
    for fd in (read, write, ready, go):
        os.close(fd)


@pytest.mark.parametrize(
    ("signalled", "reloaded", "code"),
    [
        (True, False, CloseCode.GOING_AWAY),
        (True, True, CloseCode.SERVICE_RESTART),
        (False, False, CloseCode.SERVICE_RESTART),  # such as max_requests
    ],
)
def test_the_closing_code_tells_a_stop_from_a_restart(new_worker, signalled, reloaded, code):
    worker = new_worker()
    if signalled:
        worker.handle_exit_signal()
    if reloaded:
        new_worker()
    assert worker.closing_code() == code


@pytest.mark.parametrize(
    ("name", "quick"), [("handle_exit_signal", False), ("handle_quit_signal", True)]
)
def test_a_signal_stops_the_worker(new_worker, name, quick):
    worker = new_worker()
    getattr(worker, name)()
    assert not worker.alive
    assert worker.wake.is_set()
    assert worker.quick.is_set() is quick
    assert worker._quick_shutdown is quick


def test_the_abort_signal_stops_the_worker_quickly(new_worker):
    worker = new_worker()
    with pytest.raises(SystemExit):
        worker.handle_abort_signal()
    assert worker._quick_shutdown
    assert not worker.signalled


def test_threads_is_a_setting_that_is_not_warned_about(new_worker):
    worker = new_worker(threads=4)
    worker.check_config(worker.cfg, worker.log)
    assert worker.log.lines == []


@pytest.mark.parametrize("configured", [True, False])
def test_logging_that_nobody_has_configured_goes_where_gunicorns_goes(
    new_worker, monkeypatch, configured
):
    logger, handler, own = logging.getLogger("aiopyramid"), object(), logging.NullHandler()
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [own] if configured else [])
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(ASGIWorker, "init_process", lambda self: None)
    worker = new_worker()
    worker.log.error_log = SimpleNamespace(handlers=[handler], level=logging.ERROR)
    worker.init_process()
    assert logger.handlers == ([own] if configured else [handler])


async def coroutine():
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


def test_the_application_is_wsgi_and_can_wait_while_it_is_loaded(new_worker):
    def load():
        loops.append(await_(coroutine()))
        return "the application"

    worker, loops = new_worker(), []
    worker.app.wsgi = load
    with contextlib.closing(asyncio.new_event_loop()) as worker.loop:
        worker.load_wsgi()
        assert loops == [worker.loop]
    worker.callbacks.shutdown()
    assert worker.wsgi == "the application"
    assert worker.asgi is module.serve


@BOTH
def test_an_application_that_is_preloaded_cannot_wait(kind, monkeypatch):
    monkeypatch.setattr(fitness, "required", False)
    kind.setup()
    with pytest.raises(ScopeError, match=r"add_lifespan(.|\n)*set preload_app = False"):
        await_(coroutine())


def test_an_application_for_loop_requests_must_be_fit(monkeypatch):
    monkeypatch.setattr(fitness, "required", False)
    LoopGunicornWorker.setup()
    assert fitness.required


# Plain code.


@pytest.fixture
async def runner(worker_here):
    """Return what runs plain code in a worker; stop it in the end."""
    workers = []

    def runner(kind, has_left=lambda: False):
        worker = worker_here(kind)
        worker._start(1)
        workers.append(worker)
        return worker.run_plain(has_left)

    yield runner
    for worker in workers:
        worker._stop()


@pytest.mark.parametrize(
    ("kind", "in_thread"), [(AsyncGunicornWorker, True), (LoopGunicornWorker, False)]
)
async def test_plain_code_runs_where_it_can_wait(runner, kind, in_thread):
    async def coroutine():
        return threading.current_thread()

    def plain():
        return in_worker_thread(), await_(coroutine())

    assert await runner(kind)(plain) == (in_thread, threading.current_thread())


@BOTH
@pytest.mark.parametrize(
    ("left", "error"), [(True, ConnectionError), (False, concurrent.futures.CancelledError)]
)
async def test_plain_code_that_is_cancelled_learns_whether_the_client_left(
    runner, kind, left, error
):
    began = asyncio.Event()
    errors = []

    async def coroutine():
        began.set()
        await asyncio.Event().wait()

    def plain():
        try:
            await_(coroutine())
        except Exception as exc:
            errors.append(exc)
            raise

    task = asyncio.ensure_future(runner(kind, lambda: left)(plain))
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    assert isinstance(errors.pop(), error)
    with pytest.raises((asyncio.CancelledError, error)):
        task.result()


# Life.


def number_of_threads(worker):
    if isinstance(worker, AsyncGunicornWorker):
        assert worker.threads.places == worker.executor._max_workers
    assert worker.callbacks._max_workers == worker.executor._max_workers
    return worker.executor._max_workers


@BOTH
@pytest.mark.parametrize(("setting", "number"), [(1, module.THREADS), (2, 2), (40, 40)])
async def test_the_setting_threads_is_the_number_of_threads(worker_here, kind, setting, number):
    worker = worker_here(kind, threads=setting)
    worker.handle_exit_signal()
    await worker._serve()
    assert number_of_threads(worker) == number
    assert sessions.ending == CloseCode.GOING_AWAY
    worker.callbacks.shutdown()


async def test_a_worker_serves_until_it_is_told_to_stop(worker_here):
    began = asyncio.Event()

    def hello(environ, start_response):
        began.set()
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    worker = worker_here(AsyncGunicornWorker, wsgi=hello, asgi_loop="asyncio")
    listener = socket.create_server(("127.0.0.1", 0))
    worker.sockets = [SimpleNamespace(sock=listener)]
    serving = asyncio.create_task(worker._serve())
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"hello")
    writer.close()
    await writer.wait_closed()
    assert not serving.done()
    worker.handle_exit_signal()
    await serving
    assert worker.threads.closed
    assert worker.home.given_up.done()
    worker.callbacks.shutdown()
    listener.close()


@pytest.fixture
def enter(monkeypatch):
    """Let workers enter a lifespan, until a test says how it ends."""
    ends = asyncio.Queue()

    async def enter():
        end = await ends.get()
        if end is not None:
            raise end

    monkeypatch.setattr(module.lifespan, "entering", enter)
    return ends


async def test_a_worker_serves_when_lifespans_are_entered(worker_here, enter):
    left = []

    async def leave():
        left.append(worker.threads.closed)

    worker = worker_here(AsyncGunicornWorker)
    worker.home.endings.append(leave)
    serving = asyncio.create_task(worker._serve())
    await asyncio.sleep(0)
    assert not worker._accepting
    enter.put_nowait(None)
    while not worker._accepting:
        await asyncio.sleep(0)
    worker.handle_exit_signal()
    await serving
    assert left == [True]
    worker.callbacks.shutdown()


async def test_a_lifespan_that_cannot_be_entered_stops_the_arbiter(worker_here, enter):
    left = []

    async def leave():
        left.append("another one")

    worker = worker_here()
    worker.home.endings.append(leave)
    enter.put_nowait(ValueError("no database"))
    with pytest.raises(SystemExit) as caught:
        await worker._serve()
    assert caught.value.code == Arbiter.WORKER_BOOT_ERROR
    assert left == ["another one"]
    assert ("error", "A lifespan could not be entered") in worker.log.lines
    worker.callbacks.shutdown()


async def test_a_worker_that_is_told_to_stop_does_not_wait_for_lifespans(worker_here, enter):
    worker = worker_here()
    serving = asyncio.create_task(worker._serve())
    await asyncio.sleep(0)
    worker.handle_exit_signal()
    await serving
    assert not worker._accepting
    worker.callbacks.shutdown()


@pytest.mark.parametrize("signum", module.EXIT_SIGNALS)
async def test_a_signal_that_comes_while_the_application_is_loaded_stops_the_worker(
    worker_here, monkeypatch, signum
):
    handlers = {number: signal.getsignal(number) for number in module.EXIT_SIGNALS}
    monkeypatch.setattr(ASGIWorker, "init_signals", lambda self: None)
    worker = worker_here()
    try:
        worker.init_signals()
        signal.raise_signal(signum)
        assert worker.alive
        await worker._serve()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not worker.alive
    assert worker.signalled
    assert not worker._accepting
    assert worker.quick.is_set() is (signum != signal.SIGTERM)
    worker.callbacks.shutdown()


async def test_a_worker_that_should_not_go_on_makes_room_for_another(worker_here):
    worker = worker_here()
    serving = asyncio.create_task(worker._serve())
    while not worker._accepting:
        await asyncio.sleep(0)
    worker.home.stop(ValueError("the reason"))
    await serving
    assert sessions.ending == CloseCode.SERVICE_RESTART
    assert any("ends because of ValueError('the reason')" in text for _, text in worker.log.lines)
    worker.callbacks.shutdown()


@pytest.mark.parametrize(
    ("quick", "passed", "seconds"), [(True, 3, 1), (False, 3, 26.75), (False, 40, 0.25)]
)
async def test_lifespans_end_in_what_is_left_of_the_graceful_timeout(
    worker_here, quick, passed, seconds
):
    worker = worker_here()
    if quick:
        worker.quick.set()
    begin = worker.loop.time() - passed
    assert worker._time_left(begin) == pytest.approx(seconds, abs=0.1)
    worker.callbacks.shutdown()


class Listener:
    """A listener's socket, from which connections come as a test says."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.sock = self

    def fileno(self):
        return -1

    def getsockname(self):
        return ("127.0.0.1", 80)

    def accept(self):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, ("192.0.2.1", 1234)


@pytest.fixture
async def accepting(worker_here, monkeypatch):
    """Make a worker whose listener has some outcomes, and which remembers when it listens."""

    def accepting(*outcomes, **settings):
        worker = worker_here(**settings)
        worker._prepare()
        listener = Listener(*outcomes)
        worker.sockets = [listener]
        worker.listens = []
        worker.later = []
        loop = SimpleNamespace(
            add_reader=lambda *args: worker.listens.append(True),
            remove_reader=lambda *args: worker.listens.append(False),
            call_later=lambda delay, function: worker.later.append((delay, function)),
            create_task=asyncio.get_running_loop().create_task,
            connect_accepted_socket=asyncio.get_running_loop().connect_accepted_socket,
        )
        monkeypatch.setattr(worker, "loop", loop)
        worker._set_accepting(True)
        return worker, listener

    return accepting


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError(), ConnectionAbortedError()])
async def test_a_connection_that_another_worker_has_is_no_error(accepting, error):
    worker, listener = accepting(error)
    worker._accept(listener)
    assert worker.listens == [True]
    assert (worker.nr_conns, worker.log.lines) == (0, [])


async def test_a_system_that_gives_no_connection_is_asked_again_later(accepting):
    worker, listener = accepting(OSError(24, "Too many open files"))
    worker._accept(listener)
    assert worker.listens == [True, False]
    assert worker.log.lines == [
        ("error", "Cannot accept a connection: [Errno 24] Too many open files")
    ]
    ((delay, again),) = worker.later
    assert delay == module.ACCEPT_AGAIN
    again()
    assert worker.listens == [True, False, True]


async def test_no_more_connections_are_accepted_than_there_may_be(accepting):
    ours, theirs = socket.socketpair()
    worker, listener = accepting(ours, worker_connections=1)
    worker._accept(listener)
    assert worker.listens == [True, False]
    while not worker.connections:
        await asyncio.sleep(0)
    assert worker.nr_conns == 1
    theirs.close()
    while worker.connections:
        await asyncio.sleep(0)
    assert worker.nr_conns == 0
    assert worker.listens == [True, False, True]


async def test_a_worker_that_ends_accepts_nothing_more(accepting):
    worker, _ = accepting()
    worker._set_accepting(False)
    worker.alive = False
    worker.accept_again()
    assert worker.listens == [True, False]


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_tls_handshake_that_comes_to_nothing_is_forgotten(accepting, how):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    worker, listener = accepting(ours)
    worker.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    worker._accept(listener)
    assert worker.nr_conns == 1
    (task,) = worker._connecting
    await asyncio.sleep(0)
    if how == "fails":
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    else:
        task.cancel()
    await asyncio.wait([task])
    assert (worker.nr_conns, worker._connecting) == (0, set())
    theirs.close()
    ours.close()


async def test_settings_that_cannot_be_stop_the_start(new_worker):
    worker = new_worker(http_parser="fast", permit_obsolete_folding=True)
    with pytest.raises(RuntimeError, match="http_parser='fast' is incompatible"):
        worker.check_config(worker.cfg, worker.log)


async def test_reopened_logs_get_the_errors_of_applications(worker_here):
    worker = worker_here()
    before = worker.environs.errors
    worker.log.reopen_files = lambda: None
    worker.handle_usr1_signal()
    assert worker.environs.errors is not before


async def test_without_its_certificate_a_worker_ends_the_arbiter(worker_here):
    worker = worker_here(certfile="/dev/null")
    with pytest.raises(SystemExit) as caught:
        worker._prepare()
    assert caught.value.code == Arbiter.WORKER_BOOT_ERROR


async def test_a_worker_without_its_arbiter_stops(worker_here):
    worker = worker_here()
    worker.ppid = -1
    await worker._beat()
    assert worker.signalled
    assert any("Parent changed" in text for _, text in worker.log.lines)


async def test_the_heart_beats_once_a_second_until_the_worker_stops(worker_here, monkeypatch):
    worker = worker_here()
    beats, timeouts = [], []

    async def wait_for(awaitable, timeout):
        awaitable.close()
        timeouts.append(timeout)
        if len(timeouts) == 3:
            worker.alive = False
        raise TimeoutError

    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    worker.notify = lambda: beats.append(1)
    await worker._beat()
    assert len(beats) == 3
    assert timeouts == [1.0] * 3


@pytest.mark.parametrize(
    ("timeout", "stalled", "lives"), [(30, 29, True), (30, 30, False), (0, 1000, True)]
)
def test_the_heart_stops_when_no_request_makes_progress(new_worker, timeout, stalled, lives):
    worker = new_worker(AsyncGunicornWorker, timeout=timeout)
    worker.timeout = timeout
    worker.threads = SimpleNamespace(stalled=lambda: stalled, queue=[1, 2])
    assert worker._lives() is lives
    assert (worker.tmp.last_update() == 0) is not lives
    errors = [text for level, text in worker.log.lines if level == "critical"]
    assert bool(errors) is not lives
    if errors:
        assert errors[0].startswith(f"No request has made progress for {stalled} s, and 2 req")
        assert "test_worker.py" in errors[0]


async def begin_request(worker, until):
    """Begin a request that ends with an event."""
    began = asyncio.Event()

    async def request():
        worker.request_begins()
        began.set()
        try:
            await until.wait()
        finally:
            worker.request_ends()

    task = asyncio.create_task(request())
    await began.wait()
    return task


async def test_requests_that_end_are_waited_for(worker_here):
    worker, end = worker_here(), asyncio.Event()
    request = await begin_request(worker, end)
    ending = asyncio.create_task(worker._end_requests())
    end.set()
    await request
    assert worker.idle.is_set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ending.done()  # another request may come
    worker.drained.set()
    await ending
    assert not request.cancelled()
    assert worker.log.lines == []
    assert worker.home.given_up.done()


async def test_requests_that_do_not_end_are_cancelled_and_told(worker_here):
    worker = worker_here(graceful_timeout=0)
    request = await begin_request(worker, asyncio.Event())
    await worker._end_requests()
    await asyncio.wait([request])
    assert request.cancelled()
    ((level, text),) = worker.log.lines
    assert level == "warning"
    assert text.startswith("1 requests did not end in time and are cancelled. All threads:")
    assert worker._quick_shutdown
    assert worker.home.given_up.done()


async def test_a_quick_stop_cancels_requests_without_a_word(worker_here):
    worker = worker_here()
    request = await begin_request(worker, asyncio.Event())
    ending = asyncio.create_task(worker._end_requests())
    await asyncio.sleep(0)
    worker.handle_quit_signal()
    await ending
    assert request.cancelled()
    assert worker.log.lines == []


async def test_a_worker_is_idle_when_its_last_request_has_ended(worker_here):
    worker, first, second = worker_here(), asyncio.Event(), asyncio.Event()
    requests = [await begin_request(worker, event) for event in (first, second)]
    first.set()
    await requests[0]
    assert not worker.idle.is_set()
    second.set()
    await requests[1]
    assert worker.idle.is_set()


# The end of the process.


@pytest.fixture
def exit_signals():
    """Give the test's process its handlers back."""
    handlers = {signum: signal.getsignal(signum) for signum in module.EXIT_SIGNALS}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("exit_signals")
def test_threads_are_left_behind_after_the_hook(new_worker, monkeypatch):
    order = []
    monkeypatch.setattr(module, "leave_threads_behind", lambda: order.append("threads"))

    def hook(server, worker):
        order.append((server, worker))
        raise ValueError

    worker = new_worker(worker_exit=hook)
    while_it_closes = []

    class Loop(asyncio.SelectorEventLoop):
        def close(self):
            while_it_closes.extend(map(signal.getsignal, module.EXIT_SIGNALS))
            super().close()

    worker.loop = Loop()
    worker.executor = concurrent.futures.ThreadPoolExecutor(1)
    worker.callbacks = concurrent.futures.ThreadPoolExecutor(1)
    worker.loop.add_signal_handler(signal.SIGTERM, print)
    worker._cleanup()
    assert while_it_closes == [signal.SIG_IGN] * 3
    assert worker.loop.is_closed()
    for signum in module.EXIT_SIGNALS:
        assert callable(signal.getsignal(signum))  # SIG_IGN would be inherited by subprocesses
        signal.raise_signal(signum)
    for executor in (worker.executor, worker.callbacks):
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(print)
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        worker.cfg.worker_exit("server", "worker")
    assert order == [("server", "worker"), "threads"]


@pytest.mark.parametrize(
    ("name", "exits"),
    [(name, [0]) for name in module.EXECUTORS] + [("another", [])],
)
def test_jobs_that_do_not_end_do_not_keep_the_process(monkeypatch, name, exits):
    found, end = [], threading.Event()
    monkeypatch.setattr(os, "_exit", found.append)
    job = threading.Thread(target=end.wait, name=f"{name}_0")
    job.start()
    try:
        module.leave_threads_behind()
    finally:
        end.set()
        job.join()
    assert found == exits


def test_jobs_that_end_are_waited_for(monkeypatch):
    found = []
    monkeypatch.setattr(os, "_exit", found.append)
    with concurrent.futures.ThreadPoolExecutor(2, module.EXECUTOR) as executor:
        executor.submit(int).result()
        executor.shutdown(wait=False)
        module.leave_threads_behind()
    assert found == []
