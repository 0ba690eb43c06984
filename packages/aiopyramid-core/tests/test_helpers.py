import asyncio
import functools
import re
import threading

import pytest
from pyramid.exceptions import ConfigurationError

from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import (
    as_coroutine_function,
    is_coroutine_function,
    is_generator,
    spawn_greenlet,
    spawn_greenlet_on_scope_error,
    synchronize,
    use_executor,
)

pytestmark = pytest.mark.both_loops


async def double(number):
    """Twice the number."""
    await asyncio.sleep(0)
    return 2 * number


def generator_function(number=1):
    yield from asyncio.sleep(0)
    return 2 * number


async def async_generator_function():
    yield 1


def plain(number=1):
    return 2 * number


class Callable:
    def __init__(self, factor=2):
        self.factor = factor

    async def __call__(self, number):
        await asyncio.sleep(0)
        return self.factor * number

    async def coroutine(self, number):
        return self.factor * number

    def generator(self, number):
        yield from asyncio.sleep(0)
        return self.factor * number

    def plain(self, number):
        return self.factor * number

    @classmethod
    async def class_method(cls, number):
        return 2 * number

    @staticmethod
    async def static_method(number):
        return 2 * number


class PlainCallable:
    def __call__(self, number):
        return number


class GeneratorCallable:
    def __call__(self, number):
        yield from asyncio.sleep(0)
        return 2 * number


