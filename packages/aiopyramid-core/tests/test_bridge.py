import asyncio
import contextlib
import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import greenlet
import pytest
from coroutines import Oops, double, fail, forever, rounds

from aiopyramid import bridge
from aiopyramid.bridge import await_, can_wait, in_worker_thread, run_coroutine, spawn_greenlet
from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import synchronize, use_executor

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


async def test_a_coroutine_begun_in_one_greenlet_is_continued_in_another():
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


def test_the_main_thread_without_a_loop_cannot_wait(no_warnings):
    with pytest.raises(ScopeError, match="works for no running event loop") as caught:
        await_(double(1))
    assert "MainThread" in str(caught.value)
    assert "use_executor" in str(caught.value)
    with pytest.raises(ScopeError):
        run_coroutine(double(1))
    with pytest.raises(ScopeError):
        synchronize(double)(1)


def test_another_thread_without_a_loop_cannot_wait(no_warnings):
    with ThreadPoolExecutor(1, "lonely") as executor:
        error = executor.submit(lambda: await_(double(1))).exception()
    assert isinstance(error, ScopeError)
    assert "lonely" in str(error)


def test_a_thread_that_outlives_its_loop_cannot_wait(no_warnings):
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
        with pytest.raises(ScopeError):
            executor.submit(lambda: await_(double(1))).result()


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


def test_without_a_loop_nothing_can_wait():
    assert not can_wait()


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
            with pytest.raises(ScopeError):
                await_(double(1))
            with pytest.raises(ScopeError):
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


async def test_finished_greenlets_are_not_kept():
    def count():
        gc.collect()
        return sum(isinstance(thing, bridge.Child) for thing in gc.get_objects())

    before = count()
    for _ in range(20):
        await spawn_greenlet(lambda: await_(double(1)))
        with pytest.raises(Oops):
            await spawn_greenlet(lambda: await_(fail()))
        with pytest.raises(Oops):
            await spawn_greenlet(lambda: run_coroutine(fail()))
    assert count() == before


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
