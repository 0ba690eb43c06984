import asyncio
import contextlib
import contextvars
import gc
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import greenlet
import pytest
from coroutines import Oops, double, fail, forever, rounds

from aiopyramid import bridge, homes
from aiopyramid.bridge import await_, can_wait, in_worker_thread, run_coroutine, spawn_greenlet
from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import synchronize, use_executor, use_request_thread
from aiopyramid.request_threads import run_as_request

pytestmark = pytest.mark.both_loops

variable: ContextVar[object] = ContextVar("variable", default="unset")


# Values and exceptions


async def test_plain_code_gets_the_value_of_the_coroutine_it_waits_for():
    def plain(number, *, plus):
        return await_(double(number)) + plus

    assert await spawn_greenlet(plain, 20, plus=2) == 42


async def test_plain_code_that_does_not_wait_returns_its_value():
    assert await spawn_greenlet(lambda: "at once") == "at once"


async def test_none_and_false_values_cross_like_others():
    async def give(value):
        await asyncio.sleep(0)
        return value

    def plain():
        return [await_(give(value)) for value in (None, False, (), (1, 2), {})]

    assert await spawn_greenlet(plain) == [None, False, (), (1, 2), {}]


async def test_plain_code_waits_for_futures_tasks_and_objects_with_await():
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "object"

    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "future")
    task = asyncio.create_task(double(2))

    def plain():
        return await_(future), await_(task), await_(Awaitable())

    assert await spawn_greenlet(plain) == ("future", 4, "object")


async def test_an_exception_of_the_coroutine_is_raised_in_plain_code_where_it_waits():
    def plain():
        try:
            await_(fail())
        except Oops:
            return await_(double(1))

    assert await spawn_greenlet(plain) == 2


async def test_an_exception_of_plain_code_is_raised_in_the_caller():
    def plain():
        await_(double(1))
        raise Oops

    with pytest.raises(Oops):
        await spawn_greenlet(plain)


async def test_an_exception_that_nobody_catches_comes_out_as_the_same_object():
    error = Oops("the one")

    async def raises():
        raise error

    with pytest.raises(Oops) as caught:
        await spawn_greenlet(lambda: await_(raises()))
    assert caught.value is error


async def test_a_base_exception_of_the_coroutine_reaches_plain_code():
    class Stop(BaseException):
        pass

    steps = []

    async def stop():
        raise Stop

    def plain():
        try:
            await_(stop())
        finally:
            steps.append("finally")

    with pytest.raises(Stop):
        await spawn_greenlet(plain)
    assert steps == ["finally"]


async def test_what_is_no_awaitable_raises_a_type_error_in_plain_code():
    def plain():
        with pytest.raises(TypeError, match="await"):
            await_(42)
        return await_(double(1))

    assert await spawn_greenlet(plain) == 2


async def test_stop_iteration_of_plain_code_becomes_a_runtime_error():
    def plain():
        await_(double(1))
        raise StopIteration("value")

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await spawn_greenlet(plain)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_the_loop_runs_other_tasks_while_plain_code_waits():
    order = []
    go = asyncio.Event()

    def plain():
        order.append("waits")
        await_(go.wait())
        order.append("goes on")

    async def other():
        order.append("other")
        go.set()

    await asyncio.gather(spawn_greenlet(plain), other())
    assert order == ["waits", "other", "goes on"]


# Cancellation


async def test_finally_blocks_of_plain_code_have_run_before_a_cancelled_caller_goes_on():
    steps = []
    started = asyncio.Event()

    def plain():
        try:
            await_(forever(started))
        except asyncio.CancelledError:
            steps.append("plain code sees it")
            raise
        finally:
            steps.append("finally of plain code")

    async def caller():
        try:
            await spawn_greenlet(plain)
        finally:
            steps.append("caller")

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel("with a message")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert steps == ["plain code sees it", "finally of plain code", "caller"]


async def test_the_coroutine_that_plain_code_waits_for_is_cancelled_first():
    steps = []
    started = asyncio.Event()

    async def coroutine():
        try:
            await forever(started)
        finally:
            await asyncio.sleep(0)
            steps.append("coroutine")

    def plain():
        try:
            await_(coroutine())
        finally:
            steps.append("plain")

    task = asyncio.create_task(spawn_greenlet(plain))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["coroutine", "plain"]


