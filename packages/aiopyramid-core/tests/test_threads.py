import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
from coroutines import Oops, double, fail, forever, rounds

from aiopyramid import bridge, homes, threads
from aiopyramid.bridge import await_, can_wait, in_worker_thread, spawn_greenlet
from aiopyramid.helpers import synchronize, use_executor
from aiopyramid.threads import ThreadCall, Wait, run_callback, run_in_executor

pytestmark = pytest.mark.both_loops

variable: ContextVar[object] = ContextVar("variable", default="unset")


# Threads


async def test_work_in_an_executor_runs_in_another_thread_and_returns():
    def plain(number, *, plus):
        return number + plus, threading.current_thread()

    result, thread = await use_executor(plain)(40, plus=2)
    assert result == 42
    assert thread is not threading.current_thread()


async def test_the_executor_can_be_chosen():
    with ThreadPoolExecutor(1, "chosen") as executor:

        @use_executor(executor=executor)
        def plain():
            return threading.current_thread().name

        assert (await plain()).startswith("chosen")
        assert (await run_in_executor(executor, plain.__wrapped__)).startswith("chosen")


async def test_an_exception_in_a_thread_is_raised_in_the_caller():
    def plain():
        raise Oops

    with pytest.raises(Oops):
        await use_executor(plain)()


async def test_a_thread_waits_for_a_coroutine_that_runs_on_the_loop():
    async def where():
        await asyncio.sleep(0)
        return threading.current_thread(), asyncio.get_running_loop()

    def plain():
        return await_(where())

    here = threading.current_thread(), asyncio.get_running_loop()
    assert await use_executor(plain)() == here


async def test_an_exception_of_the_coroutine_is_raised_in_the_thread():
    def plain():
        with pytest.raises(Oops):
            await_(fail())
        return "went on"

    assert await use_executor(plain)() == "went on"


async def test_a_thread_waits_for_futures_and_generator_based_coroutines():
    @synchronize
    def generator():
        yield from asyncio.sleep(0)
        return "generator"

    future = asyncio.get_running_loop().create_future()
    future.set_result("future")

    def plain():
        return await_(future), generator()

    assert await use_executor(plain)() == ("future", "generator")


async def test_a_thread_waits_below_coroutines_and_threads_of_its_own():
    def plain(level):
        return [level, *(await_(use_executor(plain)(level - 1)) if level else [])]

    assert await use_executor(plain)(4) == [4, 3, 2, 1, 0]


async def test_plain_code_in_a_greenlet_uses_a_thread_that_waits():
    def in_thread():
        return await_(double(5)), in_worker_thread()

    assert await spawn_greenlet(lambda: await_(use_executor(in_thread)())) == (10, True)


async def test_a_thread_of_the_loop_s_own_run_in_executor_can_wait_once_the_bridge_was_used():
    await spawn_greenlet(lambda: None)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, lambda: await_(double(6))) == 12
    with ThreadPoolExecutor(1) as executor:
        assert await loop.run_in_executor(executor, synchronize(double), 7) == 14


async def test_a_thread_of_to_thread_can_wait_once_the_bridge_was_used():
    await spawn_greenlet(lambda: None)
    assert await asyncio.to_thread(lambda: await_(double(6))) == 12


async def test_a_thread_that_cannot_choose_between_two_loops_takes_that_of_the_process():
    async def name():
        return threading.current_thread().name

    ready, done = threading.Event(), threading.Event()

    async def other():
        await spawn_greenlet(ready.set)
        await use_executor(done.wait)()

    await spawn_greenlet(lambda: None)
    with ThreadPoolExecutor(1) as executor, ThreadPoolExecutor(1) as second:
        running = executor.submit(asyncio.run, other())
        try:
            await asyncio.to_thread(ready.wait)
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(second, lambda: await_(name())) == "aiopyramid-loop"
            # Its context tells this one for which loop it works.
            assert await asyncio.to_thread(lambda: await_(double(1))) == 2
        finally:
            done.set()
        await asyncio.wrap_future(running)


