"""
Stacks of threads, coroutines and greenlets, from outside and while they run.

A request's stack goes through all of these: its thread waits for a coroutine, which awaits
plain code in a greenlet or in another thread, and so on. Here it is one stack, with a line
where it goes on elsewhere. Where that is, some frames of the bridge know. The bridge itself is
left out.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import greenlet

from .. import bridge, request_threads, threads

Entry = FrameType | str

# Where the code of a bridge frame keeps what it waits for.
WAIT = threads.Wait._work.__code__, "self"
CALL = threads.run_in_executor.__code__, "call"
CHILD = bridge.spawn_greenlet.__code__, "child"
STEPS = bridge._step.__code__, "steps"
TASK = bridge._wait_for_task.__code__, "task"

BRIDGE = {bridge.__file__, request_threads.__file__, threads.__file__}


class Stacks:
    """
    Finds stacks.

    Args:
        loop: The event loop.
        ident: The thread that runs it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        self.loop = loop
        self.ident = ident

    def of_thread(self, ident: int) -> Iterator[Entry]:
        """Find the stack of a thread, and of what it waits for."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = outermost_first(sys._current_frames().get(ident))
        yield from self._of_frames(frames, f"  Thread {names.get(ident, ident)!r}:\n")

    def of_task(self, task: asyncio.Task[Any]) -> Iterator[Entry]:
        """Find the stack of a task, and of what it waits for."""
        if task is asyncio.current_task(self.loop):
            yield f"  Task {task.get_name()!r}, which runs now:\n"
            yield from self.of_thread(self.ident)
            return
        yield f"  Task {task.get_name()!r}:\n"
        yield from self._of_coroutine(task.get_coro())
        waits_for = getattr(task, "_fut_waiter", None)
        if waits_for is not None:
            yield f"  waits for {waits_for!r}\n"

    def of_greenlet(self, child: greenlet.greenlet) -> Iterator[Entry]:
        """Find the stack of a greenlet of the loop's thread, and of what it waits for."""
        frame = child.gr_frame
        if frame is None and not child.dead:  # it runs now
            yield from self.of_thread(self.ident)
        else:
            yield from self._of_frames(outermost_first(frame), "  A greenlet:\n")

    def _of_frames(self, frames: Iterable[FrameType], title: str = "") -> Iterator[Entry]:
        is_elsewhere = bool(title)
        for frame in frames:
            if is_shown(frame):
                if is_elsewhere:
                    yield title
                    is_elsewhere = False
                yield frame
            if (wait := _known(frame, WAIT)) is not None and wait.task is not None:
                yield from self.of_task(wait.task)
                is_elsewhere = True  # what follows is again of this thread
            elif (task := _known(frame, TASK)) is not None:
                yield from self.of_task(task)
                is_elsewhere = True
            elif (steps := _known(frame, STEPS)) is not None and not _is_running(steps):
                yield from self._of_coroutine(steps)

    def _of_coroutine(self, awaitable: Any) -> Iterator[Entry]:
        while (frame := _attribute(awaitable, "frame")) is not None:
            if is_shown(frame):
                yield frame
            if (child := _known(frame, CHILD)) is not None:
                yield from self._of_frames(outermost_first(child.gr_frame))
            elif (call := _known(frame, CALL)) is not None and call.ident:
                yield from self.of_thread(call.ident)
            if _is_running(awaitable):
                return  # what it runs is not what it awaits
            awaitable = _attribute(awaitable, "await") or _attribute(awaitable, "yieldfrom")


def is_shown(frame: FrameType) -> bool:
    """Return False for what only the bridge itself is interested in."""
    return frame.f_code.co_filename not in BRIDGE


def _known(frame: FrameType, place: tuple[CodeType, str]) -> Any:
    code, name = place
    return frame.f_locals.get(name) if frame.f_code is code else None


def _attribute(awaitable: Any, name: str) -> Any:
    for prefix in "cr", "gi", "ag":  # coroutines, generators, asynchronous generators
        value = getattr(awaitable, f"{prefix}_{name}", None)
        if value is not None:
            return value
    return None


def _is_running(awaitable: Any) -> bool:
    return bool(_attribute(awaitable, "running"))


def outermost_first(frame: FrameType | None) -> list[FrameType]:
    """Return a frame and those that have called it."""
    return [each for each, _ in traceback.walk_stack(frame)][::-1] if frame is not None else []


def format_stack(entries: Iterable[Entry]) -> str:
    """Format a stack as in a traceback."""
    # First all lines, before the code goes on, and then their text from the files.
    taken = [each if isinstance(each, str) else (each, each.f_lineno) for each in entries]
    return "".join(
        each if isinstance(each, str) else "".join(traceback.StackSummary.extract([each]).format())
        for each in taken
    )


# Whose code it is.

STDLIB = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")})
OURS = f"{Path(__file__).parents[1]}/"


def _is_installed(filename: str) -> bool:
    return "site-packages" in filename or "dist-packages" in filename


def _is_framework(filename: str) -> bool:
    """Return True for Python's own code and ours."""
    if filename.startswith((OURS, "<frozen ")):
        return True
    return filename.startswith(STDLIB) and not _is_installed(filename)


def is_of_application(frame: FrameType) -> bool:
    """Return True if the code is neither Python's nor of an installed distribution."""
    filename = frame.f_code.co_filename
    return not (_is_framework(filename) or _is_installed(filename))


def culprit(frames: list[FrameType]) -> FrameType:
    """
    Return the frame that a developer wants to see of a stack.

    That is the innermost one of the application; or of an installed distribution, which the
    application may be itself; or of all.

    Args:
        frames: The frames, the outermost one first.
    """
    for is_wanted in (
        is_of_application,
        lambda frame: not _is_framework(frame.f_code.co_filename),
        lambda frame: True,
    ):
        for frame in reversed(frames):
            if is_wanted(frame):
                return frame
    raise ValueError("no frames")


def coroutine_name(frames: list[FrameType]) -> str | None:
    """Return the name of a stack's outermost coroutine, if it can be the application's."""
    coroutines = [
        frame
        for frame in frames
        if frame.f_code.co_flags & inspect.CO_COROUTINE
        and not _is_framework(frame.f_code.co_filename)
    ]
    # One of an installed distribution may be the application's, too.
    wanted = [frame for frame in coroutines if is_of_application(frame)] or coroutines
    return wanted[0].f_code.co_qualname if wanted else None
