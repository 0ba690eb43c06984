import asyncio
import concurrent.futures
import contextlib
import gc
import queue
import sys
import threading
import time
import weakref
from collections import deque
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from aiopyramid import bridge
from aiopyramid import request_threads as request_threads_module
from aiopyramid.bridge import await_, run_coroutine, spawn_greenlet
from aiopyramid.exceptions import ClientDisconnected, ScopeError
from aiopyramid.helpers import synchronize, use_executor, use_request_thread
from aiopyramid.homes import Home, LoopClosed, home_here
from aiopyramid.request_threads import (
    BUSY,
    EAGER,
    SAMPLE,
    STUCK,
    RequestThreads,
    run_as_request,
    stacks,
)

pytestmark = pytest.mark.both_loops

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Oops(Exception):
    pass


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


async def forever(started=None):
    if started is not None:
        started.set()
    await asyncio.get_running_loop().create_future()


async def rounds(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def pools():
    """Make pools, and end their threads."""
    made = []

    def make(*args, **options):
        made.append(RequestThreads(home_here(), *args, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


async def until(condition):
    try:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(stacks()) from None


async def in_thread(func, *args, **kwargs):
    """Run plain code as a request, in threads of its own."""
    pool = RequestThreads(home_here(), 4)
    try:
        return await pool.call(func, *args, **kwargs).result()
    finally:
        pool.close()


here = threading.get_ident


# One thread


async def test_a_request_waits_and_goes_on_in_its_thread():
    def request(number, *, plus):
        before = here()
        value = await_(double(number)) + synchronize(double)(plus) + run_coroutine(double(1))
        return value, before == here() != threading.main_thread().ident

    assert await in_thread(request, 1, plus=10) == (24, True)


async def test_an_exception_comes_out_with_the_frames_of_the_request():
    def helper():
        raise Oops

    with pytest.raises(Oops) as caught:
        await in_thread(helper)
    assert "helper" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_what_would_end_the_loop_ends_the_request_alone(error):
    async def coroutine():
        await asyncio.sleep(0)
        raise error("in a coroutine")

    def request():
        try:
            await_(coroutine())
        except BaseException as exc:
            return type(exc)

    expected = concurrent.futures.CancelledError if error is asyncio.CancelledError else error
    assert await in_thread(request) is expected


async def test_stop_iteration_becomes_a_runtime_error():
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await in_thread(next, iter(()))


async def test_its_thread_uses_no_greenlets(monkeypatch):
    """A thread that has used greenlet's functions must not end while garbage is collected."""
    getcurrent = bridge.greenlet.getcurrent

    def checked():
        assert threading.current_thread() is threading.main_thread()
        return getcurrent()

    def request():
        assert bridge.can_wait()
        lenient = synchronize(strict=False)(double)
        return await_(double(1)), run_coroutine(double(1)), synchronize(double)(1), lenient(1)

    async def view():
        return await use_request_thread(request)(), await use_executor(request)()

    monkeypatch.setattr(bridge.greenlet, "getcurrent", checked)
    assert await in_thread(request) == (2, 2, 2, 2)
    assert await in_thread(lambda: run_coroutine(view())) == ((2, 2, 2, 2),) * 2


# Context


async def test_context_is_copied_in_and_what_was_set_is_copied_back():
    async def coroutine():
        seen.append(variable.get())
        variable.set("by the coroutine")

    def request():
        seen.append(variable.get())
        variable.set("by the request")
        await_(coroutine())
        seen.append(variable.get())

    seen = []
    variable.set("by the caller")
    await in_thread(request)
    assert seen == ["by the caller", "by the request", "by the coroutine"]
    assert variable.get() == "by the coroutine"


@pytest.mark.parametrize("how", ["error", "cancellation"])
async def test_context_is_copied_back_on_errors_and_cancellations(how):
    started = asyncio.Event()

    async def coroutine():
        variable.set("by the coroutine")
        if how == "error":
            raise Oops
        await forever(started)

    def request():
        try:
            await_(coroutine())
        finally:
            seen.append(variable.get())

    seen = []

    async def caller():
        try:
            await in_thread(request)
        finally:
            seen.append(variable.get())

    task = asyncio.create_task(caller())
    if how == "cancellation":
        await started.wait()
        task.cancel()
    with pytest.raises((Oops, asyncio.CancelledError)):
        await task
    assert seen == ["by the coroutine"] * 2


async def test_tokens_do_not_cross():
    async def reset(token):
        variable.reset(token)

    def request():
        token = variable.set("by the request")
        with pytest.raises(ValueError, match="different Context"):
            await_(reset(token))

    await in_thread(request)


# Exceptions that are being handled


@pytest.mark.parametrize(
    "wait", [lambda: await_(look()), lambda: run_coroutine(look()), lambda: synchronize(look)()]
)
async def test_a_coroutine_sees_the_exception_that_the_request_handles(wait):
    def request():
        try:
            raise Oops
        except Oops as exc:
            frames = exc.__traceback__
            seen = wait()
            return seen is exc and exc.__traceback__ is frames and exc.__context__ is None

    assert await in_thread(request)
    assert await spawn_greenlet(request)


async def look():
    await asyncio.sleep(0)
    below = await use_executor(sys.exception)()
    assert below is sys.exception()
    return below


async def test_a_coroutine_may_raise_it_again_with_its_frames():
    async def again():
        await asyncio.sleep(0)
        raise

    def helper():
        raise Oops

    def request():
        try:
            helper()
        except Oops:
            run_coroutine(again())

    with pytest.raises(Oops) as caught:
        await in_thread(request)
    names = [entry.name for entry in caught.traceback]
    assert {"helper", "request"} <= set(names)


async def test_without_one_a_coroutine_sees_none():
    assert await in_thread(lambda: await_(look())) is None


# use_request_thread


async def test_a_coroutine_runs_plain_code_in_the_thread_of_its_request():
    async def view():
        assert here() == threading.main_thread().ident
        return await use_request_thread(here)()

    def request():
        return here() == run_coroutine(view()) == await_(view())

    assert await in_thread(request)


async def test_its_calls_run_one_at_a_time_in_order():
    running = 0
    order = []

    def call(number):
        nonlocal running
        running += 1
        assert running == 1
        order.append(number)
        running -= 1
        return number

    async def view():
        return await asyncio.gather(*(use_request_thread(call)(n) for n in range(20)))

    assert await in_thread(lambda: run_coroutine(view())) == list(range(20)) == order


async def test_its_calls_may_wait_for_coroutines_that_make_such_calls():
    def down(level):
        return [here()] if not level else [here(), *await_(further(level - 1)), here()]

    async def further(level):
        return await use_request_thread(down)(level)

    threads = await in_thread(down, 5)
    assert len(threads) == 11
    assert len(set(threads)) == 1


async def test_below_an_executor_it_still_is_the_request_s_thread():
    async def coroutine():
        return await use_request_thread(here)()

    async def view():
        return await use_executor(lambda: (here(), await_(coroutine())))()

    def request():
        elsewhere, mine = run_coroutine(view())
        return mine == here() != elsewhere

    assert await in_thread(request)


async def test_its_exceptions_and_context_come_back():
    @use_request_thread
    def plain(*, fail):
        variable.set("by plain code")
        if fail:
            raise Oops

    @use_request_thread()
    def decorated():
        return "decorated"

    async def view():
        await plain(fail=False)
        assert variable.get() == "by plain code"
        variable.set("by the view")
        with pytest.raises(Oops):
            await plain(fail=True)
        assert variable.get() == "by plain code"
        return await decorated()

    assert await in_thread(lambda: run_coroutine(view())) == "decorated"


async def test_where_no_thread_waits_it_is_refused():
    with pytest.raises(ScopeError, match="get_ident cannot run .*\nUse .*helpers.use_executor"):
        await use_request_thread(here)()
    with pytest.raises(ScopeError):
        await spawn_greenlet(lambda: await_(use_request_thread(here)()))
    with pytest.raises(ScopeError):
        await use_executor(lambda: await_(use_request_thread(here)()))()


async def test_a_task_that_outlives_its_request_is_refused():
    go = asyncio.Event()

    async def later():
        await go.wait()
        await use_request_thread(here)()

    async def view():
        return asyncio.create_task(later())

    task = await in_thread(lambda: run_coroutine(view()))
    go.set()
    with pytest.raises(ScopeError):
        await task


async def test_cancelling_it_interrupts_its_plain_code_and_waits_for_it():
    started = asyncio.Event()
    steps = []

    def plain():
        try:
            await_(forever(started))
        except Exception as exc:
            steps.append(type(exc).__name__)
            assert await_(double(1)) == 2
            raise
        finally:
            steps.append("plain code ended")

    async def view():
        task = asyncio.create_task(use_request_thread(plain)())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        steps.append("view goes on")
        return await use_request_thread(here)()

    assert await in_thread(lambda: run_coroutine(view()) == here())
    assert steps == ["CancelledError", "plain code ended", "view goes on"]


async def test_what_has_not_begun_does_not_begin_when_cancelled(pools):
    go = threading.Event()
    steps = []
    pool = pools(4)

    async def view():
        first = asyncio.create_task(use_request_thread(go.wait)())
        second = asyncio.create_task(use_request_thread(steps.append)("second"))
        await rounds()
        second.cancel()
        await rounds()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await second
        return await first

    assert await pool.call(lambda: run_coroutine(view())).result()
    assert steps == []
    await until(lambda: pool.running == 0)


# The client leaves


@pytest.mark.parametrize("left", [True, False])
async def test_cancelling_a_request_interrupts_it_where_it_waits(left, pools, caplog):
    started = asyncio.Event()
    steps = []

    async def coroutine():
        try:
            await forever(started)
        except asyncio.CancelledError:
            steps.append("coroutine cancelled")
            raise
        finally:
            await asyncio.sleep(0.01)
            steps.append("coroutine ended")

    def request():
        try:
            await_(coroutine())
        except Exception as exc:
            steps.append(type(exc))
            steps.append(type(exc.__cause__))
            raise
        finally:
            steps.append("request ended")

    call = pools(4).call(request)
    call.has_left = lambda: left
    task = asyncio.create_task(call.result())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    expected = ClientDisconnected if left else concurrent.futures.CancelledError
    assert issubclass(ClientDisconnected, OSError)
    cause = asyncio.CancelledError
    assert steps == ["coroutine cancelled", "coroutine ended", expected, cause, "request ended"]
    assert not caplog.records


async def test_an_error_of_plain_code_that_was_cancelled_is_logged(caplog):
    started = asyncio.Event()

    def request():
        with contextlib.suppress(concurrent.futures.CancelledError):
            await_(forever(started))
        raise Oops("while cleaning up")

    task = asyncio.create_task(in_thread(request))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.text.count("Plain code failed after it was cancelled") == 1
    assert "Oops: while cleaning up" in caplog.text


async def test_plain_code_that_does_not_wait_goes_on_to_its_next_wait(no_warnings):
    started, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    steps = []

    def request():
        loop.call_soon_threadsafe(started.set)
        go.wait()
        steps.append("not interrupted")
        with pytest.raises(concurrent.futures.CancelledError):
            run_coroutine(double(1))
        steps.append(run_coroutine(double(2)))  # once only

    task = asyncio.create_task(in_thread(request))
    await started.wait()
    task.cancel()
    await rounds()
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["not interrupted", 4]


async def test_giving_up_leaves_a_thread_that_does_not_end():
    go = threading.Event()
    started = asyncio.Event()
    home = Home(asyncio.get_running_loop())
    loop = home.loop

    def request():
        loop.call_soon_threadsafe(started.set)
        go.wait()

    pool = RequestThreads(home, 1)
    call = pool.call(request)
    task = asyncio.create_task(call.result())
    await started.wait()
    task.cancel()
    await rounds()
    assert not task.done()
    home.give_up()
    with pytest.raises(asyncio.CancelledError):
        await task
    pool.close()
    go.set()
    await until(lambda: call.delivered)


# Places


class Blockers:
    """Requests that hold their places until told."""

    def __init__(self, pool, number):
        self.go = threading.Event()
        self.tasks = [asyncio.create_task(pool.call(self.go.wait).result()) for _ in range(number)]

    async def end(self):
        self.go.set()
        await asyncio.gather(*self.tasks)


async def test_only_so_many_requests_begin_at_a_time(pools):
    pool = pools(3)
    blockers = Blockers(pool, 10)
    await rounds()
    assert (pool.running, len(pool.queue), len(pool.inboxes)) == (3, 7, 3)
    await blockers.end()
    await until(lambda: pool.running == 0)
    assert (len(pool.queue), len(pool.inboxes), len(pool.idle)) == (0, 3, 3)


async def test_requests_that_wait_have_no_places_and_go_on_above_the_bound(pools):
    pool = pools(2)
    go = asyncio.Event()
    waiting = []

    async def coroutine():
        waiting.append(1)
        await go.wait()

    waiters = [
        asyncio.create_task(pool.call(lambda: await_(coroutine())).result()) for _ in range(50)
    ]
    await until(lambda: len(waiting) == 50)
    assert pool.running == 0
    blockers = Blockers(pool, 5)
    await until(lambda: pool.running == 2)
    assert len(pool.queue) == 3
    go.set()
    await asyncio.gather(*waiters)  # though both places are taken
    assert len(pool.queue) == 3
    await blockers.end()
    await until(lambda: pool.running == 0)


async def test_none_begins_in_place_of_one_that_a_thread_has_let_go_on(pools):
    class Ready(deque):
        """Empty for who looks twice: a thread was faster."""

        looks = 0

        def __bool__(self):
            self.looks += 1
            return self.looks == 1

    pool = pools(1)
    blockers = Blockers(pool, 2)
    await until(lambda: pool.running == 1)
    pool.ready = Ready()
    pool._next()
    assert (pool.running, len(pool.queue)) == (1, 1)
    pool.ready = deque()
    await blockers.end()


async def test_a_request_that_queues_can_be_cancelled(pools):
    pool = pools(1)
    blockers = Blockers(pool, 1)
    ran = []
    task = asyncio.create_task(pool.call(ran.append, 1).result())
    await rounds()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not pool.queue
    await blockers.end()
    assert ran == []


async def test_the_thread_that_was_used_last_is_used_first(pools):
    pool = pools(8)
    await Blockers(pool, 8).end()
    await until(lambda: pool.running == 0)
    used = set()
    for _ in range(10):
        used.add(await pool.call(here).result())
        await until(lambda: pool.running == 0)
    assert len(used) == 1


async def test_threads_above_the_places_end_when_they_have_nothing_to_do(pools):
    pool = pools(2, keep=0.01)
    go = asyncio.Event()
    waiters = [
        asyncio.create_task(pool.call(lambda: await_(go.wait())).result()) for _ in range(20)
    ]
    await until(lambda: len(pool.inboxes) == len(request_threads()) == 20)
    go.set()
    await asyncio.gather(*waiters)
    await until(lambda: len(pool.inboxes) == len(request_threads()) == 2)
    assert await pool.call(here).result()


def request_threads():
    return [each for each in threading.enumerate() if each.name.startswith("aiopyramid-request")]


async def test_closing_ends_threads_when_they_have_nothing_to_do():
    pool = RequestThreads(home_here(), 4)
    await Blockers(pool, 2).end()
    await until(lambda: pool.running == 0)
    blockers = Blockers(pool, 1)
    await until(lambda: pool.running == 1)
    pool.close()
    await until(lambda: len(request_threads()) == 1)
    await blockers.end()
    await until(lambda: not request_threads())
    assert await pool.call(here).result()  # too late, but not lost
    await until(lambda: not request_threads())


async def test_where_there_are_no_more_threads_requests_queue(monkeypatch, caplog, pools):
    pool = pools(4)
    real = threading.Thread.start
    started = []

    def start(thread):
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    results = await asyncio.gather(*(pool.call(lambda n=n: n).result() for n in range(20)))
    assert results == list(range(20))
    assert len(pool.inboxes) == 1
    assert "queue: the system gives no thread beyond 1 (can't start new thread)" in caplog.text


async def test_where_there_is_no_thread_at_all_requests_wait_for_one(monkeypatch, pools):
    pool = pools(4)
    real = threading.Thread.start
    refusals = 0

    def start(thread):
        nonlocal refusals
        if refusals < 2:
            refusals += 1
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert await pool.call(lambda: "ran").result() == "ran"
    assert refusals == 2


async def test_stalled_tells_for_how_long_requests_have_queued_in_vain(monkeypatch, pools):
    pool = pools(1)
    assert pool.stalled() == 0
    blockers = Blockers(pool, 1)
    await rounds()
    pool.moved -= 100
    assert pool.stalled() == 0, "one stuck request is nobody's obstacle"
    task = asyncio.create_task(pool.call(int).result())
    await rounds()
    assert pool.stalled() < 50, "it counts from the first that queues"
    pool.moved -= 100
    assert pool.stalled() > 50
    await blockers.end()
    assert await task == 0
    assert pool.stalled() == 0


# What is left


async def test_nothing_of_a_request_is_kept(pools):
    pool = pools(2)

    class Thing:
        pass

    things = []

    async def view(thing):
        await use_request_thread(lambda: thing)()
        await asyncio.sleep(0)

    async def failing(thing):
        raise Oops

    def request():
        thing = Thing()
        things.append(weakref.ref(thing))
        variable.set(thing)
        run_coroutine(view(thing))
        with contextlib.suppress(Oops):
            run_coroutine(failing(thing))
        await_(failing(thing))

    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with contextlib.suppress(Oops):
                await asyncio.create_task(pool.call(request).result())
        await until(lambda: pool.running == 0)
        await rounds()
        # Without the garbage collector: there are no cycles.
        assert [thing() for thing in things] == [None] * 5
    finally:
        gc.enable()


async def test_stacks_names_all_threads_and_what_they_do(pools):
    pool = pools(1)
    blockers = Blockers(pool, 1)
    await until(lambda: pool.running == 1)
    await until(lambda: ", in wait\n" in stacks())
    assert "Thread aiopyramid-request-1:" in stacks()
    assert "Thread MainThread:" in stacks()
    await blockers.end()


# A server's own threads


async def test_a_server_s_own_thread_is_its_request_s():
    home_here()

    async def view():
        return await use_request_thread(here)()

    def request():
        variable.set("by the request")
        return here() == run_coroutine(view())

    def thread():
        return run_as_request(request), variable.get()

    assert await asyncio.to_thread(thread) == (True, "unset")


def test_a_closed_loop_is_told():
    loop = asyncio.new_event_loop()

    async def make_home():
        return home_here()

    home = loop.run_until_complete(make_home())
    loop.close()
    for _ in range(2):
        with pytest.raises(LoopClosed):
            home.call(print)
    assert not home.ready


# As many threads as are of use


class Timers:
    """The loop of a pool, whose timers go off when a test says so."""

    def __init__(self, loop):
        self.loop = loop
        self.timers = []

    def time(self):
        return self.loop.time()

    def call_later(self, delay, function, context):
        assert function.__self__.home.context is context
        timer = SimpleNamespace(delay=delay, go_off=function)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def delays(self):
        return [timer.delay for timer in self.timers]

    def go_off(self):
        (timer,) = [timer for timer in self.timers if timer.delay == STUCK]
        timer.cancel()
        timer.go_off()


class Held:
    """A request that computes until told, and then may wait, and compute again."""

    def __init__(self, pool, *, waits=False):
        self.begun = self.went_on = False
        self.waits = waits
        self.waiting = asyncio.Event()
        self.answer = asyncio.Event()
        self.go, self.end = threading.Event(), threading.Event()
        if not waits:
            self.end.set()
        self.task = asyncio.create_task(pool.call(self.run).result())

    def run(self):
        self.begun = True
        self.go.wait()
        if self.waits:
            await_(self.wait())
            self.went_on = True
            self.end.wait()

    async def wait(self):
        self.waiting.set()
        await self.answer.wait()

    def finish(self):
        for event in (self.go, self.answer, self.end):
            event.set()


@pytest.fixture
async def busy_pool(pools):
    """Make a pool of a process that computes all of the time, while ``busy`` is true."""
    requests = []

    def make(places=8):
        pool = pools(places)
        pool.loop = Timers(pool.loop)
        pool.busy = True
        pool._is_busy = lambda: pool.busy
        pool.hold = lambda number=1, **options: hold(pool, number, **options)
        return pool

    def hold(pool, number, **options):
        made = [Held(pool, **options) for _ in range(number)]
        requests.extend(made)
        return made

    yield make
    for request in requests:
        request.finish()
    await asyncio.gather(*(request.task for request in requests))


def begun(requests):
    return [request.begun for request in requests].count(True)


async def test_a_process_that_is_not_busy_wakes_all_threads_at_once(busy_pool):
    pool = busy_pool()
    pool.busy = False
    requests = pool.hold(10)
    await until(lambda: begun(requests) == 8)
    assert (pool.running, len(pool.queue), pool.loop.delays()) == (8, 2, [])


async def test_a_busy_process_wakes_few_threads(busy_pool):
    pool = busy_pool()
    requests = pool.hold(10)
    await until(lambda: begun(requests) == EAGER)
    await rounds()
    assert (pool.running, len(pool.queue)) == (EAGER, 10 - EAGER)
    assert len(pool.inboxes) == EAGER, "threads that are not woken need not be"
    assert pool.loop.delays() == [STUCK], "one timer for all"


async def test_whether_it_is_busy_is_asked_only_if_more_than_few_threads_run(busy_pool):
    pool = busy_pool()
    pool._is_busy = lambda: pytest.fail("asked")
    requests = pool.hold(EAGER)
    await until(lambda: begun(requests) == EAGER)


async def test_places_are_the_bound_of_a_process_that_is_busy_too(busy_pool):
    pool = busy_pool(1)
    requests = pool.hold(3)
    await until(lambda: begun(requests) == 1)
    assert pool.running == 1
    assert pool.loop.delays() == []


async def test_the_others_turns_come_as_requests_end(busy_pool):
    pool = busy_pool()
    requests = pool.hold(6)
    for number, request in enumerate(requests):
        await until(lambda number=number: begun(requests) == min(number + EAGER, 6))
        assert pool.running <= EAGER
        request.go.set()
        await request.task
    await until(lambda: pool.running == 0)
    assert len(pool.inboxes) == EAGER


async def test_the_next_turn_comes_when_a_request_waits(busy_pool):
    pool = busy_pool()
    waiters = pool.hold(EAGER, waits=True)
    others = pool.hold(EAGER + 1)
    await until(lambda: begun(waiters) == EAGER)
    assert begun(others) == 0
    for number, waiter in enumerate(waiters, 1):
        waiter.go.set()
        await until(lambda number=number: begun(others) == number)
        assert pool.running == EAGER
    assert len(pool.queue) == 1


async def test_when_none_begins_for_some_time_another_is_woken(busy_pool):
    pool = busy_pool()
    requests = pool.hold(6)
    for number in range(EAGER, 6):
        await until(lambda number=number: begun(requests) == number)
        assert pool.running == number
        assert pool.loop.delays() == [STUCK]
        pool.loop.go_off()
    await until(lambda: begun(requests) == 6)
    assert pool.loop.delays() == []


async def test_while_others_begin_none_is_woken_above_the_few(busy_pool):
    pool = busy_pool()
    requests = pool.hold(6)
    await until(lambda: begun(requests) == EAGER)
    for number in range(1, 4):
        requests[number - 1].go.set()
        await until(lambda number=number: begun(requests) == EAGER + number)
        pool.loop.go_off()
        assert pool.running == EAGER
        assert pool.loop.delays() == [STUCK], "it looks again"


async def test_more_are_woken_up_to_the_places(busy_pool):
    pool = busy_pool(3)
    requests = pool.hold(5)
    await until(lambda: begun(requests) == EAGER)
    pool.loop.go_off()
    await until(lambda: begun(requests) == 3)
    assert pool.loop.delays() == []
    assert (pool.running, len(pool.queue)) == (3, 2)


async def test_when_it_is_not_busy_any_more_all_are_woken(busy_pool):
    pool = busy_pool()
    requests = pool.hold(6)
    await until(lambda: begun(requests) == EAGER)
    pool.busy = False
    pool.loop.go_off()
    await until(lambda: begun(requests) == 6)
    assert pool.loop.delays() == []


async def test_nothing_is_looked_at_again_when_nothing_queues(busy_pool):
    pool = busy_pool()
    requests = pool.hold(EAGER + 1)
    await until(lambda: begun(requests) == EAGER)
    requests[0].go.set()
    await until(lambda: begun(requests) == EAGER + 1)
    pool.loop.go_off()
    assert pool.loop.delays() == []
    pool.hold(1)
    await rounds()
    assert pool.loop.delays() == [STUCK], "from the next on, again"


async def waiting_beside(pool, number):
    """Let a request wait, and then others compute."""
    (waiter,) = pool.hold(1, waits=True)
    waiter.go.set()
    await waiter.waiting.wait()
    others = pool.hold(number)
    await until(lambda: begun(others) == number)
    assert pool.running == number
    return waiter, others


async def test_a_request_that_has_waited_goes_on_at_once_if_few_run(busy_pool):
    pool = busy_pool()
    waiter, _ = await waiting_beside(pool, EAGER - 1)
    waiter.answer.set()
    await until(lambda: waiter.went_on)
    assert pool.running == EAGER
    assert not pool.ready


async def test_a_request_that_has_waited_waits_for_its_turn_in_a_busy_process(busy_pool):
    pool = busy_pool()
    waiter, _ = await waiting_beside(pool, EAGER)
    waiter.answer.set()
    await until(lambda: pool.ready)
    assert pool.running == EAGER
    assert not waiter.went_on
    assert pool.loop.delays() == [STUCK]
    pool.loop.go_off()
    await until(lambda: waiter.went_on)
    assert pool.running == EAGER + 1


async def test_a_request_that_has_waited_goes_on_in_the_place_of_one_that_ends(busy_pool):
    pool = busy_pool()
    waiter, others = await waiting_beside(pool, EAGER)
    waiter.answer.set()
    await until(lambda: pool.ready)
    others[0].go.set()
    await until(lambda: waiter.went_on)
    await others[0].task
    await until(lambda: pool.idle)
    assert pool.running == EAGER


async def test_a_request_that_has_waited_goes_on_in_the_place_of_one_that_waits(busy_pool):
    pool = busy_pool()
    (waiter,) = pool.hold(1, waits=True)
    waiter.go.set()
    await waiter.waiting.wait()
    others = pool.hold(EAGER, waits=True)
    await until(lambda: begun(others) == EAGER)
    waiter.answer.set()
    await until(lambda: pool.ready)
    others[0].go.set()
    await others[0].waiting.wait()
    await until(lambda: waiter.went_on)
    assert pool.running == EAGER


async def test_a_request_that_has_waited_goes_on_above_the_places_if_need_be(busy_pool):
    pool = busy_pool(EAGER)
    waiter, _ = await waiting_beside(pool, EAGER)
    waiter.answer.set()
    await until(lambda: pool.ready)
    pool.loop.go_off()
    await until(lambda: waiter.went_on)
    assert pool.running == EAGER + 1


@pytest.mark.parametrize("how", ["it is stuck", "one waits"])
async def test_requests_that_have_waited_go_on_before_new_ones_begin(busy_pool, how):
    pool = busy_pool()
    (waiter,) = pool.hold(1, waits=True)
    waiter.go.set()
    await waiter.waiting.wait()
    others = pool.hold(EAGER, waits=how == "one waits")
    await until(lambda: begun(others) == EAGER)
    (new,) = pool.hold(1)
    await until(lambda: pool.queue)
    waiter.answer.set()
    await until(lambda: pool.ready)
    if how == "it is stuck":
        pool.loop.go_off()
    else:
        others[0].go.set()
    await until(lambda: waiter.went_on or new.begun)
    assert (waiter.went_on, new.begun) == (True, False)


async def test_new_requests_do_not_keep_those_that_have_waited_from_going_on(busy_pool):
    """Or one that holds a lock or a row would hold it as long as there are others."""
    pool = busy_pool(EAGER)
    waiter, others = await waiting_beside(pool, EAGER)
    waiter.answer.set()
    await until(lambda: pool.ready)
    others += pool.hold(20)
    await until(lambda: len(pool.queue) == 20)
    for request in others[:6]:
        await until(lambda request=request: request.begun)
        request.go.set()
        await request.task
    await until(lambda: waiter.went_on or begun(others) == EAGER + 6)
    assert waiter.went_on


async def test_a_place_is_passed_on_to_the_one_that_waits_longest(pools):
    pool = pools(2)
    assert not pool.pass_on()
    first, second = queue.SimpleQueue(), queue.SimpleQueue()
    pool.ready.extend([first, second])
    before = pool._begun
    assert pool.pass_on()
    assert first.get_nowait() is None
    assert second.empty()
    assert list(pool.ready) == [second]
    assert pool._begun == before + 1, "or it would look stuck"
    assert pool.running == 0, "which the place is already counted in"


async def test_a_place_is_passed_on_to_a_new_call_if_none_has_waited(pools):
    pool = pools(2)
    inbox = queue.SimpleQueue()
    pool.queue.append("call")
    assert not pool.pass_on(), "no thread is idle"
    pool.idle.append((0.0, inbox))
    pool.running = 3
    assert not pool.pass_on(), "too many run already"
    pool.running = 2
    assert pool.pass_on()
    assert inbox.get_nowait() == "call"
    assert not pool.queue
    assert not pool.idle
    assert not pool.pass_on()
    pool.running = 0


async def test_those_that_may_go_on_are_counted_and_woken_in_order(pools):
    pool = pools(1)
    woken = []
    for number in range(3):
        pool.go_on(SimpleNamespace(put=lambda call, number=number: woken.append((number, call))))
    assert woken == [(0, None), (1, None), (2, None)]
    assert (pool.running, pool._begun) == (3, 3)
    pool.running = 0


@pytest.mark.parametrize("which", ["ready", "queue"])
async def test_a_thread_may_be_faster_than_the_loop(pools, which):
    pool = pools(2)
    assert await pool.call(here).result()
    await until(lambda: pool.idle)

    class Taken(deque):
        """One that a thread takes from between a look and a grasp."""

        def popleft(self):
            self.clear()
            return super().popleft()

    setattr(pool, which, Taken([None]))
    pool._next()
    assert pool.running == 0
    assert len(pool.idle) == 1, "its thread is not lost"
    setattr(pool, which, deque())
    assert await pool.call(here).result()


async def test_a_thread_takes_no_new_call_above_the_places(pools):
    pool = pools(2)
    call = object()
    pool.queue.append(call)
    pool.running = 3
    assert pool._take() is None
    pool.running = 2
    assert pool._take() is call
    assert pool._take() is None
    pool.running = 0


class Clocks:
    """The wall's clock and the processor's."""

    def __init__(self):
        self.wall, self.cpu = 1000.0, 10.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.cpu

    def pass_(self, seconds, share):
        self.wall += seconds
        self.cpu += seconds * share


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(request_threads_module, "time", clocks)
    return clocks


async def test_a_process_is_busy_if_it_computes_for_most_of_the_time(pools, clocks):
    pool = pools(2)
    assert not pool._is_busy()
    for share, busy in [
        (1.0, True),
        (BUSY - 0.01, False),
        (BUSY + 0.01, True),
        (0.0, False),
        (2.0, True),  # several threads, of which some do without the interpreter
    ]:
        clocks.pass_(SAMPLE * 1.01, share)
        assert pool._is_busy() is busy


async def test_whether_it_is_busy_is_measured_again_after_some_time(pools, clocks):
    pool = pools(2)
    pool._is_busy()
    clocks.pass_(SAMPLE * 2, 1.0)
    assert pool._is_busy()
    clocks.pass_(SAMPLE / 2, 0.0)
    assert pool._is_busy(), "as it was"
    clocks.pass_(SAMPLE, 0.0)
    assert not pool._is_busy()
    clocks.pass_(SAMPLE / 2, 1.0)
    assert not pool._is_busy()


async def test_a_process_that_was_idle_for_long_is_not_busy(pools, clocks):
    pool = pools(2)
    clocks.pass_(SAMPLE * 2, 1.0)
    pool._is_busy()
    clocks.pass_(60, 0.001)
    clocks.pass_(SAMPLE, 1.0)
    assert not pool._is_busy()


async def test_the_clocks_are_those_of_the_wall_and_of_this_process(pools):
    pool = pools(2)
    before = time.perf_counter(), time.process_time()
    pool._is_busy()
    after = time.perf_counter(), time.process_time()
    wall, cpu = pool._sample
    assert before[0] <= wall <= after[0]
    assert before[1] <= cpu <= after[1]


async def test_a_call_is_not_lost_when_another_thread_takes_the_last_idle_one(pools):
    class Taken(deque):
        """Somebody else has what was in it."""

        taken = False

        def pop(self):
            if not self.taken:
                self.taken = True
                self.clear()
            return super().pop()

    pool = pools(2)
    pool.idle = Taken([(0.0, queue.SimpleQueue())])
    async with asyncio.timeout(10):
        assert await pool.call(lambda: "done").result() == "done"