async def test_plain_code_may_wait_again_while_it_is_cancelled():
    started = asyncio.Event()
    cleaned = []

    def plain():
        try:
            await_(forever(started))
        finally:
            cleaned.append(await_(double(4)))

    task = asyncio.create_task(spawn_greenlet(plain))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [8]


async def test_plain_code_that_swallows_the_cancellation_goes_on():
    started = asyncio.Event()

    def plain():
        with contextlib.suppress(asyncio.CancelledError):
            await_(forever(started))
        return await_(double(3))

    task = asyncio.create_task(spawn_greenlet(plain))
    await started.wait()
    task.cancel()
    assert await task == 6
    assert not task.cancelled()


async def test_a_timeout_around_plain_code_interrupts_it():
    steps = []

    def plain():
        try:
            await_(forever())
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await spawn_greenlet(plain)
    assert steps == ["cancelled"]
    assert asyncio.current_task().cancelling() == 0


async def test_a_timeout_inside_the_coroutine_is_an_exception_in_plain_code():
    async def coroutine():
        async with asyncio.timeout(0):
            await forever()

    def plain():
        with pytest.raises(TimeoutError):
            await_(coroutine())
        return "went on"

    assert await spawn_greenlet(plain) == "went on"


# The caller's task and context


async def test_the_current_task_is_the_callers_on_both_sides():
    async def task_of_coroutine():
        await asyncio.sleep(0)
        return asyncio.current_task()

    def plain():
        return [asyncio.current_task(), await_(task_of_coroutine()), asyncio.current_task()]

    assert set(await spawn_greenlet(plain)) == {asyncio.current_task()}
    assert len(asyncio.all_tasks()) == 1


async def test_context_variables_set_on_one_side_are_seen_on_the_other():
    seen = []

    async def coroutine():
        seen.append(variable.get())
        await asyncio.sleep(0)
        variable.set("by coroutine")

    def plain():
        seen.append(variable.get())
        variable.set("by plain code")
        await_(coroutine())
        seen.append(variable.get())
        variable.set("by plain code again")

    variable.set("by caller")
    await spawn_greenlet(plain)
    seen.append(variable.get())
    assert seen == ["by caller", "by plain code", "by coroutine", "by plain code again"]


async def test_plain_code_can_reset_a_variable_with_the_callers_token():
    # Works in the same context object only, not in a copy.
    token = variable.set("by caller")
    await spawn_greenlet(variable.reset, token)
    assert variable.get() == "unset"


async def test_context_variables_of_one_task_are_not_seen_in_another():
    def plain(value):
        variable.set(value)
        await_(rounds(3))
        return variable.get()

    values = list(range(10))
    tasks = [asyncio.create_task(spawn_greenlet(plain, value)) for value in values]
    assert await asyncio.gather(*tasks) == values
    assert variable.get() == "unset"


# Depth and breadth


async def test_coroutines_and_plain_code_nest_several_levels_deep():
    async def coroutine(level):
        await asyncio.sleep(0)
        return [level, *await spawn_greenlet(plain, level)]

    def plain(level):
        return await_(coroutine(level - 1)) if level else []

    assert await coroutine(8) == [8, 7, 6, 5, 4, 3, 2, 1, 0]


async def test_an_exception_passes_all_levels_and_their_finally_blocks():
    steps = []

    async def coroutine(level):
        try:
            await asyncio.sleep(0)
            return await spawn_greenlet(plain, level)
        finally:
            steps.append(f"coroutine {level}")

    def plain(level):
        try:
            await_(coroutine(level - 1) if level else fail())
        finally:
            steps.append(f"plain {level}")

    with pytest.raises(Oops):
        await coroutine(2)
    assert steps == [f"{kind} {level}" for level in (0, 1, 2) for kind in ("plain", "coroutine")]


