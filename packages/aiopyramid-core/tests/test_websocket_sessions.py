from __future__ import annotations

import asyncio
import threading

import pytest

from aiopyramid.homes import home_here
from aiopyramid.websocket.sessions import Sessions


class Session:
    """A session whose view ends when its connection is closed, unless it is stubborn."""

    def __init__(self, sessions, *, stubborn=False, quotas=()):
        self.quotas = dict(quotas)
        self.sessions, self.stubborn = sessions, stubborn
        self.closed = asyncio.Event()
        self.codes = []

    def open(self):
        self.task = asyncio.ensure_future(self._run())
        self.sessions.opened(self)
        if self.sessions.ending is not None:
            self.close(self.sessions.ending)

    async def _run(self):
        try:
            await self.closed.wait()
        finally:
            self.sessions.ended(self)

    def close(self, code):
        self.codes.append(code)
        if not self.stubborn:
            self.closed.set()
        return self.task

    def cancel(self):
        self.task.cancel()
        return self.task


@pytest.fixture
def sessions():
    return Sessions()


async def test_accepted_and_open_sessions_count(sessions):
    first, second, third = (Session(sessions) for _ in range(3))
    assert sessions.admit(first, 2)
    assert sessions.admit(second, 2)
    assert not sessions.has_room(2)
    assert not sessions.admit(third, 2)
    first.open()
    assert not sessions.has_room(2)
    sessions.forget(second)
    assert sessions.admit(third, 2)
    sessions.forget(third)
    first.close(1000)
    await first.task
    assert sessions.has_room(1)
    sessions.forget(first)  # opened long ago
    await sessions.end(1001, 5)


async def test_the_end_closes_all_and_waits_for_their_views(sessions):
    everyone = [Session(sessions) for _ in range(3)]
    for session in everyone:
        sessions.admit(session, 10)
        session.open()
    await sessions.end(1012, 5)
    assert [session.codes for session in everyone] == [[1012]] * 3
    assert sessions.has_room(1)


@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_end_waits_for_sessions_that_are_accepted(sessions, in_thread):
    late, lost = Session(sessions), Session(sessions)
    sessions.admit(late, 10)
    sessions.admit(lost, 10)
    ending = asyncio.ensure_future(sessions.end(1001, 60))
    await asyncio.sleep(0)
    late.open()
    assert late.codes == [1001]
    await asyncio.sleep(0)
    assert not ending.done()
    if in_thread:
        thread = threading.Thread(target=sessions.forget, args=[lost])
        thread.start()
        thread.join()
    else:
        sessions.forget(lost)
    await ending


async def test_a_view_that_does_not_end_is_cancelled(sessions):
    session = Session(sessions, stubborn=True)
    sessions.admit(session, 1)
    session.open()
    await sessions.end(1001, 0.05)
    assert session.task.cancelled()
    assert sessions.has_room(1)
    assert home_here().given_up.done()  # a thread that blocks does not hold up its view's end


async def test_threads_are_not_given_up_if_all_views_end(sessions):
    session = Session(sessions)
    sessions.admit(session, 1)
    session.open()
    await sessions.end(1001, 5)
    assert not home_here().given_up.done()


async def test_a_session_that_is_never_opened_does_not_hold_up_the_end(sessions):
    sessions.admit(Session(sessions), 1)
    await sessions.end(1001, 0.05)


async def test_quotas_are_kept_from_admission_to_the_end(sessions):
    first, second, other = (
        Session(sessions, quotas={"user ann": limit, "address": 3}) for limit in (2, 2, 2)
    )
    assert sessions.admit(first, 10)
    assert sessions.admit(second, 10)
    assert not sessions.admit(other, 10)
    assert sessions.used_up(other) == ["user ann"]
    first.open()
    assert not sessions.admit(other, 10)
    sessions.forget(second)
    sessions.forget(second)  # once more than it was admitted
    assert sessions.admit(other, 10)
    sessions.forget(other)
    first.close(1000)
    await first.task
    assert not sessions._counts


async def test_a_drain_closes_one_after_the_other_and_admits_nobody(sessions):
    everyone = [Session(sessions) for _ in range(5)]
    for session in everyone:
        sessions.admit(session, 10)
        session.open()
    draining = asyncio.ensure_future(sessions.drain(0.1))
    await asyncio.sleep(0)
    assert len([session for session in everyone if session.codes]) == 1
    assert not sessions.has_room(10)
    assert not sessions.admit(Session(sessions), 10)
    left = next(session for session in everyone if not session.codes)
    left.close(1000)  # by itself
    await left.task
    await draining
    assert sorted(session.codes for session in everyone) == [[1000], *[[1012]] * 4]
    await asyncio.wait([session.task for session in everyone])


async def test_a_drain_without_sessions_is_done_at_once(sessions):
    await sessions.drain(3600)
    assert sessions.draining
