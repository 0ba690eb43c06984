import asyncio
import contextvars
import random
import threading

import pytest
from pyramid import testing
from pyramid.exceptions import ConfigurationError
from pyramid.registry import global_registry
from pyramid.request import Request
from pyramid.threadlocal import (
    RequestContext,
    ThreadLocalManager,
    get_current_registry,
    get_current_request,
    manager,
)

from aiopyramid import threadlocal
from aiopyramid.helpers import spawn_greenlet, synchronize, use_executor


@pytest.fixture
def installed():
    threadlocal.install()


def entry(name):
    return {"request": name, "registry": f"registry of {name}"}


def in_new_thread(func):
    result = []
    thread = threading.Thread(target=lambda: result.append(func()))
    thread.start()
    thread.join()
    return result[0]


# Installing


def test_installing_and_uninstalling_leaves_pyramid_as_it_was():
    threadlocal.install()
    assert type(manager) is threadlocal.ContextLocalManager
    assert isinstance(manager, ThreadLocalManager)
    threadlocal.uninstall()
    assert type(manager) is ThreadLocalManager
    assert manager.stack == []
    assert get_current_request() is None


def test_installing_twice_does_nothing(installed):
    manager.push(entry("one"))
    threadlocal.install()
    assert get_current_request() == "one"
    threadlocal.uninstall()
    assert type(manager) is ThreadLocalManager
    assert get_current_request() == "one"


def test_uninstalling_what_is_not_installed_does_nothing():
    manager.push(entry("one"))
    threadlocal.uninstall()
    assert type(manager) is ThreadLocalManager
    assert get_current_request() == "one"


def test_entries_pushed_before_installing_are_still_seen():
    manager.push(entry("before"))
    threadlocal.install()
    assert get_current_request() == "before"
    manager.push(entry("after"))
    assert get_current_request() == "after"
    assert manager.pop() == entry("after")
    assert get_current_request() == "before"
    assert manager.pop() == entry("before")
    assert get_current_request() is None


def test_entries_pushed_before_uninstalling_are_still_seen(installed):
    manager.push(entry("one"))
    manager.push(entry("two"))
    threadlocal.uninstall()
    assert manager.pop() == entry("two")
    assert get_current_request() == "one"


def test_it_can_be_installed_again_after_uninstalling(installed):
    manager.push(entry("one"))
    threadlocal.uninstall()
    manager.pop()
    threadlocal.install()
    assert get_current_request() is None


# The manager's own methods


def test_the_manager_works_like_pyramids_own(installed):
    assert manager.pop() is None
    assert manager.get() == {"request": None, "registry": global_registry}
    manager.push(entry("one"))
    manager.set(entry("two"))
    assert manager.stack == [entry("one"), entry("two")]
    assert get_current_request() == "two"
    assert get_current_registry() == "registry of two"
    manager.clear()
    assert manager.stack == []
    assert manager.pop() is None
    assert manager.get() == {"request": None, "registry": global_registry}


def test_clear_hides_what_was_pushed_before_installing():
    manager.push(entry("before"))
    threadlocal.install()
    manager.clear()
    assert get_current_request() is None


def test_the_stack_that_is_handed_out_is_a_copy(installed):
    manager.push(entry("one"))
    manager.stack.append(entry("two"))
    assert manager.stack == [entry("one")]


def test_a_request_context_nests(installed):
    outer, inner = Request.blank("/outer"), Request.blank("/inner")
    outer.registry = inner.registry = object()
    with RequestContext(outer):
        with RequestContext(inner):
            assert get_current_request() is inner
        assert get_current_request() is outer
    assert get_current_request() is None


def test_pyramid_testing_works(installed):
    request = testing.DummyRequest()
    config = testing.setUp(request=request)
    assert get_current_request() is request
    assert get_current_registry() is config.registry
    testing.tearDown()
    assert get_current_request() is None
    assert get_current_registry() is global_registry


def test_pyramid_testing_works_when_it_is_installed_between_set_up_and_tear_down():
    request = testing.DummyRequest()
    config = testing.setUp(request=request)
    config.include("aiopyramid")
    assert get_current_request() is request
    testing.tearDown()
    assert get_current_request() is None


