from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import importlib
import sys
import threading
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
import webtest
from pyramid.config import Configurator
from pyramid.response import Response
from testing_app import echo, make_app

from aiopyramid import homes
from aiopyramid.exceptions import ClientDisconnected, ScopeError
from aiopyramid.helpers import synchronize, use_executor, use_request_thread
from aiopyramid.testing import client, sync_client
from aiopyramid.testing import clients as module
from aiopyramid.testing.clients import BaseClient, Client
from aiopyramid.websocket.config import AutoWebsocketMapper
from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.sessions import sessions

pytestmark = pytest.mark.both_loops


variable: ContextVar[str] = ContextVar("variable", default="unset")


class Oops(Exception):
    pass


async def forever():
    await asyncio.get_running_loop().create_future()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def request_threads():
    return [t for t in threading.enumerate() if t.name.startswith("aiopyramid-request")]


@pytest.fixture(autouse=True)
async def nothing_is_left():
    tasks = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() <= tasks | {asyncio.current_task()}
    assert not sessions.open
    assert not sessions._accepted
    await until(lambda: not request_threads())


def method(request):
    return {"method": request.method, "body": request.text}


def fails(request):
    raise Oops


# Requests

VERBS = {
    "get": {},
    "head": {},
    "options": {},
    "delete": {},
    "post": {"params": "text"},
    "put": {"params": "text"},
    "patch": {"params": "text"},
    "post_json": {"params": 1},
    "put_json": {"params": 1},
    "patch_json": {"params": 1},
    "delete_json": {"params": 1},
}


@pytest.mark.parametrize("name", VERBS)
async def test_the_methods_of_a_test_app_are_there(name):
    arguments = VERBS[name]
    async with client(make_app(views=[method])) as c:
        response = await getattr(c, name)("/method", **arguments, status=200)
        assert isinstance(response, webtest.TestResponse)
        assert response.request.method == name.removesuffix("_json").upper()
        if name != "head":
            assert response.json["body"] == str(arguments.get("params", ""))
        assert getattr(c, name).__doc__ == getattr(webtest.TestApp, name).__doc__


async def test_requests_of_ones_own_can_be_made():
    async with client(make_app(views=[method])) as c:
        request = webtest.TestRequest.blank("/method", method="PUT", text="x")
        assert (await c.do_request(request)).json == {"method": "PUT", "body": "x"}
        response = await c.request("/method", method="PATCH", text="y")
        assert response.json == {"method": "PATCH", "body": "y"}


def test_each_method_that_makes_requests_is_derived_from_the_test_app():
    derived = {name for name in vars(BaseClient) if hasattr(webtest.TestApp, name)} - {"__init__"}
    assert derived > VERBS.keys()
    assert BaseClient.get.__doc__ == webtest.TestApp.get.__doc__


async def test_a_method_of_a_subclass_of_test_app_is_used():
    class App(webtest.TestApp):
        def get(self, url, **kwargs):
            return super().get("/" + url, **kwargs)

    async with client(App(make_app(views=[method]))) as c:
        assert (await c.get("method")).json["method"] == "GET"


async def test_plain_code_has_one_thread_and_coroutines_the_loop_of_the_test():
    loop = asyncio.get_running_loop()
    seen = []

    @synchronize
    async def of_plain_code():
        assert asyncio.get_running_loop() is loop

    def tween_factory(handler, registry):
        def tween(request):
            of_plain_code()
            seen.append(threading.get_ident())
            return handler(request)

        return tween

    async def view(request):
        assert asyncio.get_running_loop() is loop
        await use_request_thread(lambda: seen.append(threading.get_ident()))()
        return "done"

    sys.modules[__name__].tween_factory = tween_factory
    async with client(make_app(views=[view], tweens=[f"{__name__}.tween_factory"])) as c:
        assert (await c.get("/view")).json == "done"
    assert seen[0] == seen[1] != threading.get_ident()


async def test_an_unexpected_status_and_exceptions_come_out():
    async with client(make_app(views=[fails])) as c:
        with pytest.raises(webtest.AppError, match="404 Not Found"):
            await c.get("/nothing")
        assert (await c.get("/nothing", status=404)).status_int == 404
        with pytest.raises(Oops):
            await c.get("/fails")