async def test_a_server_can_name_the_loop_for_its_threads(monkeypatch):
    loop = asyncio.get_running_loop()
    home = homes.Home(loop)
    monkeypatch.setattr(homes, "process_home", home)
    result = []
    thread = threading.Thread(target=lambda: result.append((can_wait(), await_(double(8)))))
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0)
    assert result == [(True, 16)]


async def test_a_thread_sees_the_callers_context_and_the_caller_what_the_thread_sets():
    seen = []

    async def coroutine():
        seen.append(variable.get())

    def plain():
        seen.append(variable.get())
        variable.set("by thread")
        await_(coroutine())

    variable.set("by caller")
    await use_executor(plain)()
    assert seen == ["by caller", "by thread"]
    assert variable.get() == "by thread"


async def test_context_variables_set_in_a_thread_that_fails_are_set_for_the_caller():
    def plain():
        variable.set("by thread")
        raise Oops

    with pytest.raises(Oops):
        await use_executor(plain)()
    assert variable.get() == "by thread"


async def test_threads_of_interleaved_tasks_do_not_mix_their_contexts():
    async def coroutine():
        await asyncio.sleep(0)
        return variable.get()

    def plain(value):
        variable.set(value)
        return await_(coroutine()), variable.get()

    async def task(value):
        return *await use_executor(plain)(value), variable.get()

    assert await asyncio.gather(*map(task, range(50))) == [(n, n, n) for n in range(50)]


