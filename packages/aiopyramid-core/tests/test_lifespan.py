from __future__ import annotations

import asyncio
import contextlib
import functools
from types import SimpleNamespace

import pytest
from coroutines import Oops, rounds
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from pyramid.request import Request
from pyramid.response import Response
from pyramid.threadlocal import get_current_registry

from aiopyramid import homes, lifespan
from aiopyramid.bridge import await_
from aiopyramid.homes import home_here
from aiopyramid.lifespan import BackgroundTask, Lifespan, entering


@pytest.fixture
def events():
    return []


@pytest.fixture
def recorder(events):
    """Make a lifespan that records when it is entered and left."""

    def recorder(name, *, enter=None, leave=None):
        @contextlib.asynccontextmanager
        async def recorder(registry):
            events.append(f"enter {name}")
            await asyncio.sleep(0)
            if enter is not None:
                raise enter
            setattr(registry, name, asyncio.get_running_loop())
            try:
                yield
            finally:
                await asyncio.sleep(0)
                events.append(f"leave {name}")
                if leave is not None:
                    raise leave

        return recorder

    return recorder


def made(config):
    config.make_wsgi_app()
    return config.registry[Lifespan]


# Configuration


def test_an_application_without_any_has_no_lifespan(config):
    config.make_wsgi_app()
    assert Lifespan not in config.registry
    assert lifespan._lifespans == []


def generator(registry):
    yield


async def asynchronous(registry):
    yield


async def coroutine(registry):
    """Return at once."""


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (3, "needs a callable, not 3"),
        (asynchronous, r"asynchronous\).*decorate.*@contextlib\.asynccontextmanager"),
        (coroutine, r"coroutine\).*must return an asynchronous context manager"),
    ],
)
def test_what_makes_no_context_manager_is_refused(config, factory, text):
    with pytest.raises(ConfigurationError, match=text):
        config.add_lifespan(factory)


def plain(registry):
    """Return at once."""


@pytest.mark.parametrize("function", [3, plain, asynchronous])
def test_what_is_no_coroutine_function_is_no_background_task(config, function):
    with pytest.raises(ConfigurationError, match="needs a coroutine function, not"):
        config.add_background_task(function)


def test_a_wrong_on_error_is_refused(config):
    with pytest.raises(ConfigurationError, match=r"on_error = 'ignore' must be 'restart' or 'st"):
        config.add_background_task(coroutine, on_error="ignore")


def test_partials_and_objects_can_be_background_tasks(config):
    class Callable:
        async def __call__(self, registry):
            """Return at once."""

    config.add_background_task(functools.partial(coroutine))
    config.add_background_task(Callable())
    assert len(made(config).tasks) == 2


def test_dotted_names_are_resolved(config):
    config.add_lifespan("contextlib.nullcontext")
    config.add_background_task("asyncio.sleep")
    assert made(config).factories == [contextlib.nullcontext]
    assert made(config).tasks == [BackgroundTask(asyncio.sleep, "restart")]


def test_they_can_be_introspected(config):
    config.add_lifespan(contextlib.nullcontext)
    config.add_background_task(coroutine, on_error="stop")
    config.commit()
    [factory] = config.introspector.get_category("lifespans")
    [task] = config.introspector.get_category("background tasks")
    assert factory["introspectable"]["factory"] is contextlib.nullcontext
    assert factory["introspectable"].title == "nullcontext"
    assert dict(task["introspectable"]) == {"function": coroutine, "on_error": "stop"}


def test_the_same_one_twice_is_a_conflict(config):
    config.add_lifespan(contextlib.nullcontext)
    config.include(lambda config: config.add_lifespan(contextlib.nullcontext))
    config.commit()  # the outer one wins, as ever in Pyramid

    def one(config):
        config.add_background_task(coroutine)

    def other(config):
        config.add_background_task(coroutine, on_error="stop")

    config.include(one)
    config.include(other)
    with pytest.raises(ConfigurationConflictError):
        config.commit()


# Entering and leaving


async def test_they_are_entered_in_order_and_left_in_reverse(config, events, recorder):
    config.add_lifespan(recorder("first"))
    config.add_lifespan(recorder("second"))
    life = made(config)
    assert not life.is_entered
    await life.enter()
    assert events == ["enter first", "enter second"]
    assert life.is_entered
    assert config.registry.first is asyncio.get_running_loop()
    await life.enter()  # it is
    assert len(events) == 2
    await life.leave()
    assert events == ["enter first", "enter second", "leave second", "leave first"]
    assert not life.is_entered
    await life.leave()
    await life.enter()
    assert events[4:] == ["enter first", "enter second"]
    await life.leave()


