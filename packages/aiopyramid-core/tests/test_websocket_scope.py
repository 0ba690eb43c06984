from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden, HTTPNotFound
from pyramid.response import Response
from pyramid.threadlocal import get_current_request

from aiopyramid.helpers import use_request_thread
from aiopyramid.testing import client
from aiopyramid.websocket import scope
from aiopyramid.websocket.exceptions import CloseWebsocket
from aiopyramid.websocket.scope import message_scope
from aiopyramid.websocket.view import WebsocketConnectionView

transaction = pytest.importorskip("transaction", reason="needs pyramid_tm")


class Data:
    """A data manager (`transaction.interfaces.IDataManager`) that records what becomes of it."""

    transaction_manager = None

    def __init__(self, record, refuse=None):
        self.record, self.refuse = record, refuse

    def commit(self, transaction):
        if self.refuse:
            raise self.refuse

    def tpc_finish(self, transaction):
        self.record("commit")

    def abort(self, transaction):
        self.record("abort")

    def tpc_begin(self, transaction):
        pass

    tpc_vote = tpc_begin
    tpc_abort = tpc_begin

    def sortKey(self):
        return "data"


@pytest.fixture
def record():
    """What happens, and in which thread."""
    events = []

    def record(what):
        events.append((what, threading.current_thread().name))

    record.events = events
    record.what = lambda: [what for what, _ in events]
    record.threads = lambda: {thread for _, thread in events}
    return record


def make_app(view, *, tm=True, settings=None, factory=None, setup=None, **options):
    with Configurator(settings=settings or {}) as config:
        config.include("aiopyramid")
        if tm:
            config.include("pyramid_tm")
        config.add_route("ws", "/ws/{id}", factory=factory)
        config.add_websocket_view(view, route_name="ws", **options)
        if setup:
            setup(config)
        return config.make_wsgi_app()


async def say(app, *messages):
    """Send messages; give the answers, and how the connection ended."""
    async with client(app) as c, c.websocket("/ws/7") as ws:
        answers = []
        for message in messages:
            await ws.send(message)
            with contextlib.suppress(ConnectionError):
                answer = await next_of(ws)
                if answer is None:
                    break
                answers.append(answer)
    return answers, ws


async def next_of(ws):
    receiving = asyncio.ensure_future(ws.receive())
    closed = asyncio.ensure_future(ws.wait_closed())
    done, _ = await asyncio.wait([receiving, closed], return_when=asyncio.FIRST_COMPLETED)
    for task in (receiving, closed):
        if task not in done:
            task.cancel()
    return receiving.result() if receiving in done and not receiving.exception() else None


EXPLICIT = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


@pytest.mark.parametrize("settings", [{}, EXPLICIT])
async def test_a_plain_callback_has_a_thread_and_a_transaction(record, settings):
    class View(WebsocketConnectionView):
        @message_scope
        def on_message(self, message):
            assert self.request is self.ws.request is get_current_request()
            self.request.tm.get().join(Data(record))
            if not settings:
                assert transaction.get() is self.request.tm.get()
            record(message)
            self.request.add_finished_callback(lambda request: record("finished"))
            self.answer(message)

        def answer(self, message):
            from aiopyramid.bridge import await_

            await_(self.send(message))

    answers, _ = await say(make_app(View, settings=settings), "one", "two")
    assert answers == ["one", "two"]
    assert record.what() == ["one", "commit", "finished", "two", "commit", "finished"]
    assert len({thread for thread in record.threads() if "request" in thread}) == 1


async def test_each_message_has_a_request_of_its_own():
    requests = []

    class View(WebsocketConnectionView):
        async def on_open(self):
            requests.append(self.request)

        @message_scope
        async def on_message(self, message):
            requests.append(self.request)
            assert self.request.matchdict == {"id": "7"}
            assert self.request.path == "/ws/7"
            assert self.request.headers["Host"]
            assert self.request.body == b""
            await self.send("")

        async def on_close(self):
            requests.append(self.request)

    await say(make_app(View), "one", "two")
    opened, one, two, closed = requests
    assert opened is closed
    assert len({id(request) for request in requests}) == 3
    assert one.registry is two.registry is opened.registry