def decorated(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


COROUTINES = [
    double,
    generator_function,
    Callable(),
    GeneratorCallable(),
    Callable().coroutine,
    Callable().generator,
    Callable.class_method,
    Callable.static_method,
    functools.partial(double),
    functools.partial(functools.partial(generator_function)),
    functools.partial(Callable()),
    decorated(double),
    decorated(generator_function),
    decorated(decorated(Callable().coroutine)),
    functools.partial(decorated(double)),
    decorated(functools.partial(double)),
    use_executor(plain),
]

NO_COROUTINES = [
    plain,
    PlainCallable(),
    Callable().plain,
    Callable,
    functools.partial(plain),
    decorated(plain),
    async_generator_function,
    len,
    None,
    42,
    "text",
    synchronize(double),
    decorated(synchronize(double)),
    functools.partial(synchronize(double)),
    spawn_greenlet_on_scope_error(plain),
]


# Telling kinds apart


async def test_generator_functions_generators_and_futures_are_generators():
    assert is_generator(generator_function)
    generator = generator_function()
    assert is_generator(generator)
    assert is_generator(asyncio.get_running_loop().create_future())
    task = asyncio.create_task(double(1))
    assert is_generator(task)
    assert await task == 2


@pytest.mark.parametrize("thing", [double, plain, async_generator_function, iter([]), None, len])
def test_everything_else_is_no_generator(thing):
    assert not is_generator(thing)


def test_a_coroutine_is_no_generator():
    coroutine = double(1)
    assert not is_generator(coroutine)
    coroutine.close()


def described(func):
    """Name a test, without an address that is different in each process."""
    return re.sub(r" at 0x\w+", "", repr(func))


@pytest.mark.parametrize("func", COROUTINES, ids=described)
def test_coroutine_functions_are_found_in_all_their_wrappings(func):
    assert is_coroutine_function(func)


@pytest.mark.parametrize("func", NO_COROUTINES, ids=described)
def test_what_gives_nothing_to_await_is_no_coroutine_function(func):
    assert not is_coroutine_function(func)


def test_a_coroutine_function_around_a_synchronized_one_is_a_coroutine_function():
    # functools.wraps copies the attributes of what it wraps.
    @functools.wraps(synchronize(double))
    async def around(number):
        return number

    assert is_coroutine_function(around)
    assert is_coroutine_function(use_executor(synchronize(double)))


async def test_a_generator_function_can_be_awaited_after_being_marked():
    def func(number):
        yield from asyncio.sleep(0)
        result = yield from double(number)
        return result

    assert as_coroutine_function(func) is func
    assert await func(2) == 4


async def test_the_generator_function_inside_of_a_partial_and_a_method_is_marked():
    def func(number):
        result = yield from double(number)
        return result

    partial = functools.partial(decorated(func), 3)
    assert as_coroutine_function(partial) is partial
    assert await partial() == 6

    class View:
        def method(self, number):
            result = yield from double(number)
            return result

    view = View()
    as_coroutine_function(view.method)
    assert await view.method(4) == 8


async def test_the_generator_function_inside_of_a_plain_partial_is_marked():
    def func(number):
        result = yield from double(number)
        return result

    assert await as_coroutine_function(functools.partial(func, 3))() == 6

    class View:
        def method(self, number):
            result = yield from double(number)
            return result

    assert await as_coroutine_function(functools.partial(View().method, 4))() == 8


# synchronize


@pytest.mark.parametrize("func", COROUTINES, ids=described)
async def test_a_synchronized_coroutine_gives_plain_code_its_value(func):
    assert await spawn_greenlet(synchronize(func), 21) == 42


async def test_a_synchronized_coroutine_gives_a_thread_its_value():
    assert await use_executor(synchronize(double))(21) == 42


async def test_synchronize_is_a_decorator_with_and_without_arguments():
    @synchronize
    async def one():
        return 1

    @synchronize()
    async def two():
        return 2

    @synchronize(strict=False)
    async def three():
        return 3

    assert await spawn_greenlet(lambda: (one(), two(), three())) == (1, 2, 3)


async def test_synchronized_methods_get_their_instance():
    class View:
        factor = 3

        @synchronize
        async def method(self, number, *, plus=0):
            await asyncio.sleep(0)
            return self.factor * number + plus

        @classmethod
        @synchronize
        async def class_method(cls):
            return cls.factor

    view = View()
    result = await spawn_greenlet(lambda: (view.method(2, plus=1), View.class_method()))
    assert result == (7, 3)


def test_a_synchronized_function_keeps_its_name_and_docstring():
    assert synchronize(double).__name__ == "double"
    assert synchronize(double).__doc__ == "Twice the number."
    assert synchronize(double).__wrapped__ is double


@pytest.mark.parametrize(
    "func", [plain, PlainCallable(), async_generator_function, synchronize(double)], ids=described
)
def test_synchronize_refuses_what_is_no_coroutine_function(func):
    with pytest.raises(ConfigurationError, match="is not a coroutine function") as caught:
        synchronize(func)
    assert repr(func) in str(caught.value)


async def test_a_lenient_synchronize_takes_plain_functions_that_return_awaitables():
    def returns_coroutine(number):
        return double(number)

    lenient = synchronize(returns_coroutine, strict=False)
    assert await spawn_greenlet(lenient, 2) == 4
    assert await lenient(3) == 6


async def test_a_synchronized_function_is_refused_in_a_coroutine_before_it_is_called(no_warnings):
    called = []

    @synchronize
    async def func():
        called.append(True)

    with pytest.raises(ScopeError, match="func cannot be waited for here") as caught:
        func()
    assert "Await the coroutine directly" in str(caught.value)
    assert "spawn_greenlet" in str(caught.value)
    assert called == []


async def test_a_lenient_synchronized_function_gives_a_coroutine_the_awaitable():
    assert await synchronize(double, strict=False)(2) == 4


def test_a_synchronized_function_without_a_loop_gets_one():
    assert synchronize(double)(1) == 2


async def test_exceptions_come_out_of_a_synchronized_function():
    @synchronize
    async def fail():
        await asyncio.sleep(0)
        raise KeyError("key")

    with pytest.raises(KeyError, match="key"):
        await spawn_greenlet(fail)


# spawn_greenlet_on_scope_error


@spawn_greenlet_on_scope_error
def waits(number, *, plus=0):
    """Wait."""
    return synchronize(double)(number) + plus


async def test_a_function_for_both_gives_plain_code_its_result():
    assert await spawn_greenlet(lambda: waits(2, plus=1)) == 5
    assert await use_executor(lambda: waits(2, plus=1))() == 5


async def test_a_function_for_both_gives_a_coroutine_something_to_await():
    assert await waits(2, plus=1) == 5


async def test_a_function_for_both_gives_a_coroutine_below_plain_code_something_to_await():
    async def coroutine():
        await asyncio.sleep(0)
        return await waits(3)

    assert await spawn_greenlet(lambda: synchronize(coroutine)()) == 6


async def test_exceptions_come_out_of_a_function_for_both():
    @spawn_greenlet_on_scope_error
    def fail():
        raise KeyError("key")

    with pytest.raises(KeyError):
        await fail()
    with pytest.raises(KeyError):
        await spawn_greenlet(lambda: fail())


def test_a_function_for_both_keeps_its_name_and_docstring():
    assert waits.__name__ == "waits"
    assert waits.__doc__ == "Wait."


def test_a_function_for_both_gives_plain_code_without_a_loop_its_result(no_warnings):
    # A coroutine would be true, whatever the result.
    result = spawn_greenlet_on_scope_error(plain)(2)
    if asyncio.iscoroutine(result):
        result.close()
    assert result == 4
    assert waits(1) == 2


# use_executor


async def test_use_executor_is_a_decorator_with_and_without_arguments():
    @use_executor
    def one(number, *, plus):
        return number + plus, threading.current_thread()

    @use_executor()
    def two():
        return threading.current_thread()

    result, thread = await one(1, plus=2)
    assert result == 3
    assert threading.current_thread() not in (thread, await two())


def test_use_executor_keeps_name_and_docstring():
    def func():
        """Block."""

    assert use_executor(func).__name__ == "func"
    assert use_executor(func).__doc__ == "Block."


async def test_methods_in_an_executor_get_their_instance():
    class View:
        factor = 3

        @use_executor
        def method(self, number):
            return self.factor * number

    assert await View().method(2) == 6