async def test_all_that_ask_wait_until_they_are_entered(config, events, recorder):
    config.add_lifespan(recorder("one"))
    life = made(config)
    await asyncio.gather(*(life.enter() for _ in range(3)))
    assert events == ["enter one"]
    assert life.is_entered
    await life.leave()


async def test_if_one_cannot_be_entered_those_before_it_are_left(config, events, recorder):
    config.add_lifespan(recorder("first"))
    config.add_lifespan(recorder("second", enter=Oops("no database")))
    config.add_lifespan(recorder("third"))
    life = made(config)
    with pytest.raises(Oops, match="no database"):
        await life.enter()
    assert events == ["enter first", "enter second", "leave first"]
    assert not life.is_entered
    with pytest.raises(Oops):  # it is tried again
        await life.enter()


async def test_who_is_cancelled_while_waiting_cancels_nobody_else(config, recorder):
    config.add_lifespan(recorder("one"))
    life = made(config)
    first = asyncio.create_task(life.enter())
    second = asyncio.create_task(life.enter())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert life.is_entered
    await life.leave()


async def test_what_is_being_entered_can_be_left(config, events):
    @contextlib.asynccontextmanager
    async def slow(registry):
        try:
            events.append("begin")
            await asyncio.Event().wait()
        finally:
            events.append("end")
        yield

    config.add_lifespan(slow)
    life = made(config)
    task = asyncio.create_task(life.enter())
    await rounds()
    await life.leave()
    await asyncio.wait([task])
    assert task.cancelled()
    assert events == ["begin", "end"]


async def test_a_lifespan_can_hold_a_task_group_open(config, events):
    @contextlib.asynccontextmanager
    async def group(registry):
        async with asyncio.TaskGroup() as group, asyncio.timeout(60):
            registry.group = group
            yield

    async def work():
        events.append("worked")

    config.add_lifespan(group)
    life = made(config)
    await life.enter()
    config.registry.group.create_task(work())
    await life.leave()
    assert events == ["worked"]


async def test_its_code_sees_the_registry_of_its_application(config, events):
    @contextlib.asynccontextmanager
    async def look(registry):
        events.append(get_current_registry())
        yield
        events.append(get_current_registry())

    config.add_lifespan(look)
    life = made(config)
    await life.enter()
    assert get_current_registry() is not config.registry
    await life.leave()
    assert events == [config.registry] * 2


async def test_the_end_of_the_loop_leaves_them(config, events, recorder, caplog):
    config.add_lifespan(recorder("fails", leave=Oops("cannot leave")))
    life = made(config)
    await life.enter()
    await home_here().end(5)
    assert events == ["enter fails", "leave fails"]
    [record] = caplog.records
    assert record.exc_info[0] is Oops
    assert "the lifespan of packages.aiopyramid-core.tests failed to end" in record.getMessage()
    await home_here().end(5)
    assert len(events) == 2


async def test_a_slow_end_is_cancelled(config, events, caplog):
    @contextlib.asynccontextmanager
    async def slow(registry):
        yield
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("cancelled")

    config.add_lifespan(slow)
    await made(config).enter()
    await home_here().end(0.01)
    assert events == ["cancelled"]
    assert "did not end within" in caplog.text


async def test_one_that_ends_by_itself_stops_the_process(config, monkeypatch, caplog):
    async def fail():
        raise Oops("in the group")

    @contextlib.asynccontextmanager
    async def group(registry):
        async with asyncio.TaskGroup() as group:
            registry.group = group
            yield

    stopped = []
    home_here().stop = stopped.append
    config.add_lifespan(group)
    life = made(config)
    await life.enter()
    config.registry.group.create_task(fail())
    await rounds()
    [exception] = stopped
    assert isinstance(exception.exceptions[0], Oops)
    [record] = caplog.records
    assert record.exc_info[1] is exception
    assert not life.is_entered


async def test_a_loop_that_ends_without_leaving_is_no_failure(config, events, recorder, caplog):
    stopped = []
    home_here().stop = stopped.append
    config.add_lifespan(recorder("one"))
    life = made(config)
    await life.enter()
    task = life._run.task
    task.cancel()
    await asyncio.wait([task])
    assert events == ["enter one", "leave one"]
    assert (stopped, caplog.records) == ([], [])
    await life.leave()