async def test_a_cancellation_passes_all_levels_from_the_innermost_one():
    steps = []
    started = asyncio.Event()

    async def coroutine(level):
        await spawn_greenlet(plain, level)

    def plain(level):
        try:
            await_(coroutine(level - 1) if level else forever(started))
        except asyncio.CancelledError:
            steps.append(level)
            raise

    task = asyncio.create_task(coroutine(3))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == [0, 1, 2, 3]


async def test_hundreds_of_greenlets_interleave_without_mixing_up():
    chance = random.Random(1)
    finished = []

    def plain(name, turns):
        variable.set(name)
        total = 0
        for turn in turns:
            total += await_(echo(name, turn))
            assert variable.get() == name
        finished.append(name)
        return name, total

    async def echo(name, turn):
        for _ in range(turn):
            await asyncio.sleep(0)
            assert variable.get() == name
        return turn

    work = [[chance.randrange(5) for _ in range(8)] for _ in range(300)]
    results = await asyncio.gather(*(spawn_greenlet(plain, *item) for item in enumerate(work)))
    assert results == [(name, sum(turns)) for name, turns in enumerate(work)]
    assert finished != sorted(finished), "they did not interleave"


# Generators


async def test_a_plain_generator_waits_for_coroutines_between_its_values():
    def numbers():
        for number in range(3):
            yield await_(double(number))

    assert await spawn_greenlet(list, numbers()) == [0, 2, 4]


async def test_a_plain_generator_begun_in_one_greenlet_goes_on_in_another():
    def numbers():
        for number in range(3):
            yield await_(double(number))

    generator = numbers()
    assert [await spawn_greenlet(next, generator) for _ in range(3)] == [0, 2, 4]


async def test_plain_code_iterates_over_an_async_generator_and_closes_it():
    steps = []

    async def numbers():
        try:
            for number in range(10):
                yield await double(number)
        finally:
            await asyncio.sleep(0)
            steps.append("closed")

    def plain():
        generator = numbers()
        values = [await_(anext(generator)) for _ in range(3)]
        await_(generator.aclose())
        return values

    assert await spawn_greenlet(plain) == [0, 2, 4]
    assert steps == ["closed"]


async def test_the_end_of_an_async_generator_is_seen_by_plain_code():
    async def nothing():
        return
        yield

    def plain():
        with pytest.raises(StopAsyncIteration):
            await_(anext(nothing()))
        return await_(anext(nothing(), "default"))

    assert await spawn_greenlet(plain) == "default"


async def test_an_async_generator_runs_plain_code_that_waits():
    async def numbers():
        for number in range(3):
            yield await spawn_greenlet(lambda number: await_(double(number)), number)

    assert [number async for number in numbers()] == [0, 2, 4]


async def test_a_coroutine_begun_in_one_greenlet_is_continued_in_another(monkeypatch):
    monkeypatch.setattr(bridge, "MAX_IDLE", 0)
    bridge._idle.children.clear()
    first, second = asyncio.Event(), asyncio.Event()
    greenlets = []

    def plain():
        greenlets.append(greenlet.getcurrent().parent)
        await_(first.wait())
        greenlets.append(greenlet.getcurrent().parent)
        await_(second.wait())
        greenlets.append(greenlet.getcurrent().parent)
        return await_(double(2))

    coroutine = spawn_greenlet(plain)

    async def step():
        return coroutine.send(None)

    def stepping():
        return run_coroutine(step()), greenlet.getcurrent()

    future, one = await spawn_greenlet(stepping)
    first.set()
    await future
    future, two = await spawn_greenlet(stepping)
    second.set()
    await future
    result, three = await spawn_greenlet(lambda: (run_coroutine(coroutine), greenlet.getcurrent()))
    assert result == 4
    assert greenlets == [one, two, three]
    assert len({one, two, three}) == 3


# Where waiting is impossible


async def test_waiting_in_a_coroutine_is_refused_with_advice(no_warnings):
    with pytest.raises(ScopeError, match=r"double cannot be waited for here") as caught:
        await_(double(1))
    assert "Await the coroutine directly" in str(caught.value)
    assert "await aiopyramid.helpers.spawn_greenlet(function, ...)" in str(caught.value)