async def test_coroutines_see_what_pyramid_testing_has_set_up(installed):
    request = testing.DummyRequest()

    async def coroutine():
        await asyncio.sleep(0)
        return get_current_request()

    with testing.testConfig(request=request):
        assert await coroutine() is request
        assert await asyncio.create_task(coroutine()) is request
        assert await use_executor(get_current_request)() is request
    assert get_current_request() is None


# Contexts and threads


def test_a_context_keeps_its_own_stack(installed):
    context = contextvars.copy_context()
    context.run(manager.push, entry("theirs"))
    manager.push(entry("ours"))
    assert context.run(get_current_request) == "theirs"
    assert get_current_request() == "ours"


def test_a_copied_context_begins_with_the_same_stack_and_goes_its_own_way(installed):
    manager.push(entry("common"))
    context = contextvars.copy_context()
    context.run(manager.pop)
    assert context.run(get_current_request) is None
    assert get_current_request() == "common"


def test_a_fresh_thread_sees_the_defaults(installed):
    manager.push(entry("ours"))

    def look():
        seen = [get_current_request(), get_current_registry(), manager.pop()]
        manager.push(entry("theirs"))
        return [*seen, get_current_request()]

    assert in_new_thread(look) == [None, global_registry, None, "theirs"]
    assert get_current_request() == "ours"


def test_a_fresh_thread_sees_the_defaults_though_this_one_pushed_before_installing():
    manager.push(entry("before"))
    threadlocal.install()
    assert in_new_thread(get_current_request) is None


async def test_threads_of_use_executor_see_the_request(installed):
    manager.push(entry("ours"))
    assert await use_executor(get_current_request)() == "ours"


async def test_what_a_thread_of_use_executor_leaves_on_the_stack_stays_there(installed):
    await use_executor(manager.push)(entry("theirs"))
    assert get_current_request() == "theirs"


async def test_plain_code_in_a_greenlet_sees_the_request_and_can_change_it(installed):
    @synchronize
    async def coroutine():
        await asyncio.sleep(0)
        return get_current_request()

    def plain():
        seen = [get_current_request(), coroutine()]
        manager.push(entry("inner"))
        return [*seen, coroutine()]

    manager.push(entry("ours"))
    assert await spawn_greenlet(plain) == ["ours", "ours", "inner"]
    assert get_current_request() == "inner"


# Requests that are interleaved


async def interleave(count, finished):
    chance = random.Random(1)

    async def pause(name):
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
            assert get_current_request() == name

    def in_thread(name):
        assert get_current_request() == name
        synchronize(pause)(name)
        assert get_current_request() == name

    def request(name):
        assert get_current_request() is None
        manager.push(entry(name))
        for depth in range(4):
            synchronize(pause)(name)
            assert get_current_request() == name
            inner = f"{name}, subrequest {depth}"
            manager.push(entry(inner))
            synchronize(pause)(inner)
            if depth == 2:
                synchronize(use_executor(in_thread))(inner)
            assert manager.pop() == entry(inner)
            assert get_current_registry() == f"registry of {name}"
        assert manager.pop() == entry(name)
        assert manager.stack == []
        finished.append(name)

    await asyncio.gather(*(spawn_greenlet(request, f"request {n}") for n in range(count)))


async def test_each_of_many_interleaved_requests_sees_only_itself(installed):
    finished = []
    await interleave(80, finished)
    assert sorted(finished) == sorted(f"request {n}" for n in range(80))
    assert finished != [f"request {n}" for n in range(80)], "they did not interleave"


async def test_pyramids_own_manager_would_mix_them_up():
    with pytest.raises(AssertionError):
        await interleave(80, [])


def test_thread_locals_that_gevent_has_patched_are_refused(monkeypatch):
    class Slotted:
        __slots__ = ()

    monkeypatch.setattr(threadlocal, "manager", Slotted())
    with pytest.raises(ConfigurationError, match="gevent has patched"):
        threadlocal.install()