async def test_requests_may_be_made_at_the_same_time_and_share_cookies():
    together = asyncio.Barrier(20)

    async def view(request):
        await together.wait()
        name = request.params["n"]
        request.response.set_cookie(f"cookie{name}", name)
        return name

    app = webtest.TestApp(make_app(views=[view]))
    async with client(app, threads=2) as c:
        assert c.app is app
        responses = await asyncio.gather(*(c.get("/view", {"n": str(n)}) for n in range(20)))
    assert [response.json for response in responses] == [str(n) for n in range(20)]
    assert app.cookies == {f"cookie{n}": str(n) for n in range(20)}


async def test_what_one_request_sets_in_its_context_is_not_seen_by_the_next():
    async def view(request):
        before = variable.get()
        variable.set("set by a view")
        return before

    async with client(make_app(views=[view])) as c:
        variable.set("set by the test")
        for _ in range(2):
            assert (await c.get("/view")).json == "set by the test"
    assert variable.get() == "set by the test"


async def test_a_request_that_is_cancelled_ends_as_if_its_client_had_left():
    started, ends = asyncio.Event(), []

    async def view(request):
        started.set()
        try:
            await forever()
        except asyncio.CancelledError:
            ends.append("view")
            raise

    def tween_factory(handler, registry):
        def tween(request):
            try:
                return handler(request)
            except ClientDisconnected:
                ends.append("tween")
                raise

        return tween

    sys.modules[__name__].tween_factory = tween_factory
    async with client(make_app(views=[view], tweens=[f"{__name__}.tween_factory"])) as c:
        task = asyncio.create_task(c.get("/view"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ends == ["view", "tween"]


async def test_a_view_that_cancels_itself_has_a_client_all_the_same():
    async def view(request):
        raise asyncio.CancelledError

    async with client(make_app(views=[view])) as c:
        with pytest.raises(concurrent.futures.CancelledError, match="was cancelled"):
            await c.get("/view")


async def test_a_form_is_submitted_as_a_request():
    async def form(request):
        if request.method == "POST":
            return Response(request.params["field"])
        return Response("<form method=post action=/form><input name=field value=x></form>")

    async with client(make_app(views=[form])) as c:
        page = await c.get("/form")
        assert (await c.call(page.form.submit)).text == "x"


async def test_a_client_that_is_not_open_says_so():
    c = client(make_app(views=[method]))
    assert isinstance(c, Client)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the client is not open: use it in `async with"):
            await c.get("/method")
        async with c:
            assert (await c.get("/method")).status_int == 200


# Handshakes


@pytest.mark.parametrize("kind", ["coroutine", "thread", "plain code", "queue"])
async def test_a_handshake_that_hangs_says_where_the_application_is(kind):
    go_on = threading.Event()

    class View:
        def __init__(self, request):
            if kind == "plain code":
                go_on.wait()

        async def on_handshake(self):
            if kind == "coroutine":
                await forever()
            await use_request_thread(go_on.wait)()

        __call__ = echo

    def blocks(request):
        return go_on.wait()

    app = make_app(View, views=[blocks])
    places = {
        "coroutine": "in on_handshake\n.*await forever",
        "thread": "in on_handshake\n.*go_on.wait",
        "plain code": "in __init__\n.*go_on.wait",
        "queue": "no thread runs it",
    }
    async with client(app, timeout=1, threads=1) as c:
        blocking = asyncio.create_task(c.get("/blocks")) if kind == "queue" else None
        await asyncio.sleep(0)
        try:
            with pytest.raises(TimeoutError, match=rf"(?s)not answered.*is here:.*{places[kind]}"):
                async with c.websocket("/ws"):
                    pass
        finally:
            go_on.set()
        if blocking is not None:
            await blocking
    # What could not be interrupted ends later.
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_cancelling_a_handshake_forgets_it():
    started = asyncio.Event()

    class View:
        def __init__(self, request):
            pass

        async def on_handshake(self):
            started.set()
            await forever()

        __call__ = echo

    async with client(make_app(View)) as c:
        connecting = asyncio.create_task(c.websocket("/ws").__aenter__())
        await started.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


# The end of a client


async def test_leaving_closes_open_connections_and_waits_for_their_views():
    codes = []

    async def view(ws):
        assert await ws.recv() is None
        await asyncio.sleep(0)
        codes.append(ws.close_code)

    async with contextlib.AsyncExitStack() as stack:
        async with client(make_app(view)) as c:
            for _ in range(3):
                ws = await stack.enter_async_context(c.websocket("/ws"))
        assert codes == [1001] * 3
        assert ws.close_code == 1001


async def hangs(ws):
    with contextlib.suppress(asyncio.CancelledError):
        await forever()
    await forever()


async def raises(ws):
    await ws.recv()
    raise Oops


@pytest.mark.parametrize(
    ("view", "error", "timeout"), [(hangs, TimeoutError, 1), (raises, Oops, 30)]
)
async def test_leaving_raises_what_the_connections_have_to_say(view, error, timeout):
    app = make_app(view)

    async def use(connections, end=None):
        async with (
            contextlib.AsyncExitStack() as stack,
            client(app, raise_exceptions=True, timeout=timeout) as c,
        ):
            for _ in range(connections):
                await stack.enter_async_context(c.websocket("/ws"))
            if end is not None:
                raise end

    with pytest.raises(error):
        await use(1)
    with pytest.raises(ZeroDivisionError):
        await use(1, ZeroDivisionError())
    with pytest.raises(ExceptionGroup, match="several") as caught:
        await use(2)
    assert [type(exc) for exc in caught.value.exceptions] == [error, error]


# Plain tests


def test_a_plain_client_calls_in_the_thread_of_the_test():
    threads = []

    def plain(request):
        threads.append(threading.current_thread())
        return request.cookies.get("name", "")

    async def coroutine(request):
        threads.append(threading.current_thread())
        return "coroutine"

    app = webtest.TestApp(make_app(views=[plain, coroutine, fails]))
    with sync_client(app) as c:
        assert c.app is app
        app.set_cookie("name", "value")
        assert c.get("/plain").json.strip('"') == "value"
        assert c.get("/coroutine").json == "coroutine"
        with pytest.raises(Oops):
            c.get("/fails")
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()


def test_a_plain_handshake_runs_in_the_thread_of_the_test():
    threads = []

    class View:
        def __init__(self, request):
            threads.append(threading.current_thread())
            if "fail" in request.params:
                raise Oops

        async def __call__(self, ws):
            await echo(ws)

    with sync_client(make_app(View)) as c:
        with c.websocket("/ws") as ws:
            ws.send("x")
            assert ws.receive() == "x"
        with pytest.raises(Oops), c.websocket("/ws?fail=1"):
            pass
    assert threads == [threading.current_thread()] * 2


def test_leaving_a_plain_client_closes_what_is_open():
    codes = []

    async def view(ws):
        assert await ws.recv() is None
        codes.append(ws.close_code)

    with contextlib.ExitStack() as stack:
        with sync_client(make_app(view)) as c:
            ws = stack.enter_context(c.websocket("/ws"))
        assert codes == [1001]
        with pytest.raises(WebsocketClosed, match="1001"):
            ws.receive()


def test_leaving_raises_what_the_connections_have_to_say_in_plain_tests():
    app = make_app(raises)

    def use(end=None):
        with sync_client(app) as c, c.websocket("/ws", raise_exceptions=True):
            if end is not None:
                raise end

    def leave_open():
        with contextlib.ExitStack() as stack, sync_client(app, raise_exceptions=True) as c:
            stack.enter_context(c.websocket("/ws"))
            stack.pop_all()

    with pytest.raises(Oops):
        use()
    with pytest.raises(ZeroDivisionError):
        use(ZeroDivisionError())
    with pytest.raises(Oops):
        leave_open()


async def test_a_plain_client_works_in_a_thread_of_a_loop():
    loop = asyncio.get_running_loop()

    async def view(request):
        return asyncio.get_running_loop() is loop

    def plain():
        with sync_client(make_app(views=[view])) as c:
            return c.get("/view").json

    assert await use_executor(plain)()


# Without WebTest


@pytest.mark.parametrize("missing", ["webtest", "bs4"])
def test_without_webtest_the_error_says_what_to_install(monkeypatch, missing):
    for name in [n for n in sys.modules if n.split(".")[0] == "webtest"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "aiopyramid.testing.clients")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"\[testing\]|bs4") as caught:
        importlib.import_module("aiopyramid.testing.clients")
    assert caught.value.name == missing
    assert ('pip install "aiopyramid-core[testing]"' in str(caught.value)) is (missing == "webtest")


# Lifespans


@pytest.fixture
def life():
    """An application with a lifespan, which records and fails as it is told."""
    life = SimpleNamespace(events=[], enter=None, leave=None, task=None)

    @contextlib.asynccontextmanager
    async def lifespan(registry):
        life.events.append("enter")
        if life.enter is not None:
            await life.enter()
        registry.loop = asyncio.get_running_loop()
        yield
        life.events.append("leave")
        if life.leave is not None:
            await life.leave()

    async def task(registry):
        if life.task is not None:
            await life.task()

    async def same(request):
        return request.registry.loop is asyncio.get_running_loop()

    async def view(ws):
        async for _ in ws:
            pass
        life.events.append("view ends")

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_lifespan(lifespan)
        config.add_background_task(task, on_error="stop")
        config.add_view(same, name="same", renderer="json")
        config.add_view(view, name="ws", mapper=AutoWebsocketMapper)
        life.app = config.make_wsgi_app()
    return life


async def oops():
    raise Oops("as told")


async def test_lifespans_are_entered_and_left_on_the_loop_of_the_test(life):
    async with client(life.app) as c:
        assert life.events == ["enter"]
        assert (await c.get("/same")).json
        async with client(life.app) as other:
            assert (await other.get("/same")).json
        connecting = c.websocket("/ws")
        await connecting.__aenter__()
    assert life.events == ["enter", "view ends", "leave"]


def test_lifespans_are_entered_and_left_for_plain_tests(life):
    with sync_client(life.app) as c:
        assert c.get("/same").json
        assert c.app.get("/same").json
        with c.websocket("/ws"):
            pass
    assert life.events == ["enter", "view ends", "leave"]


async def test_a_test_app_that_was_used_before_hands_its_lifespans_over(life):
    testapp = webtest.TestApp(life.app)

    def plain():
        return contextvars.Context().run(testapp.get, "/same").json

    assert await asyncio.get_running_loop().run_in_executor(None, plain)
    async with client(testapp) as c:
        assert (await c.get("/same")).json
    assert life.events == ["enter", "leave", "enter", "leave"]


@pytest.mark.parametrize("kind", ["coroutine", "plain"])
async def test_middleware_may_hide_the_application(life, kind):
    def middleware(environ, start_response):
        return life.app(environ, start_response)

    def plain():
        with sync_client(middleware) as c:
            assert c.get("/same").json

    if kind == "plain":
        await use_executor(plain)()
    else:
        async with client(middleware) as c:
            assert life.events == []
            assert (await c.get("/same")).json
    assert life.events == ["enter", "leave"]


async def test_a_lifespan_that_cannot_be_entered_fails_the_test(life):
    life.enter = oops
    with pytest.raises(Oops, match="as told"):
        await client(life.app).__aenter__()


async def test_a_lifespan_that_cannot_be_left_fails_the_test(life):
    life.leave = oops
    c = await client(life.app).__aenter__()
    with pytest.raises(Oops, match="as told"):
        await c.__aexit__(None, None, None)


@pytest.mark.parametrize("when", ["enter", "leave"])
async def test_a_lifespan_that_hangs_is_named(life, when, monkeypatch):
    monkeypatch.setattr(module, "LIFESPAN_TIMEOUT", 0.01)
    setattr(life, when, forever)
    with pytest.raises(TimeoutError, match=r"the lifespan of .* was not (entered|left) within"):
        async with client(life.app):
            pass


async def test_a_timeout_of_the_lifespan_itself_comes_out_as_it_is(life):
    async def enter():
        raise TimeoutError("its own")

    life.enter = enter
    with pytest.raises(TimeoutError, match="its own"):
        await client(life.app).__aenter__()


async def test_what_would_stop_the_worker_fails_the_test(life):
    life.task = oops
    c = await client(life.app).__aenter__()
    await asyncio.sleep(0)
    with pytest.raises(Oops, match="as told"):
        await c.__aexit__(None, None, None)


async def test_clients_that_overlap_share_lifespans_until_the_last_one_leaves(life):
    first, second = client(life.app), client(life.app)
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert life.events == ["enter"]
    assert (await second.get("/same")).json
    await second.__aexit__(None, None, None)
    assert life.events == ["enter", "leave"]


async def test_a_client_on_another_loop_is_told_of_the_first_one(life):
    def other():
        with sync_client(life.app):
            pass

    homes.own_loop.start()
    async with client(life.app) as c:
        with pytest.raises(RuntimeError, match="has a client on another loop"):
            await asyncio.get_running_loop().run_in_executor(None, contextvars.Context().run, other)
        assert (await c.get("/same")).json
    assert life.events == ["enter", "leave"]


async def test_a_plain_client_in_a_coroutine_is_refused(life):
    await use_executor(lambda: None)()
    with pytest.raises(ScopeError, match="on the event loop itself"):
        sync_client(life.app).__enter__()