async def test_waiting_in_a_coroutine_below_plain_code_is_refused(no_warnings):
    async def coroutine():
        await asyncio.sleep(0)
        with pytest.raises(ScopeError, match="Await the coroutine directly"):
            await_(double(1))
        return "went on"

    assert await spawn_greenlet(lambda: await_(coroutine())) == "went on"


async def test_a_refused_future_is_left_alone():
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(ScopeError, match="Future"):
        await_(future)
    assert not future.done()


async def test_a_refused_async_generator_step_warns_of_nothing(no_warnings):
    async def numbers():
        yield 1

    generator = numbers()
    with pytest.raises(ScopeError):
        await_(anext(generator))
    with pytest.raises(ScopeError):
        run_coroutine(generator.__anext__())


def where_no_loop_can_be(monkeypatch):
    monkeypatch.setattr(homes, "obstacle", "{what} in {thread!r}: not here")


def test_without_a_loop_the_process_gets_one(no_warnings):
    assert await_(double(1)) == 2
    assert run_coroutine(double(2)) == 4
    assert synchronize(double)(3) == 6


def test_an_exception_comes_out_of_the_process_s_loop():
    with pytest.raises(Oops) as caught:
        await_(fail())
    assert caught.traceback[-1].name == "fail"


def test_in_the_process_s_loop_context_is_copied_both_ways():
    async def coroutine():
        value = variable.get()
        variable.set("by coroutine")
        return value

    def plain():
        variable.set("by plain code")
        return await_(coroutine()), variable.get()

    assert contextvars.copy_context().run(plain) == ("by plain code", "by coroutine")


def test_a_coroutine_in_the_process_s_loop_can_use_the_thread_that_waits():
    async def coroutine():
        return await use_request_thread(threading.current_thread)(), threading.current_thread()

    thread, loops = run_coroutine(coroutine())
    assert thread is threading.current_thread()
    assert loops.name == "aiopyramid-loop"


def test_plain_code_below_a_coroutine_in_the_process_s_loop_can_wait():
    async def coroutine():
        return await_(double(4))

    assert run_coroutine(coroutine()) == 8


def test_a_thread_that_can_have_no_loop_cannot_wait(no_warnings, monkeypatch):
    where_no_loop_can_be(monkeypatch)
    for wait in await_, run_coroutine, lambda coroutine: synchronize(double)(1):
        with pytest.raises(ScopeError, match=r"double in 'MainThread': not here"):
            wait(coroutine := double(1))
        coroutine.close()
    assert not can_wait()


def test_what_is_to_be_done_first_is_done_before_code_outside_of_requests_waits(monkeypatch):
    begun = []

    async def first():
        await asyncio.sleep(0)
        begun.append("first")

    def prepare():
        return None if begun else first()

    monkeypatch.setattr(homes, "prepare", prepare)
    assert run_as_request(lambda: await_(double(1))) == 2
    assert begun == []
    assert await_(double(1)) == 2
    assert await_(double(1)) == 2
    assert begun == ["first"]


def test_if_that_fails_the_code_that_waits_gets_the_exception(no_warnings, monkeypatch):
    monkeypatch.setattr(homes, "prepare", fail)
    with pytest.raises(Oops):
        await_(double(1))


def test_a_coroutine_cannot_wait_for_its_own_loop_in_another_ones_name(no_warnings):
    async def nested():
        await use_executor(lambda: None)()
        return await_(double(1))

    def request():
        return asyncio.run(nested())

    with pytest.raises(ScopeError, match="on the event loop itself"):
        run_as_request(request)


def test_plain_code_below_a_loop_of_its_request_s_own_can_wait():
    def request():
        return asyncio.run(spawn_greenlet(lambda: await_(double(1))))

    assert run_as_request(request) == 2