async def test_a_coroutine_runs_on_the_loop_and_its_plain_code_in_the_scope_s_thread(record):
    loop_thread = threading.current_thread()

    @use_request_thread
    def save(request, text):
        transaction.get().join(Data(record))
        record(text)

    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            assert threading.current_thread() is loop_thread
            assert get_current_request() is self.request
            await asyncio.sleep(0)
            await save(self.request, message)
            await self.send("saved")

    answers, _ = await say(make_app(View), "one")
    assert answers == ["saved"]
    assert record.what() == ["one", "commit"]
    assert len(record.threads()) == 1


async def test_generators_are_callbacks_too():
    class View(WebsocketConnectionView):
        @message_scope
        def on_message(self, message):
            yield from self.send(message)

    assert (await say(make_app(View, tm=False), "one"))[0] == ["one"]


async def test_an_exception_aborts_and_closes(record, caplog):
    class View(WebsocketConnectionView):
        @message_scope
        def on_message(self, message):
            self.request.tm.get().join(Data(record))
            raise LookupError("no such thing")

    _, ws = await say(make_app(View), "one")
    assert ws.close_code == 1011
    assert record.what() == ["abort"]
    assert caplog.text.count("LookupError: no such thing") == 1


async def test_a_commit_that_fails_is_not_lost_in_an_exception_view(record, caplog):
    class View(WebsocketConnectionView):
        @message_scope
        def on_message(self, message):
            self.request.tm.get().join(Data(record, refuse=LookupError("disk full")))

    def setup(config):
        config.add_exception_view(lambda exc, request: Response("sorry"), context=Exception)

    _, ws = await say(make_app(View, setup=setup), "one")
    assert ws.close_code == 1011
    assert "LookupError: disk full" in caplog.text


async def test_the_context_is_found_anew():
    class Room:
        def __init__(self, request):
            self.request = request
            if request.matchdict["id"] in gone:
                raise HTTPNotFound("gone")

    gone, contexts = set(), []

    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            assert self.context is self.ws.context is self.request.context
            assert self.context.request is self.request
            contexts.append(self.context)
            await self.send("")
            gone.add(message)

    answers, ws = await say(make_app(View, factory=Room, tm=False), "1", "7", "more")
    assert answers == ["", ""]
    assert len(set(contexts)) == 2
    assert (ws.close_code, ws.close_reason) == (4404, "Not Found")


class Root:
    """A tree in which rooms may go."""

    rooms: set[str]

    def __getitem__(self, name):
        if name not in self.rooms:
            raise KeyError(name)
        return Room()


class Room:
    pass


async def test_a_resource_that_is_gone_closes():
    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            root.rooms.clear()
            await self.send(type(self.context).__name__)

    root = Root()
    root.rooms = {"hall"}
    with Configurator(root_factory=lambda request: root) as config:
        config.include("aiopyramid")
        config.add_websocket_view(View, context=Room, name="")
    async with client(config.make_wsgi_app()) as c, c.websocket("/hall") as ws:
        await ws.send("one")
        assert await ws.receive() == "Room"
        await ws.send("two")
        await ws.wait_closed()
    assert ws.close_code == 4404


@pytest.mark.parametrize("options", [{"check": 3}, {"within": 3}])
def test_what_is_no_function_is_refused(options):
    for decorate in (lambda: message_scope(3), lambda: message_scope(**options)):
        with pytest.raises(TypeError, match="message_scope is for functions, not for 3"):
            decorate()


# Checks


async def coroutine_check(request):
    await asyncio.sleep(0)
    plain_check(request)


def plain_check(request):
    assert request is get_current_request()
    if request.registry.settings["revoked"]:
        raise request.registry.settings["revoked"]


@pytest.mark.parametrize("check", [plain_check, coroutine_check])
@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (CloseWebsocket(4321, "signed out"), (4321, "signed out")),
        (HTTPForbidden("no"), (4403, "Forbidden")),
    ],
)
async def test_a_session_that_was_revoked_closes(check, exception, status, caplog):
    settings = {"revoked": None}

    class View(WebsocketConnectionView):
        @message_scope(check=check)
        async def on_message(self, message):
            await self.send(message)
            self.request.registry.settings["revoked"] = exception

    answers, ws = await say(make_app(View, settings=settings), "one", "two")
    assert answers == ["one"]
    assert (ws.close_code, ws.close_reason) == status
    assert "Traceback" not in caplog.text