async def test_all_applications_are_entered_that_have_been_created(events, recorder):
    configs = [Configurator() for _ in range(3)]
    for name, config in zip("abc", configs, strict=True):
        config.include("aiopyramid")
        config.add_lifespan(recorder(name))
    for config in configs[:2]:
        config.make_wsgi_app()
    configs[2].commit()
    await entering()
    assert entering() is None
    assert events == ["enter a", "enter b"]
    await home_here().end(5)
    assert events == ["enter a", "enter b", "leave b", "leave a"]


def test_applications_that_are_gone_are_forgotten():
    gone = Lifespan(SimpleNamespace(__name__="gone"))
    lifespan._created(SimpleNamespace(app=SimpleNamespace(registry={Lifespan: gone})))
    assert len(lifespan._lifespans) == 1
    del gone
    assert entering() is None
    assert lifespan._lifespans == []


# On the process's own loop


def test_code_outside_of_requests_enters_them_when_it_first_waits(config, events, recorder):
    config.add_lifespan(recorder("one"))
    config.make_wsgi_app()
    assert events == []
    assert await_(asyncio.sleep(0, "waited")) == "waited"
    assert events == ["enter one"]
    await_(asyncio.sleep(0))
    homes.own_loop.end()
    assert events == ["enter one", "leave one"]


def test_background_tasks_begin_for_requests_only(config, events):
    async def task(registry):
        events.append("task")

    config.add_background_task(task)
    config.add_view(lambda request: Response(""))
    app = config.make_wsgi_app()
    await_(asyncio.sleep(0))
    assert config.registry[Lifespan].is_entered
    for _ in range(2):
        Request.blank("/").get_response(app)
        await_(asyncio.sleep(0))
    assert events == ["task"]


def test_a_process_that_ends_without_exit_handlers_can_leave_them(config, events, recorder):
    config.add_lifespan(recorder("one"))
    config.make_wsgi_app()
    await_(asyncio.sleep(0))
    lifespan.leave()
    assert events == ["enter one", "leave one"]
    lifespan.leave()


def test_a_request_enters_those_of_its_application(config, events, recorder):
    def view(request):
        return Response(repr(request.registry.one is homes.process_home.loop))

    config.add_lifespan(recorder("one"))
    config.add_view(view)
    app = config.make_wsgi_app()
    other = Configurator()
    other.include("aiopyramid")
    other.add_lifespan(recorder("other"))
    other.make_wsgi_app()
    for _ in range(2):
        assert Request.blank("/").get_response(app).text == "True"
    assert events == ["enter one"]


def test_a_request_gets_the_exception_of_one_that_cannot_be_entered(config, recorder):
    config.add_lifespan(recorder("one", enter=Oops("no database")))
    app = config.make_wsgi_app()
    for _ in range(2):
        with pytest.raises(Oops, match="no database"):
            Request.blank("/").get_response(app)


async def test_another_loop_takes_them_over(config, events, recorder):
    config.add_lifespan(recorder("one"))
    life = made(config)
    home = homes.own_loop.start()
    await asyncio.to_thread(
        lambda: asyncio.run_coroutine_threadsafe(life.enter(), home.loop).result()
    )
    assert config.registry.one is home.loop
    await life.enter()
    assert config.registry.one is asyncio.get_running_loop()
    assert events == ["enter one", "leave one", "enter one"]
    await life.leave()


@pytest.mark.parametrize("how", ["to_thread", "executor"])
def test_threads_of_a_lifespan_can_wait_while_it_is_entered_and_left(config, events, how):
    def plain():
        return await_(asyncio.sleep(0, "waited"))

    async def in_thread():
        if how == "to_thread":
            return await asyncio.to_thread(plain)
        return await asyncio.get_running_loop().run_in_executor(None, plain)

    @contextlib.asynccontextmanager
    async def threads(registry):
        events.append(f"enter, {await in_thread()}")
        yield
        events.append(f"leave, {await in_thread()}")

    config.add_lifespan(threads)
    config.add_view(lambda request: Response(""))
    app = config.make_wsgi_app()
    Request.blank("/").get_response(app)
    homes.own_loop.end()
    assert events == ["enter, waited", "leave, waited"]
    await_(asyncio.sleep(0))
    assert events[2:] == ["enter, waited"]


def test_when_the_process_ends_nothing_is_entered_any_more(config, events, recorder):
    config.add_lifespan(recorder("one"))
    config.add_view(lambda request: Response(""))
    app = config.make_wsgi_app()
    await_(asyncio.sleep(0))
    homes.own_loop.leave()
    assert await_(asyncio.sleep(0, "waited")) == "waited"
    with pytest.raises(RuntimeError, match="is not entered any more: the process ends"):
        Request.blank("/").get_response(app)
    assert events == ["enter one", "leave one"]


