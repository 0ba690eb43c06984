"""A table of notes, written by plain views and by coroutine views."""

import asyncio

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.view import view_config
from sqlalchemy import engine_from_config, func, select
from sqlalchemy.ext.asyncio import async_engine_from_config, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from aiopyramid.helpers import use_executor, use_request_thread


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    likes: Mapped[int] = mapped_column(default=0)


# The session of a request.

new_session = sessionmaker()
Session = scoped_session(new_session)


def thread_s_session(request):
    """Give the session of the request's thread, for pyramid_tm as installed."""
    return Session()


def request_s_session(request):
    """Give the request a session of its own, for pyramid_tm's explicit manager."""
    session = new_session()
    zope.sqlalchemy.register(session, transaction_manager=request.tm)
    return session


def include_sessions(config):
    """Give each request its ``dbsession``."""
    if "tm.manager_hook" in config.get_settings():
        config.add_request_method(request_s_session, "dbsession", reify=True)
    else:
        zope.sqlalchemy.register(Session)
        config.add_request_method(thread_s_session, "dbsession", reify=True)


# Plain code keeps its thread, so this is as under any other server.


@view_config(route_name="notes", request_method="GET", renderer="json")
def notes(request):
    return list(request.dbsession.scalars(select(Note.text).order_by(Note.id)))


@view_config(route_name="notes", request_method="POST", renderer="json")
def add_note(request):
    note = Note(text=request.POST["text"])
    request.dbsession.add(note)
    request.dbsession.flush()
    return note.id


# A coroutine view. Its plain code runs in its request's thread, in the request's transaction.


@use_request_thread
def save(request, text):
    note = Note(text=text)
    request.dbsession.add(note)
    request.dbsession.flush()
    return note.id


async def fetch(text):
    await asyncio.sleep(0.1)  # asks another server, say
    return f"{text}, translated"


@view_config(route_name="translations", request_method="POST", renderer="json")
async def translate(request):
    text = await fetch(request.POST["text"])  # no session yet, so no connection
    return await save(request, text)


# It need not hold a connection while it waits.


@use_request_thread
def commit_and_begin(request):
    request.tm.commit()
    request.tm.begin()


@view_config(route_name="orders", request_method="POST", renderer="json")
async def order(request):
    number = await save(request, "ordered")
    await commit_and_begin(request)
    answer = await fetch("confirmed")  # no transaction is open, and no connection taken
    return [number, await save(request, answer)]


# Asynchronous sessions have a transaction of their own, and no thread.


@view_config(route_name="likes", request_method="POST", renderer="json")
async def like(request):
    async with request.new_async_session.begin() as session:
        note = await session.get(Note, int(request.matchdict["id"]), with_for_update=True)
        note.likes += 1
        return note.likes


# Where another request was faster, pyramid_retry runs the whole request again.


@view_config(route_name="likes", request_method="PUT", renderer="json")
def like_too(request):
    note = request.dbsession.get(Note, int(request.matchdict["id"]))
    note.likes += 1
    request.dbsession.flush()
    return note.likes


# Work that belongs to no request: a thread of a pool, and a session for this once.


@use_executor
def count_notes():
    with new_session() as session:
        return session.scalar(select(func.count()).select_from(Note))


@view_config(route_name="number", renderer="json")
async def number(request):
    return await count_notes()


def main(global_config=None, **settings):
    engine = engine_from_config(settings, "sqlalchemy.")
    new_session.configure(bind=engine)
    Base.metadata.create_all(engine)
    engine.dispose()  # worker processes must not share the connection
    with Configurator(settings=settings) as config:
        for addon in ("aiopyramid", "pyramid_tm", "pyramid_retry", "cornice"):
            config.include(addon)
        config.include(include_sessions)
        if engine.name == "postgresql":
            # The driver psycopg serves both kinds of engines; SQLite needs aiosqlite for this.
            async_engine = async_engine_from_config(settings, "sqlalchemy.")
            make = async_sessionmaker(async_engine)
            config.add_request_method(lambda _: make, "new_async_session", property=True)
        for name in ("notes", "translations", "orders", "number"):
            config.add_route(name, f"/{name}")
        config.add_route("likes", "/notes/{id}/likes")
        config.scan(__name__)
        return config.make_wsgi_app()