@pytest.mark.parametrize("begun", [True, False])
def test_a_thread_learns_that_somebody_else_s_loop_was_closed(begun, no_warnings, monkeypatch):
    monkeypatch.setattr("aiopyramid.threads.LOOK", 0.01)
    loop = asyncio.new_event_loop()
    home = homes.Home(loop)
    started = threading.Event()
    monkeypatch.setattr(homes, "home_of_thread", lambda: home)

    async def coroutine():
        started.set()
        await forever()

    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(lambda: await_(coroutine()))
        while not home.ready:
            time.sleep(0.001)
        if begun:
            while not started.is_set():
                loop.run_until_complete(asyncio.sleep(0))
        [task.cancel() for task in asyncio.all_tasks(loop)] if begun else None
        loop.close()
        assert isinstance(waiting.exception(), ScopeError)
    gc.collect()


def test_while_a_loop_does_not_run_the_thread_that_loads_runs_it(monkeypatch):
    async def coroutine():
        variable.set("by coroutine")
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), threading.current_thread()

    def plain():
        return run_coroutine(coroutine()), await_(coroutine()), variable.get()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        home = homes.Home(loop)
        monkeypatch.setattr(homes, "process_home", home)
        assert not can_wait()
        home.loader = threading.get_ident()
        assert can_wait()
        expected = loop, threading.current_thread()
        result = contextvars.copy_context().run(plain)
        assert result == (expected, expected, "by coroutine")
        with ThreadPoolExecutor(1, "other") as executor:
            error = executor.submit(lambda: await_(double(1))).exception()
        assert isinstance(error, ScopeError)
        assert "thread 'other_0' works for does not run, yet or any more" in str(error)
        assert "`config.add_lifespan(factory)`" in str(error)
    assert not can_wait()


def test_a_thread_that_outlives_its_loop_works_for_that_of_the_process(no_warnings):
    go = threading.Event()

    with ThreadPoolExecutor(1) as executor:

        def late():
            go.wait()
            return await_(double(1))

        async def main():
            await spawn_greenlet(lambda: None)
            return asyncio.get_running_loop().run_in_executor(executor, late)

        def run():
            # Closing the loop cancels nothing in a foreign executor.
            with asyncio.Runner() as runner:
                return runner.run(main())

        run()
        finished = executor.submit(lambda: None)
        go.set()
        finished.result()
        assert executor.submit(lambda: await_(double(1))).result() == 2


@pytest.mark.parametrize("call", [await_, run_coroutine])
async def test_a_greenlet_below_a_bridge_greenlet_cannot_wait(call, no_warnings):
    def plain():
        def foreign():
            with pytest.raises(ScopeError):
                call(double(1))
            return "refused"

        return greenlet.greenlet(foreign).switch()

    assert await spawn_greenlet(plain) == "refused"


async def test_can_wait_tells_plain_code_from_coroutines():
    async def coroutine():
        await asyncio.sleep(0)
        return can_wait()

    assert not can_wait()
    assert await spawn_greenlet(can_wait)
    assert await use_executor(can_wait)()
    assert not await spawn_greenlet(lambda: await_(coroutine()))
    assert not await spawn_greenlet(lambda: run_coroutine(coroutine()))


def test_without_a_loop_plain_code_can_wait_and_asking_starts_none():
    assert can_wait()
    assert homes.process_home is None


async def test_only_a_thread_without_a_loop_may_block():
    assert not in_worker_thread()
    assert not await spawn_greenlet(in_worker_thread)
    assert await use_executor(in_worker_thread)()


# Closing and collecting


async def test_closing_the_coroutine_ends_the_plain_code_that_waits(no_warnings):
    steps = []

    def plain():
        try:
            await_(forever())
        except GeneratorExit:
            steps.append("exit")
            raise
        finally:
            steps.append("finally")
            assert not can_wait()
            with pytest.raises(ScopeError, match="(?s)double .* was closed.* cancel the task"):
                await_(double(1))
            with pytest.raises(ScopeError, match="was closed"):
                run_coroutine(double(1))
            steps.append("refused")

    coroutine = spawn_greenlet(plain)
    coroutine.send(None)
    coroutine.close()
    assert steps == ["exit", "finally", "refused"]


async def test_closing_ends_all_levels(no_warnings):
    steps = []

    def plain(level):
        try:
            await_(spawn_greenlet(plain, level - 1) if level else forever())
        finally:
            steps.append(level)

    coroutine = spawn_greenlet(plain, 3)
    coroutine.send(None)
    coroutine.close()
    assert steps == [0, 1, 2, 3]