# What surrounds a callback


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_context_manager_surrounds_the_callback(record, plain, asynchronous):
    @contextlib.contextmanager
    def within(request):
        record(f"begin {request.path}")
        try:
            yield
        finally:
            record("end")

    @contextlib.asynccontextmanager
    async def within_async(request):
        task = asyncio.current_task()
        with within(request):
            yield
        assert asyncio.current_task() is task

    given = within_async if asynchronous else within

    if plain:

        class View(WebsocketConnectionView):
            @message_scope(within=given)
            def on_message(self, message):
                record(message)
    else:

        class View(WebsocketConnectionView):
            @message_scope(within=given)
            async def on_message(self, message):
                record(message)

    class Answering(View):
        async def on_message(self, message):
            await super().on_message(message)
            await self.send("")

    await say(make_app(Answering), "one")
    assert record.what() == ["begin /ws/7", "one", "end"]


# Functions, and scopes within scopes


async def test_functions_that_take_ws_have_scopes_too(record):
    @message_scope
    def save(ws, text, *, prefix):
        ws.request.tm.get().join(Data(record))
        return prefix + text

    async def view(ws):
        opened = ws.request
        async for message in ws:
            await ws.send(await save(ws, message, prefix="saved "))
            assert ws.request is opened

    answers, _ = await say(make_app(view), "one")
    assert answers == ["saved one"]
    assert record.what() == ["commit"]


async def test_a_scope_within_a_scope_is_the_same(record):
    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            request = self.request
            self.request.tm.get().join(Data(record))
            assert await self.save(message) is request
            assert await self.load() is request
            await self.send("")

        @message_scope
        def save(self, message):
            record(message)
            self.request.tm.get().join(Data(record))
            return self.request

        @message_scope
        async def load(self):
            return self.request

    await say(make_app(View, settings=EXPLICIT), "one")
    assert record.what() == ["one", "commit", "commit"]


async def test_a_task_that_outlives_its_scope_is_outside():
    tasks = []

    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            scoped = self.request

            async def later():
                await asyncio.sleep(0.01)
                return self.request is scoped, await self.load() is scoped

            tasks.append(asyncio.ensure_future(later()))
            await self.send("")

        @message_scope
        async def load(self):
            return self.request

        async def on_close(self):
            tasks.append(await tasks.pop())

    await say(make_app(View, tm=False), "one")
    assert tasks == [(False, False)]


async def test_those_that_wait_do_not_keep_others_from_beginning(monkeypatch):
    monkeypatch.setattr(scope, "PLACES", 1)
    release = asyncio.Event()

    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            if message == "release":
                release.set()
            await release.wait()
            await self.send("released")

    async with contextlib.AsyncExitStack() as stack:
        c = await stack.enter_async_context(client(make_app(View, tm=False)))
        sockets = [await stack.enter_async_context(c.websocket("/ws/7")) for _ in range(10)]
        for ws in sockets:
            await ws.send("wait")
        await sockets[0].send("wait")
        last = await stack.enter_async_context(c.websocket("/ws/7"))
        await last.send("release")
        for ws in (*sockets, last):
            assert await ws.receive() == "released"
    assert not scope._pools


async def test_a_client_that_leaves_ends_what_its_scope_waits_for(record):
    begun = asyncio.Event()

    class View(WebsocketConnectionView):
        @message_scope
        async def on_message(self, message):
            self.request.tm.get().join(Data(record))
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                record("cancelled")

        @message_scope
        def on_close(self):
            record("closed")

    app = make_app(View, settings=EXPLICIT, disconnect_grace=0)
    async with client(app) as c:
        async with c.websocket("/ws/7") as ws:
            await ws.send("one")
            await begun.wait()
        await ws.wait_closed()
    assert record.what() == ["cancelled", "abort", "closed"]