async def test_who_enters_while_others_leave_waits_for_them(config, events, recorder):
    config.add_lifespan(recorder("one"))
    life = made(config)
    await life.enter()
    leaving = asyncio.create_task(life.leave())
    await asyncio.sleep(0)
    assert entering() is None
    await life.enter()
    assert events == ["enter one", "leave one", "enter one"]
    await leaving
    await life.leave()


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_what_would_end_the_loop_is_an_ordinary_error(config, recorder, error, caplog):
    config.add_lifespan(recorder("enter", enter=error))
    with pytest.raises(RuntimeError, match="the lifespan of .* raised ") as caught:
        await made(config).enter()
    assert caught.value.__cause__ is error
    other = Configurator()
    other.include("aiopyramid")
    other.add_lifespan(recorder("leave", leave=error))
    await made(other).enter()
    await home_here().end(5)
    [record] = caplog.records
    assert "failed to end" in record.getMessage()
    assert record.exc_info[1].__cause__ is error


async def test_one_that_cannot_be_entered_leaves_nothing_behind(config, recorder):
    config.add_lifespan(recorder("one", enter=Oops()))
    life = made(config)
    for _ in range(3):
        with pytest.raises(Oops):
            await life.enter()
    assert home_here().endings == []


def test_a_loop_that_is_closed_without_an_end_stops_nothing(config, monkeypatch):
    monkeypatch.setattr(homes, "interrupt_process", pytest.fail)
    config.add_lifespan(lambda registry: contextlib.nullcontext())
    life = made(config)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(life.enter())
    coroutine = life._run.task.get_coro()
    life._run.task._log_destroy_pending = False
    coroutine.close()


# Background tasks


@pytest.fixture
def clock(monkeypatch):
    """Make `asyncio.sleep` of background tasks return at once, and record for how long."""
    slept = []
    sleep = asyncio.sleep

    async def record(delay):
        slept.append(delay)
        await sleep(0)

    monkeypatch.setattr(lifespan.asyncio, "sleep", record)
    return slept


async def test_a_background_task_runs_between_entering_and_leaving(config, events, recorder):
    async def task(registry):
        events.append(("begin", registry is config.registry, hasattr(registry, "one")))
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("end")

    config.add_background_task(task)  # added before what it uses
    config.add_lifespan(recorder("one"))
    life = made(config)
    await life.enter()
    await rounds()
    await life.leave()
    assert events == ["enter one", ("begin", True, True), "end", "leave one"]


async def test_a_background_task_that_returns_is_done(config, clock):
    calls = []

    async def task(registry):
        calls.append(registry)

    config.add_background_task(task)
    life = made(config)
    await life.enter()
    await rounds()
    await life.leave()
    assert len(calls) == 1
    assert set(clock) == {0}  # the test's own


async def test_a_background_task_that_fails_begins_again_later_and_later(clock, caplog):
    runs = []

    async def task(registry):
        runs.append(registry)
        if len(runs) < 10:
            raise Oops(f"run {len(runs)}")

    await BackgroundTask(task, "restart").run("registry", pytest.fail)
    assert clock == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(caplog.records) == 9
    assert all(record.exc_info[0] is Oops for record in caplog.records)
    assert "task failed, and begins again in 4 s" in caplog.records[2].getMessage()


async def test_after_a_long_run_the_first_delay_is_short_again(clock, monkeypatch):
    runs = []

    async def task(registry):
        runs.append(registry)
        monkeypatch.setattr(lifespan, "HEALTHY", 0 if len(runs) == 4 else 60)
        if len(runs) < 6:
            raise Oops

    await BackgroundTask(task, "restart").run("registry", pytest.fail)
    assert clock == [1, 2, 4, 1, 2]


@pytest.mark.parametrize("error", [Oops("broken"), SystemExit(3)])
async def test_a_background_task_can_stop_the_worker(error, clock, caplog):
    async def task(registry):
        raise error

    stopped = []
    await BackgroundTask(task, "stop").run("registry", stopped.append)
    assert stopped == [error]
    assert clock == []
    [record] = caplog.records
    assert record.exc_info[1] is error


async def test_a_background_task_that_exits_stops_the_worker_in_any_case(clock):
    async def task(registry):
        raise SystemExit

    stopped = []
    await BackgroundTask(task, "restart").run("registry", stopped.append)
    assert len(stopped) == 1


async def test_a_cancellation_that_comes_from_inside_is_a_failure(clock):
    runs = []

    async def task(registry):
        runs.append(registry)
        if len(runs) == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    await BackgroundTask(task, "restart").run("registry", pytest.fail)
    assert len(runs) == 2
    assert clock == [1]