async def test_collecting_the_coroutine_ends_the_plain_code_that_waits(no_warnings):
    steps = []

    def plain():
        try:
            await_(forever())
        finally:
            with pytest.raises(ScopeError):
                await_(double(1))
            steps.append("finally")

    coroutine = spawn_greenlet(plain)
    coroutine.send(None)
    del coroutine
    gc.collect()
    assert steps == ["finally"]


async def test_plain_code_that_survives_closing_is_ended_all_the_same(no_warnings):
    steps = []

    def plain():
        try:
            await_(forever())
        except GeneratorExit:
            steps.append("swallowed")
        return "ignored"

    coroutine = spawn_greenlet(plain)
    coroutine.send(None)
    coroutine.close()
    assert steps == ["swallowed"]


async def test_an_exception_while_closing_comes_out_of_close():
    def plain():
        try:
            await_(forever())
        finally:
            raise Oops

    coroutine = spawn_greenlet(plain)
    coroutine.send(None)
    with pytest.raises(Oops):
        coroutine.close()


async def test_a_coroutine_collected_in_another_thread_ends_its_plain_code(no_warnings):
    steps = []

    def plain():
        try:
            await_(forever())
        finally:
            steps.append("finally")

    holder = [spawn_greenlet(plain)]
    holder[0].send(None)
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    gc.collect()
    await spawn_greenlet(lambda: None)  # greenlet ends it when its thread next uses greenlets
    assert steps == ["finally"]


def count_greenlets():
    gc.collect()
    return sum(isinstance(thing, bridge.Child) for thing in gc.get_objects())


# Greenlets that are used again


async def test_no_more_greenlets_are_kept_than_were_in_use():
    async def some():
        await spawn_greenlet(lambda: await_(double(1)))
        with pytest.raises(Oops):
            await spawn_greenlet(lambda: await_(fail()))
        with pytest.raises(Oops):
            await spawn_greenlet(lambda: run_coroutine(fail()))

    await some()
    before = count_greenlets()
    for _ in range(20):
        await some()
    assert count_greenlets() == before


async def test_only_so_many_idle_greenlets_are_kept(monkeypatch):
    bridge._idle.children.clear()
    before = count_greenlets()
    monkeypatch.setattr(bridge, "MAX_IDLE", 3)
    await asyncio.gather(*(spawn_greenlet(lambda: await_(double(1))) for _ in range(10)))
    assert len(bridge._idle.children) == 3
    assert count_greenlets() == before + 3


async def test_a_greenlet_runs_one_function_after_another():
    first = await spawn_greenlet(greenlet.getcurrent)
    assert await spawn_greenlet(lambda: (await_(double(1)), greenlet.getcurrent())[1]) is first
    with pytest.raises(Oops):
        await spawn_greenlet(lambda: await_(fail()))
    assert first.dead
    assert await spawn_greenlet(greenlet.getcurrent) is not first


async def test_an_idle_greenlet_keeps_nothing_of_what_it_did():
    class Thing:
        pass

    variable = ContextVar("variable")

    def work(thing, *, more):
        variable.set(more)
        await_(asyncio.sleep(0))
        return Thing()

    things = [Thing(), Thing()]
    seen = [weakref.ref(thing) for thing in things]

    async def call():
        result = await spawn_greenlet(work, things[0], more=things[1])
        seen.append(weakref.ref(result))

    await asyncio.create_task(call())
    things.clear()
    await asyncio.sleep(0)  # the loop keeps the context of the last step
    gc.collect()
    assert [each() for each in seen] == [None, None, None]


async def test_a_greenlet_that_is_used_again_begins_anew():
    variable = ContextVar("variable", default=0)

    def odd():
        bridge.cancel_as(lambda exc: Oops())
        variable.set(1)
        return greenlet.getcurrent()

    used = await asyncio.create_task(spawn_greenlet(odd))

    def sleep():
        assert greenlet.getcurrent() is used
        assert variable.get() == 0
        await_(forever())

    task = asyncio.create_task(spawn_greenlet(sleep))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_exits_its_greenlet_has_that_for_its_result():
    def leave():
        await_(asyncio.sleep(0))
        raise greenlet.GreenletExit("gone")

    assert isinstance(await spawn_greenlet(leave), greenlet.GreenletExit)


