"""Database transactions, as pyramid_tm and zope.sqlalchemy manage them."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter

import transaction
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import synchronize

LONG = 60  # the tests give up earlier

Session = scoped_session(sessionmaker())
counts: Counter[str] = Counter()
counting = threading.Lock()
go_on = threading.Event()
lock = threading.Lock()


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


def count(what):
    with counting:
        counts[what] += 1


def request_session(request):
    """Give the scoped session, or with the explicit manager one for the request."""
    if "tm.manager_hook" not in request.registry.settings:
        return Session()
    session = Session.session_factory()
    zope.sqlalchemy.register(session, transaction_manager=request.tm)
    return session


def up(request):
    return "up"


def state(request):
    return {"counts": dict(counts), "thread": threading.get_ident()}


# Rows.


def add_row(request):
    request.db.add(Row(number=int(request.params.get("number", "0"))))


def add(request):
    add_row(request)
    return "added"


def add_around_wait(request):
    """Write a row before, and one after plain code waits for a coroutine."""
    add_row(request)
    request.db.flush()
    synchronize(asyncio.sleep)(0.01)
    add_row(request)
    return "added"


def add_and_fail(request):
    add_row(request)
    request.db.flush()
    raise RuntimeError("the view fails")


def add_and_fail_in_coroutine(request):
    add_row(request)
    request.db.flush()
    synchronize(failing)()


async def failing():
    await asyncio.sleep(0.01)
    raise RuntimeError("the coroutine fails")


async def add_from_coroutine(request):
    """Use the session of the request's own thread, which waits for this view."""
    from aiopyramid.helpers import use_request_thread

    await asyncio.sleep(0.01)
    await use_request_thread(add_row)(request)
    await asyncio.sleep(0.01)
    thread = await use_request_thread(threading.get_ident)()
    assert thread == request.environ["test.thread"]
    return "added"


async def add_from_coroutine_and_fail(request):
    await add_from_coroutine(request)
    raise RuntimeError("the view fails")


async def touch_on_loop(request):
    """Use the transaction manager of the event loop's thread, which all requests share."""
    try:
        transaction.get()
    except ScopeError as exc:
        return str(exc)


async def add_async(request):
    """Use SQLAlchemy's own asynchronous sessions, on the event loop."""
    async with AsyncSession(request.registry.async_engine) as session, session.begin():
        session.add(Row(number=int(request.params["number"])))
        await session.flush()
        await asyncio.sleep(0.01)
    return "added"


async def add_async_and_fail(request):
    async with AsyncSession(request.registry.async_engine) as session, session.begin():
        session.add(Row(number=0))
        await session.flush()
        raise RuntimeError("the view fails")


# One row that two requests want.


def change(request):
    """Leave the UPDATE, and with it the wait for a row lock, to the commit."""
    request.db.get(Row, 1).number = Row.number + 1
    return "changed"


def change_and_hold(request):
    """Hold the row lock until told to go on."""
    request.db.get(Row, 1).number = Row.number + 1
    request.db.flush()
    count("held")
    assert go_on.wait(LONG)
    return "changed"


def change_and_wait(request):
    """Hold the row lock while plain code waits for a coroutine."""
    request.db.get(Row, 1).number = Row.number + 1
    request.db.flush()
    count("held")
    synchronize(until_told)()
    return "changed"


async def change_in_coroutine(request):
    """Hold the row lock while a coroutine view waits."""
    from aiopyramid.helpers import use_request_thread

    def change():
        request.db.get(Row, 1).number = Row.number + 1
        request.db.flush()

    await use_request_thread(change)()
    count("held")
    await until_told()
    return "changed"


async def until_told():
    for _ in range(LONG * 100):
        if go_on.is_set():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("was never told")


def let_go_on(request):
    go_on.set()
    return "told"


def error_tween_factory(handler, registry):
    """Answer to errors, to which uWSGI answers nothing."""

    def error_tween(request):
        try:
            return handler(request)
        except RuntimeError:
            return Response(status=500)

    return error_tween


# One lock that many requests want.


def lock_tween_factory(handler, registry):
    def lock_tween(request):
        request.environ["test.thread"] = threading.get_ident()
        if not request.path.startswith("/locked"):
            return handler(request)
        count("want the lock")
        with lock:
            try:
                return handler(request)
            finally:
                count("had the lock")

    return lock_tween


def others_wait(request):
    """Tell whether so many other requests wait for the lock that this one has."""
    waiting = counts["want the lock"] - counts["had the lock"] - 1
    return waiting >= int(request.params.get("others", "0"))


def locked_in_thread(request):
    for _ in range(LONG * 100):
        if others_wait(request):
            return "seen"
        time.sleep(0.01)
    raise AssertionError("the others did not come")


async def locked_in_coroutine(request):
    for _ in range(LONG * 100):
        if others_wait(request):
            return "seen"
        await asyncio.sleep(0.01)
    raise AssertionError("the others did not come")


def locked_and_synchronized(request):
    return synchronize(locked_in_coroutine)(request)


VIEWS = [up, add, add_around_wait, add_and_fail, add_and_fail_in_coroutine, add_from_coroutine]
VIEWS += [add_from_coroutine_and_fail, add_async, add_async_and_fail, change, change_and_hold]
VIEWS += [change_and_wait, change_in_coroutine, let_go_on, locked_in_thread, locked_in_coroutine]
VIEWS += [locked_and_synchronized, touch_on_loop]


def main():
    settings = json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"])
    url = settings.get("database", "sqlite://")
    engine = create_engine(url, connect_args={"timeout": LONG} if "sqlite" in url else {})
    Base.metadata.create_all(engine)
    Session.configure(bind=engine)
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.include("pyramid_tm")
        if "tm.manager_hook" not in settings:
            zope.sqlalchemy.register(Session)
        if url.startswith("postgresql"):
            config.registry.async_engine = create_async_engine(url)
        config.add_request_method(request_session, "db", reify=True)
        config.add_tween(f"{__name__}.error_tween_factory")
        config.add_tween(f"{__name__}.lock_tween_factory")
        for view in VIEWS:
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="string")
        config.add_route("state", "/state")
        config.add_view(state, route_name="state", renderer="json")
        return config.make_wsgi_app()
