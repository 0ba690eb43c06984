from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

import greenlet
import pytest
from debug_log import PATIENCE

from aiopyramid import homes
from aiopyramid.bridge import await_, run_coroutine, spawn_greenlet
from aiopyramid.debug import stacks
from aiopyramid.debug.stacks import Stacks, coroutine_name, culprit, format_stack
from aiopyramid.helpers import synchronize, use_executor, use_request_thread
from aiopyramid.request_threads import run_as_request

HERE = f'File "{__file__}"'


def lines_of(entries):
    """Give titles as they are, and of the frames of this file the functions."""
    lines = format_stack(entries).splitlines()
    functions = [line.rpartition(" in ")[2] for line in lines if HERE in line]
    titles = [line.split()[0] for line in lines if not line.startswith(('  File "', "    "))]
    return titles, functions


@pytest.fixture
async def finder():
    return Stacks(asyncio.get_running_loop(), threading.get_ident())


class Stop:
    """Where tests stop a coroutine, to look at it."""

    def __init__(self):
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def wait(self):
        self.reached.set()
        await self.go_on.wait()


@contextlib.asynccontextmanager
async def stopped(coroutine, stop):
    task = asyncio.create_task(coroutine, name="a task")
    async with asyncio.timeout(PATIENCE):
        await stop.reached.wait()
        yield task
        stop.go_on.set()
        await task


async def titled(find, titles):
    """Look until a thread has begun to wait, and so the stack has these titles."""
    async with asyncio.timeout(PATIENCE):
        while (found := lines_of(find()))[0] != titles:
            await asyncio.sleep(0.001)
    return found[1]


@pytest.mark.both_loops
async def test_a_task_shows_what_it_awaits(finder):
    stop = Stop()

    async def outer():
        await inner()

    async def inner():
        await stop.wait()

    async with stopped(outer(), stop) as task:
        entries = list(finder.of_task(task))
        assert lines_of(entries)[1] == ["outer", "inner", "wait"]
        assert entries[0] == "  Task 'a task':\n"
        assert entries[-1].startswith("  waits for <Future pending")
        assert "    await inner()\n" in format_stack(entries)


async def test_a_task_that_runs_shows_the_stack_of_its_thread(finder):
    def plain():
        return list(finder.of_task(asyncio.current_task()))

    entries = plain()
    assert entries[0].endswith("which runs now:\n")
    assert lines_of(entries)[1][:2] == [
        "test_a_task_that_runs_shows_the_stack_of_its_thread",
        "plain",
    ]


async def test_a_task_that_was_never_begun_shows_its_function(finder):
    async def begun_later():
        """Do nothing."""

    task = asyncio.create_task(begun_later())
    assert lines_of(finder.of_task(task)) == (["Task"], ["begun_later"])
    await task


@pytest.mark.both_loops
async def test_plain_code_in_a_greenlet_is_shown_between_the_coroutines(finder):
    stop = Stop()

    async def view():
        await spawn_greenlet(plain)

    def plain():
        synchronize(stop.wait)()

    async with stopped(view(), stop) as task:
        entries = list(finder.of_task(task))
        assert lines_of(entries)[1] == ["view", "plain", "wait"]
        assert "bridge.py" not in format_stack(entries)


@pytest.mark.both_loops
async def test_a_coroutine_that_is_stepped_in_a_greenlet_is_shown(finder):
    stop = Stop()

    def tween():
        run_coroutine(view())

    async def view():
        return plain()

    def plain():
        run_coroutine(inner())

    async def inner():
        await stop.wait()

    async with stopped(spawn_greenlet(tween), stop) as task:
        entries = list(finder.of_task(task))
        assert lines_of(entries)[1] == ["tween", "view", "plain", "inner", "wait"]


@pytest.mark.both_loops
async def test_the_thread_of_an_executor_is_shown(finder):
    stop = Stop()

    async def view():
        await use_executor(plain)()

    def plain():
        synchronize(stop.wait)()

    async with stopped(view(), stop) as task:
        titles = ["Task", "Thread", "Task", "waits", "waits"]
        functions = await titled(lambda: finder.of_task(task), titles)
        assert functions == ["view", "plain", "wait"]