def test_each_thread_has_idle_greenlets_of_its_own():
    async def use():
        return await spawn_greenlet(greenlet.getcurrent)

    used = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: used.append(asyncio.run(use())))
        thread.start()
        thread.join()
    assert used[0] is not used[1]
    used.append(asyncio.run(use()))
    assert asyncio.run(use()) is used[2]
    assert len(set(used)) == 3


# Coroutines stepped in the greenlet


def body(number):
    """Plain code that waits, as ``request.body`` does."""
    return await_(double(number))


async def test_plain_code_below_a_stepped_coroutine_can_wait():
    async def view():
        first = body(1)
        await asyncio.sleep(0)
        return first, body(2)

    assert await spawn_greenlet(lambda: run_coroutine(view())) == (2, 4)


async def test_a_synchronized_function_below_a_stepped_coroutine_is_refused(no_warnings):
    async def view():
        with pytest.raises(ScopeError, match="(?s)double.*Await the coroutine directly"):
            synchronize(double)(1)
        return "refused"

    assert await spawn_greenlet(lambda: run_coroutine(view())) == "refused"


async def test_a_lenient_synchronized_function_below_a_stepped_coroutine_gives_the_awaitable():
    lenient = synchronize(double, strict=False)

    async def view():
        await asyncio.sleep(0)
        return await lenient(3)

    def plain():
        return lenient(1), run_coroutine(view()), lenient(2)

    assert await spawn_greenlet(plain) == (2, 6, 4)


async def test_plain_code_is_plain_again_after_a_stepped_coroutine():
    async def view(coroutine):
        run_coroutine(double(1))
        assert not can_wait()
        return await coroutine

    def plain():
        states = [can_wait()]
        run_coroutine(view(double(1)))
        states.append(can_wait())
        with pytest.raises(Oops):
            run_coroutine(view(fail()))
        return [*states, can_wait()]

    assert await spawn_greenlet(plain) == [True, True, True]


async def test_plain_code_in_a_greenlet_of_a_stepped_coroutine_is_plain():
    async def view():
        return await spawn_greenlet(synchronize(double), 2)

    assert await spawn_greenlet(lambda: run_coroutine(view())) == 4


async def test_a_stepped_coroutine_runs_in_the_callers_task_and_context():
    seen = []

    async def view():
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        variable.set("by view")

    await spawn_greenlet(lambda: run_coroutine(view()))
    assert set(seen) == {asyncio.current_task()}
    assert variable.get() == "by view"


async def test_exceptions_are_thrown_into_a_stepped_coroutine_where_it_waits():
    async def view():
        try:
            await fail()
        except Oops:
            return await double(4)

    assert await spawn_greenlet(lambda: run_coroutine(view())) == 8
    with pytest.raises(Oops):
        await spawn_greenlet(lambda: run_coroutine(fail()))


async def test_a_stepped_coroutine_is_cancelled_before_the_plain_code_around_it():
    steps = []
    started = asyncio.Event()

    async def view():
        try:
            await forever(started)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            steps.append("view")
            raise

    def plain():
        try:
            run_coroutine(view())
        finally:
            steps.append("plain")

    task = asyncio.create_task(spawn_greenlet(plain))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["view", "plain"]


async def test_closing_ends_a_stepped_coroutine(no_warnings):
    steps = []

    async def view():
        try:
            await forever()
        finally:
            steps.append("view")
            with pytest.raises(ScopeError):
                await double(1)
            steps.append("refused")

    coroutine = spawn_greenlet(lambda: run_coroutine(view()))
    coroutine.send(None)
    coroutine.close()
    assert steps == ["view", "refused"]


async def test_objects_with_await_and_futures_are_stepped_too():
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return body(4)

    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "future")

    def plain():
        return run_coroutine(Awaitable()), run_coroutine(future)

    assert await spawn_greenlet(plain) == (8, "future")