async def test_stop_iteration_in_a_thread_becomes_a_runtime_error():
    with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
        await use_executor(next)(iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


# Cancelling work in a thread


async def test_cancelling_the_caller_interrupts_the_thread_that_waits():
    steps = []
    started, ended = asyncio.Event(), asyncio.Event()

    async def coroutine():
        try:
            await forever(started)
        finally:
            ended.set()

    def plain():
        try:
            await_(coroutine())
        except asyncio.CancelledError:
            steps.append("thread sees it")
            raise
        finally:
            steps.append("finally of thread")

    async def caller():
        try:
            await use_executor(plain)()
        finally:
            steps.append("caller")

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["thread sees it", "finally of thread", "caller"]
    await ended.wait()


async def test_cancelling_the_caller_interrupts_the_thread_when_it_waits_next(no_warnings):
    started, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    steps = []

    def plain():
        loop.call_soon_threadsafe(started.set)
        go.wait()
        try:
            await_(double(1))
        except asyncio.CancelledError:
            steps.append("interrupted")
            # Once only: now it may clean up.
            steps.append(await_(double(2)))
            raise

    task = asyncio.create_task(use_executor(plain)())
    await started.wait()
    task.cancel()
    await rounds()
    assert not task.done(), "the caller goes on beside its thread"
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["interrupted", 4]


async def test_a_cancelled_caller_waits_for_a_thread_that_never_waits():
    started, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    steps = []

    def plain():
        loop.call_soon_threadsafe(started.set)
        go.wait()
        steps.append("thread")
        raise Oops

    task = asyncio.create_task(use_executor(plain)())
    await started.wait()
    for _ in range(3):
        task.cancel()
        await rounds()
        assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["thread"]


async def test_work_that_is_still_queued_is_not_begun_when_the_caller_is_cancelled():
    started, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    steps = []

    def occupy():
        loop.call_soon_threadsafe(started.set)
        go.wait()

    with ThreadPoolExecutor(1) as executor:
        first = asyncio.create_task(run_in_executor(executor, occupy))
        await started.wait()
        queued = asyncio.create_task(run_in_executor(executor, steps.append, "ran"))
        await rounds()
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        assert not first.done()
        go.set()
        await first
        await run_in_executor(executor, steps.append, "later work")
    assert steps == ["later work"]


async def test_each_cancellation_interrupts_the_thread_once():
    started = [asyncio.Event() for _ in range(3)]
    steps = []

    def plain():
        for number, event in enumerate(started):
            try:
                await_(forever(event))
            except asyncio.CancelledError:
                steps.append(number)
        return "ignored"

    task = asyncio.create_task(use_executor(plain)())
    for event in started:
        await event.wait()
        assert not task.done()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == [0, 1, 2]


async def test_a_timeout_around_a_thread_interrupts_it():
    steps = []
    started = asyncio.Event()

    def plain():
        try:
            await_(forever(started))
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    async def expire(timeout):
        await started.wait()
        timeout.reschedule(0)

    async def caller():
        async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as group:
            group.create_task(expire(timeout))
            await use_executor(plain)()

    with pytest.raises(TimeoutError):
        await caller()
    assert steps == ["cancelled"]


async def test_an_interruption_just_after_the_result_arrived_meets_the_next_wait():
    home = homes.home_here()
    call = ThreadCall(lambda: None, home)
    first = Wait(home, double(1), bridge._as_it_is, call)
    first.start()
    task = first.task
    await task
    call.interrupt()  # the task is done, and the loop has not told the thread yet
    await rounds()
    assert first.outcome() == 2
    second = Wait(home, double(2), bridge._as_it_is, call)
    second.start()
    with pytest.raises(asyncio.CancelledError):
        second.outcome()
    third = Wait(home, double(3), bridge._as_it_is, call)
    third.start()
    await rounds()
    assert third.outcome() == 6


async def test_cancelling_plain_code_that_waits_for_a_thread_reaches_the_thread():
    steps = []
    started = asyncio.Event()

    def in_thread():
        try:
            await_(forever(started))
        except asyncio.CancelledError:
            steps.append("thread")
            raise

    def plain():
        try:
            await_(use_executor(in_thread)())
        except asyncio.CancelledError:
            steps.append("greenlet")
            raise

    task = asyncio.create_task(spawn_greenlet(plain))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["thread", "greenlet"]


async def test_a_coroutine_that_is_cancelled_by_others_is_a_cancellation_in_the_thread():
    started = asyncio.Event()
    task = asyncio.create_task(forever(started))
    seen = []

    def plain():
        try:
            await_(task)
        except asyncio.CancelledError:
            seen.append("cancelled")

    work = asyncio.create_task(use_executor(plain)())
    await started.wait()
    await rounds()
    task.cancel()
    await work
    assert seen == ["cancelled"]


async def test_a_thread_below_another_does_not_take_its_cancellation():
    started = asyncio.Event()
    steps = []

    async def below():
        # This thread's context is a copy of the outer thread's.
        assert await asyncio.to_thread(lambda: await_(double(1))) == 2
        await forever(started)

    def plain():
        try:
            await_(below())
        except asyncio.CancelledError:
            steps.append("interrupted")
            raise

    task = asyncio.create_task(use_executor(plain)())
    await started.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    interrupted = task.done()
    for other in asyncio.all_tasks() - {asyncio.current_task(), task}:
        other.cancel()  # or the thread would wait for ever
    with pytest.raises(asyncio.CancelledError):
        await task
    assert interrupted, "the thread was not interrupted"
    assert steps == ["interrupted"]


async def test_threads_that_wait_for_threads_do_not_wait_for_ever():
    executor = ThreadPoolExecutor(2)
    asyncio.get_running_loop().set_default_executor(executor)

    @synchronize
    async def nested(n):
        return await use_executor(lambda: n + 1)()

    results = await asyncio.gather(*(use_executor(nested)(n) for n in range(8)))
    assert results == [n + 1 for n in range(8)]


# Work that was cancelled and goes on


async def test_what_a_thread_returns_that_swallows_the_cancellation_is_dropped(caplog):
    began = asyncio.Event()

    def stubborn():
        with contextlib.suppress(asyncio.CancelledError):
            await_(forever(began))
        return "dropped"

    task = asyncio.ensure_future(run_in_executor(None, stubborn))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not caplog.records


async def test_an_exception_of_a_thread_that_was_cancelled_is_logged(caplog):
    began = asyncio.Event()

    def failing():
        try:
            await_(forever(began))
        finally:
            raise Oops

    task = asyncio.ensure_future(run_in_executor(None, failing))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = caplog.records
    assert record.getMessage() == "Plain code failed after it was cancelled"
    assert record.exc_info[0] is Oops


# Callbacks


@pytest.fixture
async def one_thread():
    """Give callbacks one thread, and something that holds it."""
    with ThreadPoolExecutor(1) as executor:
        home = homes.home_here()
        home.callbacks = executor
        release = threading.Event()
        yield executor.submit, release
        release.set()
        home.callbacks = None


async def test_a_callback_runs_in_the_threads_for_callbacks(one_thread):
    submit, _ = one_thread
    name = submit(lambda: threading.current_thread().name).result()
    assert await run_callback(lambda: threading.current_thread().name, 1) == name
    with pytest.raises(Oops):
        await run_callback(lambda: await_(fail()), 1)


async def test_a_callback_that_is_cancelled_while_it_queues_runs_all_the_same(one_thread):
    submit, release = one_thread
    submit(release.wait)
    ran = []
    task = asyncio.ensure_future(run_callback(lambda: ran.append(await_(double(21))), 60))
    await rounds()
    for _ in range(3):
        task.cancel()
        await rounds()
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == [42]


@pytest.mark.parametrize("again", [False, True])
async def test_such_a_callback_is_interrupted_when_its_grace_is_over(one_thread, again):
    submit, release = one_thread
    submit(release.wait)
    began = asyncio.Event()
    ends = []

    def callback():
        try:
            await_(forever(began))
        except asyncio.CancelledError:
            ends.append("interrupted")
            raise

    task = asyncio.ensure_future(run_callback(callback, 3600 if again else 0))
    await rounds()
    task.cancel()
    await rounds()
    release.set()
    if again:
        await began.wait()
        task.cancel()  # a second time: no grace
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends == ["interrupted"]


async def test_a_callback_that_runs_is_interrupted_at_once(one_thread):
    began = asyncio.Event()
    task = asyncio.ensure_future(run_callback(lambda: await_(forever(began)), 3600))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_callbacks_that_queue_do_not_hold_up_a_loop_that_gives_up(one_thread):
    submit, release = one_thread
    submit(release.wait)
    task = asyncio.ensure_future(run_callback(lambda: None, 3600))
    await rounds()
    task.cancel()
    await rounds()
    home = homes.home_here()
    home.give_up()
    with pytest.raises(asyncio.CancelledError):
        await task


# Loops that do not run


def test_the_thread_that_loads_runs_a_loop_while_it_waits():
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        home = homes.Home(loop)
        assert threads.run_while_waiting(home, double(4), bridge._as_it_is) == 8
        assert not home.lent


def test_a_thread_does_not_wait_for_a_loop_that_is_closed(monkeypatch):
    monkeypatch.setattr(threads, "LOOK", 0.01)
    loop = asyncio.new_event_loop()
    home = homes.Home(loop)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(threads.wait_in_thread, home, double(4), bridge._as_it_is)
        while not home.ready:
            threading.Event().wait(0.001)
        loop.close()
        assert isinstance(waiting.exception(), homes.LoopClosed)


def test_a_signal_while_a_loop_is_closed_comes_out_as_it_is(monkeypatch):
    loop = asyncio.new_event_loop()
    wait = Wait(homes.Home(loop), double(4), bridge._as_it_is, None)
    threads.close(wait.awaitable)
    loop.close()

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(Wait, "_work", lambda self: interrupted())
    with pytest.raises(KeyboardInterrupt):
        wait.outcome()