def test_a_thread_shows_the_coroutines_that_it_waits_for_in_their_order():
    """Plain code that a coroutine hands to the waiting thread comes behind the coroutine."""
    home, stop = homes.own_loop.start(), Stop()
    ident = threading.get_ident()

    async def view():
        await use_request_thread(plain)()

    def plain():
        synchronize(stop.wait)()

    async def look():
        finder = Stacks(home.loop, threading.get_ident())
        titles = ["Thread", "Task", "waits", "Thread", "Task", "waits"]
        try:
            await stop.reached.wait()
            return await titled(lambda: finder.of_thread(ident), titles)
        finally:
            stop.go_on.set()

    looking = asyncio.run_coroutine_threadsafe(look(), home.loop)
    run_as_request(run_coroutine, view())
    functions = looking.result(PATIENCE)
    name = "test_a_thread_shows_the_coroutines_that_it_waits_for_in_their_order"
    begin = functions.index(name)
    assert functions[begin:] == [name, "view", "plain", "wait"]


def test_a_thread_that_has_ended_has_no_stack():
    assert list(Stacks(None, 0).of_thread(-1)) == []


@pytest.mark.both_loops
async def test_a_greenlet_of_somebody_else_shows_the_task_that_it_waits_for(finder):
    """As uWSGI's do in its loop mode."""
    stop = Stop()

    def application():
        await_(stop.wait())

    other = greenlet.greenlet(application)
    other.switch()
    async with asyncio.timeout(PATIENCE):
        await stop.reached.wait()
        titles, functions = lines_of(finder.of_greenlet(other))
        assert titles == ["A", "Task", "waits"]
        assert functions == ["application", "wait"]
        stop.go_on.set()
        while not other.dead:
            await asyncio.sleep(0)
    assert list(finder.of_greenlet(other)) == []


async def test_a_greenlet_that_runs_shows_the_stack_of_its_thread(finder):
    def application():
        return list(finder.of_greenlet(greenlet.getcurrent()))

    assert lines_of(greenlet.greenlet(application).switch())[1][0] == "application"


async def test_a_generator_is_shown_as_a_coroutine(finder):
    stop = Stop()

    def awaitable():
        yield from stop.wait().__await__()

    class Awaitable:
        def __await__(self):
            return awaitable()

    async def view():
        await Awaitable()

    async with stopped(view(), stop) as task:
        assert lines_of(finder.of_task(task))[1][:2] == ["view", "awaitable"]


# Whose code it is.

INSTALLED = "/venv/lib/python3.11/site-packages/requests/api.py"
STDLIB = asyncio.__file__
OURS = stacks.__file__


def frame_of(filename, *, coroutine=False, name="f"):
    source = f"{'async ' if coroutine else ''}def {name}(): yield_()\n"
    names = {"yield_": lambda: frames.append(sys._getframe(1))}
    frames = []
    exec(compile(source, filename, "exec"), names)
    if coroutine:
        with contextlib.suppress(StopIteration):
            names[name]().send(None)
    else:
        names[name]()
    return frames[0]


@pytest.mark.parametrize(
    ("filenames", "expected"),
    [
        (["/app/views.py", STDLIB], "/app/views.py"),
        (["/app/views.py", INSTALLED, STDLIB], "/app/views.py"),
        (["/app/views.py", "/app/models.py", INSTALLED], "/app/models.py"),
        ([OURS, INSTALLED, STDLIB], INSTALLED),  # the application may be installed itself
        ([STDLIB, OURS, "<frozen runpy>"], "<frozen runpy>"),
        (["<string>", STDLIB], "<string>"),
        (["/usr/lib/python3/dist-packages/a.py", OURS], "/usr/lib/python3/dist-packages/a.py"),
    ],
)
def test_the_innermost_frame_of_the_application_is_to_blame(filenames, expected):
    frames = [frame_of(filename) for filename in filenames]
    assert culprit(frames).f_code.co_filename == expected


def test_without_frames_none_is_to_blame():
    with pytest.raises(ValueError, match="no frames"):
        culprit([])


def test_the_outermost_coroutine_of_the_application_is_named():
    plain, ours = frame_of("/app/views.py"), frame_of(OURS, coroutine=True)
    view = frame_of("/app/views.py", coroutine=True)
    installed = frame_of(INSTALLED, coroutine=True, name="installed")
    assert coroutine_name([ours, installed, plain, view, plain]) == "f"
    assert coroutine_name([ours, installed, plain]) == "installed"
    assert coroutine_name([ours, plain]) is None