async def test_an_awaitable_whose_iterator_is_a_plain_one_is_stepped_too():
    class PlainIterator:
        def __init__(self):
            self.steps = 3

        def __iter__(self):
            return self

        def __next__(self):
            self.steps -= 1
            if not self.steps:
                raise StopIteration("done")

    class Awaitable:
        def __await__(self):
            return PlainIterator()

    assert await spawn_greenlet(run_coroutine, Awaitable()) == "done"


async def test_a_step_that_does_not_suspend_switches_to_nobody():
    switches = []

    async def view():
        return "at once"

    def plain():
        before = greenlet.settrace(lambda event, args: switches.append(event))
        try:
            return run_coroutine(view())
        finally:
            greenlet.settrace(before)

    assert await spawn_greenlet(plain) == "at once"
    assert switches == []


async def test_a_thread_steps_a_coroutine_on_the_loop_with_plain_code_that_can_wait():
    async def view():
        return body(3), threading.current_thread()

    result = await use_executor(lambda: run_coroutine(view()))()
    assert result == (6, threading.current_thread())


# Greenlets of other libraries


class Foreign:
    """Plain code in a greenlet that we did not make; the loop runs in its parent."""

    def __init__(self, func):
        self.loop = asyncio.get_running_loop()
        self.result = self.loop.create_future()
        self.func = func
        self.greenlet = greenlet.greenlet(self.run)
        self.loop.call_soon(self.greenlet.switch)

    def run(self):
        try:
            self.result.set_result(self.func())
        except BaseException as exc:
            self.result.set_exception(exc)


async def test_a_foreign_greenlet_waits_in_a_task_of_its_own():
    async def task_and_value():
        return asyncio.current_task(), await double(2)

    task, value = await Foreign(lambda: await_(task_and_value())).result
    assert value == 4
    assert task not in (None, asyncio.current_task())


async def test_a_foreign_greenlet_can_wait_repeatedly_and_on_a_done_future():
    future = asyncio.get_running_loop().create_future()
    future.set_result("done")

    def plain():
        return await_(double(1)), await_(future), synchronize(double)(2), can_wait()

    assert await Foreign(plain).result == (2, "done", 4, True)


async def test_an_exception_is_delivered_to_a_foreign_greenlet():
    def plain():
        with pytest.raises(Oops):
            await_(fail())
        return "caught"

    assert await Foreign(plain).result == "caught"


async def test_a_cancelled_task_is_a_cancellation_in_a_foreign_greenlet():
    started = asyncio.Event()
    task = asyncio.create_task(forever(started))
    foreign = Foreign(lambda: await_(task))
    await started.wait()
    await rounds()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await foreign.result


async def test_a_foreign_greenlet_steps_coroutines_with_plain_code_that_can_wait():
    async def view():
        await asyncio.sleep(0)
        return body(3)

    assert await Foreign(lambda: run_coroutine(view())).result == 6


async def test_killing_a_foreign_greenlet_cancels_what_it_waits_for(no_warnings):
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def coroutine():
        try:
            await forever(started)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    foreign = Foreign(lambda: await_(coroutine()))
    await started.wait()
    foreign.greenlet.throw()
    await cancelled.wait()
    assert foreign.greenlet.dead
    with pytest.raises(greenlet.GreenletExit):
        await foreign.result
    assert len(asyncio.all_tasks()) == 1


async def test_a_foreign_greenlet_that_others_switch_to_goes_on_waiting():
    go = asyncio.Event()

    async def coroutine():
        await go.wait()
        return "the result"

    foreign = Foreign(lambda: await_(coroutine()))
    await rounds()
    foreign.greenlet.switch("from somebody else")
    await rounds()
    assert not foreign.result.done()
    go.set()
    assert await foreign.result == "the result"


async def test_hundreds_of_foreign_greenlets_interleave():
    def plain(number):
        return [await_(double(number + step)) for step in range(5)]

    foreigners = [Foreign(lambda number=number: plain(number)) for number in range(200)]
    results = await asyncio.gather(*(foreign.result for foreign in foreigners))
    assert results == [[2 * (number + step) for step in range(5)] for number in range(200)]
