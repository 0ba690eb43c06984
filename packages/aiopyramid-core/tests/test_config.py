import asyncio
import functools
import random
import threading
from contextvars import ContextVar

import pytest
import webtest
from pyramid.authorization import Allow, Everyone
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPForbidden, HTTPFound
from pyramid.interfaces import ITweens, IViewMapper
from pyramid.request import Request
from pyramid.response import FileResponse, Response
from pyramid.static import static_view
from pyramid.threadlocal import get_current_registry, get_current_request
from webob.multidict import MultiDict

from aiopyramid import bridge
from aiopyramid.config import (
    AsyncioMapperBase,
    CoroutineMapper,
    CoroutineOrExecutorMapper,
    ExecutorMapper,
)
from aiopyramid.helpers import spawn_greenlet, synchronize, use_executor

variable: ContextVar[object] = ContextVar("variable", default="unset")


def report(kind, request, context=None):
    """Answer with where the view ran and what it was given."""
    thread = "loop" if threading.current_thread() is threading.main_thread() else "thread"
    right = get_current_request() is request and get_current_registry() is request.registry
    return Response(json_body=[kind, thread, request.method, type(context).__name__, right])


# Views of every kind. The first part of the name tells in which way they run.


async def coroutine_request(request):
    await asyncio.sleep(0)
    return report("function", request)


async def coroutine_both(context, request):
    await asyncio.sleep(0)
    return report("function", request, context)


def coroutine_generator(request):
    yield from asyncio.sleep(0)
    result = yield from coroutine_request(request)
    return result


def coroutine_generator_both(context, request):
    result = yield from coroutine_both(context, request)
    return result


def thread_request(request):
    return report("function", request)


def thread_both(context, request):
    return report("function", request, context)


class CoroutineView:
    def __init__(self, context, request):
        self.context = context
        self.request = request

    async def __call__(self):
        assert self.request.__view__ is self
        return await coroutine_both(self.context, self.request)

    async def method(self):
        return await coroutine_both(self.context, self.request)

    def generator(self):
        result = yield from coroutine_both(self.context, self.request)
        return result

    def thread(self):
        assert self.request.__view__ is self
        return thread_both(self.context, self.request)


class RequestOnlyView:
    def __init__(self, request):
        self.request = request

    def __call__(self):
        return thread_request(self.request)

    async def method(self):
        return await coroutine_request(self.request)


class CoroutineInstance:
    async def __call__(self, context, request):
        return await coroutine_both(context, request)

    async def method(self, request):
        return await coroutine_request(request)

    async def method_both(self, context, request):
        return await coroutine_both(context, request)

    def generator(self, request):
        result = yield from coroutine_request(request)
        return result


class GeneratorInstance:
    def __call__(self, request):
        result = yield from coroutine_request(request)
        return result


class ThreadInstance:
    def __call__(self, request):
        return thread_request(request)

    def method(self, context, request):
        return thread_both(context, request)


def decorated(view):
    @functools.wraps(view)
    def wrapper(context, request):
        return view(context, request)

    return wrapper


def with_prefix(prefix, view, *args):
    return view(*args)


async def coroutine_extra(extra, request):
    assert extra == "extra"
    return await coroutine_request(request)


async def coroutine_extra_both(extra, context, request, *, option):
    assert (extra, option) == ("extra", "option")
    return await coroutine_both(context, request)


def coroutine_extra_generator(extra, request):
    assert extra == "extra"
    result = yield from coroutine_request(request)
    return result


def thread_extra(extra, context, request):
    assert extra == "extra"
    return thread_both(context, request)


COROUTINE_VIEWS = {
    "function": (coroutine_request, None, "NoneType"),
    "function of both": (coroutine_both, None, "DefaultRootFactory"),
    "generator": (coroutine_generator, None, "NoneType"),
    "generator of both": (coroutine_generator_both, None, "DefaultRootFactory"),
    "class": (CoroutineView, None, "DefaultRootFactory"),
    "class with attr": (CoroutineView, "method", "DefaultRootFactory"),
    "class with generator": (CoroutineView, "generator", "DefaultRootFactory"),
    "class of request": (RequestOnlyView, "method", "NoneType"),
    "instance": (CoroutineInstance(), None, "DefaultRootFactory"),
    "instance with generator": (GeneratorInstance(), None, "NoneType"),
    "instance with attr": (CoroutineInstance(), "method", "NoneType"),
    "instance with attr of both": (CoroutineInstance(), "method_both", "DefaultRootFactory"),
    "bound method": (CoroutineInstance().method, None, "NoneType"),
    "bound method of both": (CoroutineInstance().method_both, None, "DefaultRootFactory"),
    "bound generator": (CoroutineInstance().generator, None, "NoneType"),
    "partial": (functools.partial(coroutine_extra, "extra"), None, "NoneType"),
    "partial of both": (
        functools.partial(coroutine_extra_both, "extra", option="option"),
        None,
        "DefaultRootFactory",
    ),
    "partial of generator": (
        functools.partial(coroutine_extra_generator, "extra"),
        None,
        "NoneType",
    ),
    "partial of instance": (functools.partial(CoroutineInstance()), None, "DefaultRootFactory"),
    "partial of bound method": (
        functools.partial(CoroutineInstance().method),
        None,
        "NoneType",
    ),
    "decorated": (decorated(coroutine_both), None, "DefaultRootFactory"),
    "decorated generator": (decorated(coroutine_generator_both), None, "DefaultRootFactory"),
    "decorated instance": (decorated(CoroutineInstance()), None, "DefaultRootFactory"),
    "partial of decorated": (
        functools.partial(decorated(coroutine_both)),
        None,
        "DefaultRootFactory",
    ),
    "executor helper": (use_executor(thread_both), None, "DefaultRootFactory"),
}

THREAD_VIEWS = {
    "function": (thread_request, None, "NoneType"),
    "function of both": (thread_both, None, "DefaultRootFactory"),
    "class": (RequestOnlyView, None, "NoneType"),
    "class with attr": (CoroutineView, "thread", "DefaultRootFactory"),
    "instance": (ThreadInstance(), None, "NoneType"),
    "instance with attr": (ThreadInstance(), "method", "DefaultRootFactory"),
    "bound method": (ThreadInstance().method, None, "DefaultRootFactory"),
    "partial": (functools.partial(thread_request), None, "NoneType"),
    "partial of both": (functools.partial(thread_extra, "extra"), None, "DefaultRootFactory"),
    "decorated": (decorated(thread_both), None, "DefaultRootFactory"),
}


@pytest.mark.parametrize("mapper", [None, CoroutineMapper, CoroutineOrExecutorMapper])
@pytest.mark.parametrize("name", COROUTINE_VIEWS)
async def test_coroutine_views_of_every_kind_run_on_the_loop(config, fetch, name, mapper):
    view, attr, context = COROUTINE_VIEWS[name]
    config.add_view(view, attr=attr, mapper=mapper)
    answer = (await fetch(config.make_wsgi_app())).json
    where = "thread" if name == "executor helper" else "loop"
    assert answer == ["function", where, "GET", context, True]


@pytest.mark.parametrize("mapper", [None, ExecutorMapper, CoroutineOrExecutorMapper])
@pytest.mark.parametrize("name", THREAD_VIEWS)
async def test_plain_views_of_every_kind_run_in_a_thread(config, fetch, name, mapper):
    view, attr, context = THREAD_VIEWS[name]
    config.add_view(view, attr=attr, mapper=mapper)
    answer = (await fetch(config.make_wsgi_app())).json
    assert answer == ["function", "thread", "GET", context, True]


def test_coroutine_views_work_without_a_server(config):
    config.add_view(coroutine_request)
    app = config.make_wsgi_app()
    answer = asyncio.run(spawn_greenlet(lambda: Request.blank("/").get_response(app).json))
    assert answer == ["function", "loop", "GET", "NoneType", True]


async def test_an_application_passes_the_checks_of_wsgi(config):
    config.add_view(coroutine_request)
    config.add_view(thread_request, name="thread")
    config.add_view(streaming_view, name="stream")
    client = webtest.TestApp(config.make_wsgi_app())

    def calls():
        return client.get("/").status, client.get("/thread").status, client.get("/stream").body

    assert await spawn_greenlet(calls) == ("200 OK", "200 OK", b"chunk 0 chunk 1 chunk 2 ")


async def test_threaded_views_work_in_a_thread_of_the_server(config):
    # A server that runs requests in threads has no use for another thread.
    config.add_view(lambda request: Response(threading.current_thread().name))
    app = config.make_wsgi_app()

    def call():
        return Request.blank("/").get_response(app).text, threading.current_thread().name

    used, own = await asyncio.to_thread(call)
    assert used == own


# Refusals


@pytest.mark.parametrize("name", THREAD_VIEWS)
def test_the_coroutine_mapper_refuses_plain_views(config, name):
    view, attr, _ = THREAD_VIEWS[name]
    config.add_view(view, attr=attr, mapper=CoroutineMapper)
    with pytest.raises(ConfigurationError, match="use ExecutorMapper for plain views") as caught:
        config.commit()
    assert "CoroutineMapper needs a coroutine or generator view" in str(caught.value)
    assert repr(view) in str(caught.value)


@pytest.mark.parametrize("name", COROUTINE_VIEWS)
def test_the_executor_mapper_refuses_coroutine_views(config, name):
    view, attr, _ = COROUTINE_VIEWS[name]
    config.add_view(view, attr=attr, mapper=ExecutorMapper)
    with pytest.raises(ConfigurationError, match="use CoroutineMapper for coroutine") as caught:
        config.commit()
    assert repr(view) in str(caught.value)
    if attr:
        assert f"attr={attr!r}" in str(caught.value)


async def async_generator(request):
    yield b"chunk"


class AsyncGeneratorView:
    def __init__(self, request):
        pass

    async def __call__(self):
        yield b"chunk"

    async def method(self):
        yield b"chunk"


class AsyncGeneratorInstance:
    async def __call__(self, request):
        yield b"chunk"

    async def method(self, request):
        yield b"chunk"


@pytest.mark.parametrize(
    "mapper", [None, CoroutineMapper, ExecutorMapper, CoroutineOrExecutorMapper]
)
@pytest.mark.parametrize(
    ("view", "attr"),
    [
        (async_generator, None),
        (functools.partial(async_generator), None),
        (AsyncGeneratorView, None),
        (AsyncGeneratorView, "method"),
        (AsyncGeneratorInstance().method, None),
        (AsyncGeneratorInstance(), "method"),
    ],
)
def test_an_async_generator_function_is_refused_as_a_view(config, view, attr, mapper):
    config.add_view(view, attr=attr, mapper=mapper)
    with pytest.raises(ConfigurationError, match=r"return Response\(app_iter=\.\.\.\)"):
        config.commit()


def test_the_mappers_are_pyramids_view_mappers():
    for mapper in (CoroutineMapper, ExecutorMapper, CoroutineOrExecutorMapper):
        assert issubclass(mapper, AsyncioMapperBase)
        assert IViewMapper.implementedBy(mapper)


async def test_a_mapper_can_be_named_by_the_view_itself(config, fetch):
    class View(RequestOnlyView):
        __view_mapper__ = ExecutorMapper

    config.add_view(View)
    assert (await fetch(config.make_wsgi_app())).json[1] == "thread"


# What views can do


async def test_a_threaded_view_has_the_requests_context_and_waits_for_coroutines(config, fetch):
    @synchronize
    async def coroutine():
        await asyncio.sleep(0)
        seen.append((variable.get(), threading.current_thread(), get_current_request()))

    def view(request):
        seen.append((variable.get(), threading.current_thread(), get_current_request()))
        variable.set("by view")
        coroutine()
        return Response()

    def tween_factory(handler, registry):
        def tween(request):
            variable.set("by tween")
            response = handler(request)
            seen.append((variable.get(), threading.current_thread(), get_current_request()))
            return response

        return tween

    seen = []
    config.add_view(view)
    app = with_tween(config, tween_factory)
    assert (await fetch(app)).status_code == 200
    values, threads, requests = zip(*seen, strict=True)
    assert values == ("by tween", "by view", "by view")
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [False, True, True]
    assert len(set(requests)) == 1
    assert requests[0] is not None


def with_tween(config, factory):
    """Make the application with a tween that is no global name."""
    config.commit()
    config.registry.getUtility(ITweens).add_implicit("tests.tween", factory)
    return config.make_wsgi_app()


def work(number):
    """Do what a coroutine view's library may do: wait in plain code."""
    return bridge.await_(asyncio.sleep(0, number))


async def test_plain_code_that_a_coroutine_view_calls_can_wait_through_the_bridge(config, fetch):
    async def view(request):
        first = work(1)
        await asyncio.sleep(0)
        return Response(f"{first} {work(2)}")

    config.add_view(view)
    assert (await fetch(config.make_wsgi_app())).text == "1 2"


class WaitingInput:
    """A request body that arrives in parts, later, as a server's does."""

    def __init__(self, data):
        self.data = data

    def close(self):
        pass

    def read(self, size=-1):
        if size < 0:
            size = len(self.data)
        result = b""
        while self.data and len(result) < size:
            part = self.data[: min(size - len(result), 10_000)]
            self.data = self.data[len(part) :]
            result += bridge.await_(asyncio.sleep(0, part))
        return result


async def coroutine_reads(request):
    await asyncio.sleep(0)
    return Response(json_body=reading(request))


def coroutine_reads_by_generator(request):
    yield from asyncio.sleep(0)
    return Response(json_body=reading(request))


def thread_reads(request):
    return Response(json_body=reading(request))


def reading(request):
    try:
        if request.content_type == "application/octet-stream":
            return len(request.body)
        with request.POST["file"].file as upload:
            return [request.POST["name"], request.POST["file"].filename, len(upload.read())]
    finally:
        request.body_file_raw.close()  # WebOb leaves its temporary file to the garbage collector


READERS = [coroutine_reads, coroutine_reads_by_generator, thread_reads]


@pytest.mark.parametrize("view", READERS)
@pytest.mark.parametrize("size", [0, 10, 300_000])
async def test_the_body_of_a_request_can_be_read(config, fetch, view, size):
    config.add_view(view)
    response = await fetch(
        config.make_wsgi_app(),
        method="POST",
        content_type="application/octet-stream",
        environ={"wsgi.input": WaitingInput(b"x" * size), "CONTENT_LENGTH": str(size)},
    )
    assert response.json == size


@pytest.mark.parametrize("view", READERS)
async def test_forms_and_uploads_can_be_read(config, fetch, view):
    upload = b"line\n" * 40_000
    fields = MultiDict([("name", "value"), ("file", ("a.txt", upload))])
    form = Request.blank("/", POST=fields)
    body, content_type = form.body, form.headers["Content-Type"]
    config.add_view(view)
    response = await fetch(
        config.make_wsgi_app(),
        method="POST",
        content_type=content_type,
        environ={"wsgi.input": WaitingInput(body), "CONTENT_LENGTH": str(len(body))},
    )
    assert response.json == ["value", "a.txt", len(upload)]


# Pyramid around the views


async def coroutine_dict(request):
    await asyncio.sleep(0)
    request.response.headers["X-View"] = "seen"
    return {"request": get_current_request() is request}


def generator_dict(request):
    yield from asyncio.sleep(0)
    request.response.headers["X-View"] = "seen"
    return {"request": get_current_request() is request}


def thread_dict(request):
    request.response.headers["X-View"] = "seen"
    return {"request": get_current_request() is request}


@pytest.mark.parametrize("view", [coroutine_dict, generator_dict, thread_dict])
async def test_renderers_work(config, fetch, view):
    config.add_view(view, renderer="json")
    response = await fetch(config.make_wsgi_app())
    assert response.json == {"request": True}
    assert response.content_type == "application/json"
    assert response.headers["X-View"] == "seen"


class Record(dict):
    """A dictionary with attributes for its keys, which raise `KeyError` where there is none."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]


async def coroutine_record(request):
    return Record(key="value")


def thread_record(request):
    return Record(key="value")


@pytest.mark.parametrize("view", [coroutine_record, thread_record])
async def test_nothing_is_asked_of_a_result_that_is_no_response(config, fetch, view):
    class Renderer:
        def __init__(self, info):
            pass

        def __call__(self, value, system):
            return value["key"]

    config.add_renderer("own", Renderer)
    config.add_view(view, renderer="own")
    assert (await fetch(config.make_wsgi_app())).text == "value"


async def test_predicates_choose_among_views_of_all_kinds(config, fetch):
    config.add_view(coroutine_request, request_method="GET")
    config.add_view(thread_request, request_method="POST")
    app = config.make_wsgi_app()
    assert (await fetch(app)).json[1:3] == ["loop", "GET"]
    assert (await fetch(app, method="POST")).json[1:3] == ["thread", "POST"]
    assert (await fetch(app, method="PUT")).status_code == 404


@pytest.mark.parametrize("view", [coroutine_request, coroutine_generator, thread_request])
async def test_permissions_and_synchronized_acls_work(config, fetch, view):
    class Policy:
        def identity(self, request):
            return request.headers.get("X-User")

        def authenticated_userid(self, request):
            return self.identity(request)

        def permits(self, request, context, permission):
            from pyramid.authorization import ACLHelper

            principals = [Everyone, self.identity(request)]
            return ACLHelper().permits(context, principals, permission)

    class Root:
        def __init__(self, request):
            pass

        @synchronize
        async def __acl__(self):
            await asyncio.sleep(0)
            return [(Allow, "editor", "edit")]

    config.set_root_factory(Root)
    config.set_security_policy(Policy())
    config.add_view(view, permission="edit")
    app = config.make_wsgi_app()
    assert (await fetch(app, headers={"X-User": "editor"})).status_code == 200
    assert (await fetch(app, headers={"X-User": "other"})).status_code == 403
    assert (await fetch(app)).status_code == 403


async def test_traversal_with_a_synchronized_getitem_works(config, fetch):
    class Node:
        def __init__(self, name):
            self.name = name

        @synchronize
        async def __getitem__(self, name):
            await asyncio.sleep(0)
            if name == "missing":
                raise KeyError(name)
            return Node(f"{self.name}/{name}")

    async def view(context, request):
        return Response(context.name)

    config.set_root_factory(lambda request: Node("root"))
    config.add_view(view, context=Node)
    config.add_view(lambda context, request: Response(context.name), context=Node, name="missing")
    app = config.make_wsgi_app()
    assert (await fetch(app, "/one/two")).text == "root/one/two"
    assert (await fetch(app, "/one/missing")).text == "root/one"


@pytest.mark.parametrize("catcher", ["coroutine", "thread"])
@pytest.mark.parametrize("raiser", ["coroutine", "generator", "thread"])
async def test_exception_views_answer_for_views_of_all_kinds(config, fetch, raiser, catcher):
    class Oops(Exception):
        pass

    async def coroutine_raises(request):
        await asyncio.sleep(0)
        raise Oops(raiser)

    def generator_raises(request):
        yield from asyncio.sleep(0)
        raise Oops(raiser)

    def thread_raises(request):
        raise Oops(raiser)

    async def coroutine_catches(exc, request):
        await asyncio.sleep(0)
        return answer(exc, request)

    def thread_catches(exc, request):
        return answer(exc, request)

    def answer(exc, request):
        assert exc is request.exception
        assert get_current_request() is request
        return Response(f"caught {exc}", status=500)

    config.add_view(locals()[f"{raiser}_raises"])
    config.add_exception_view(locals()[f"{catcher}_catches"], context=Oops)
    response = await fetch(config.make_wsgi_app())
    assert response.status_code == 500
    assert response.text == f"caught {raiser}"


@pytest.mark.parametrize("name", ["coroutine", "generator", "thread"])
async def test_exceptions_without_a_view_come_out_of_the_application(config, fetch, name):
    async def coroutine(request):
        raise KeyError("the key")

    def generator(request):
        yield from asyncio.sleep(0)
        raise KeyError("the key")

    def thread(request):
        raise KeyError("the key")

    config.add_view(locals()[name])
    with pytest.raises(KeyError, match="the key"):
        await fetch(config.make_wsgi_app())
    assert get_current_request() is None


async def test_http_exceptions_are_answers_whether_raised_or_returned(config, fetch):
    async def raises(request):
        raise HTTPForbidden

    async def returns(request):
        return HTTPFound("/elsewhere")

    config.add_view(raises, name="raises")
    config.add_view(returns, name="returns")
    app = config.make_wsgi_app()
    assert (await fetch(app, "/raises")).status_code == 403
    assert (await fetch(app, "/returns")).headers["Location"] == "http://localhost/elsewhere"


@pytest.mark.parametrize("view", [coroutine_both, thread_both])
async def test_a_decorator_may_answer_in_place_of_the_view(config, fetch, view):
    @functools.wraps(view)
    def protected(context, request):
        if "X-User" not in request.headers:
            return HTTPForbidden()
        return view(context, request)

    config.add_view(protected)
    app = config.make_wsgi_app()
    assert (await fetch(app, headers={"X-User": "somebody"})).status_code == 200
    assert (await fetch(app)).status_code == 403


@pytest.mark.parametrize("view", [coroutine_request, coroutine_generator, thread_request])
async def test_response_and_finished_callbacks_and_subscribers_run(config, fetch, view):
    steps = []

    @synchronize
    async def wait():
        await asyncio.sleep(0)
        return get_current_request()

    def step(name):
        def callback(request, response=None):
            steps.append((name, wait() is request))

        return callback

    @functools.wraps(view)
    async def with_callbacks(request):
        request.add_response_callback(step("response"))
        request.add_finished_callback(step("finished"))
        await asyncio.sleep(0)
        return Response("ok")

    config.add_view(with_callbacks)
    config.add_subscriber(lambda event: step("event")(event.request), NewResponse)
    assert (await fetch(config.make_wsgi_app())).text == "ok"
    assert sorted(steps) == [("event", True), ("finished", True), ("response", True)]


async def test_view_derivers_and_decorators_of_the_configuration_work(config, fetch):
    def deriver(view, info):
        def derived(context, request):
            response = view(context, request)
            response.headers["X-Deriver"] = str(info.options.get("extra"))
            return response

        return derived

    def decorator(view):
        def decorated(context, request):
            response = view(context, request)
            response.headers["X-Decorator"] = "seen"
            return response

        return decorated

    deriver.options = ("extra",)
    config.add_view_deriver(deriver)
    config.add_view(coroutine_request, extra="value", decorator=decorator)
    response = await fetch(config.make_wsgi_app())
    assert response.headers["X-Deriver"] == "value"
    assert response.headers["X-Decorator"] == "seen"


# Bodies that are produced while they are sent


async def streaming_view(request):
    async def chunks():
        for number in range(3):
            await asyncio.sleep(0)
            yield b"chunk %d " % number

    return Response(app_iter=chunks())


class Streams:
    """Views with streaming bodies, and a record of what they did."""

    def __init__(self):
        self.steps = []

    async def async_chunks(self):
        try:
            for number in range(3):
                await asyncio.sleep(0)
                self.step(f"make {number}")
                yield b"chunk %d " % number
        finally:
            await asyncio.sleep(0)
            self.step("finally")

    def plain_chunks(self):
        try:
            for number in range(3):
                self.step(f"make {number}")
                yield b"chunk %d " % number
        finally:
            self.step("finally")

    def step(self, name):
        on_loop = threading.current_thread() is threading.main_thread()
        self.steps.append((name, "loop" if on_loop else "thread"))

    async def coroutine_async(self, request):
        return Response(app_iter=self.async_chunks(), content_length=24)

    def thread_async(self, request):
        return Response(app_iter=self.async_chunks(), content_length=24)

    async def coroutine_plain(self, request):
        return Response(app_iter=self.plain_chunks(), content_length=24)

    def thread_plain(self, request):
        return Response(app_iter=self.plain_chunks(), content_length=24)


STREAMS = {
    "coroutine_async": "loop",
    "thread_async": "loop",
    "coroutine_plain": "loop",
    "thread_plain": "thread",
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_streamed_body_is_made_where_its_kind_belongs(config, fetch, name):
    streams = Streams()
    config.add_view(getattr(streams, name))
    response = await fetch(config.make_wsgi_app())
    assert response.body == b"chunk 0 chunk 1 chunk 2 "
    assert response.content_length == 24
    names, places = zip(*streams.steps, strict=True)
    assert names == ("make 0", "make 1", "make 2", "finally")
    assert set(places) == {STREAMS[name]}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_streamed_body_that_nobody_reads_to_its_end_is_closed(config, name):
    streams = Streams()
    config.add_view(getattr(streams, name))
    app = config.make_wsgi_app()

    def call():
        heads = []
        body = app(Request.blank("/").environ, lambda status, headers: heads.append(headers))
        assert streams.steps == []
        assert next(iter(body)) == b"chunk 0 "
        body.close()
        return dict(heads[0])["Content-Length"]

    assert await spawn_greenlet(call) == "24"
    assert [step for step, _ in streams.steps] == ["make 0", "finally"]


async def test_a_streamed_body_of_unknown_length_stays_one(config):
    config.add_view(streaming_view)
    app = config.make_wsgi_app()

    def call():
        response = Request.blank("/").get_response(app)
        return response.content_length, response.body

    assert await spawn_greenlet(call) == (None, b"chunk 0 chunk 1 chunk 2 ")


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_files_are_left_for_the_server_to_send(config, fetch, kind, tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"content of the file")
    bodies = []

    async def coroutine(request):
        return FileResponse(path, request=request)

    def thread(request):
        return FileResponse(path, request=request)

    config.add_view(locals()[kind])
    app = config.make_wsgi_app()

    def call():
        def wrapper(file, block_size):
            bodies.extend([file, iter([file.read()])])
            return bodies[1]

        environ = Request.blank("/").environ
        environ["wsgi.file_wrapper"] = wrapper
        return app(environ, lambda status, headers: None)

    body = await spawn_greenlet(call)
    bodies[0].close()
    assert body is bodies[1], "the server cannot tell that it is a file"
    assert list(body) == [b"content of the file"]


async def test_static_views_work(config, fetch, tmp_path):
    (tmp_path / "file.txt").write_bytes(b"content of the file")
    config.add_static_view("static", str(tmp_path))
    config.add_view(static_view(str(tmp_path), use_subpath=False), name="other")
    app = config.make_wsgi_app()
    assert (await fetch(app, "/static/file.txt")).body == b"content of the file"
    assert (await fetch(app, "/static/missing.txt")).status_code == 404


# Many requests at once


async def interleave(config_of, count, fetch):
    """Send requests whose every step checks that the current request is its own."""
    chance = random.Random(1)
    finished = []

    def check(request):
        assert get_current_request() is request
        assert get_current_registry() is request.registry
        assert variable.get() == request.path_qs

    async def pause(request):
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
            check(request)

    plain_pause = synchronize(pause)

    def tween_factory(handler, registry):
        def tween(request):
            variable.set(request.path_qs)
            check(request)
            plain_pause(request)
            request.add_finished_callback(plain_pause)
            request.add_response_callback(lambda request, response: plain_pause(request))
            response = handler(request)
            plain_pause(request)
            check(request)
            finished.append(request.path_qs)
            return response

        return tween

    class Policy:
        async def identity(self, request):
            await pause(request)
            return request.params["number"]

        async def authenticated_userid(self, request):
            await pause(request)
            return request.params["number"]

        async def permits(self, request, context, permission):
            await pause(request)
            return request.params["number"] == await self.identity(request)

    class Oops(Exception):
        pass

    async def coroutine(request):
        check(request)
        await pause(request)
        number = request.identity
        check(request)
        await pause(request)
        return {"number": number}

    def generator(request):
        check(request)
        yield from pause(request)
        return {"number": request.authenticated_userid}

    def thread(request):
        check(request)
        plain_pause(request)
        check(request)
        return {"number": request.identity}

    async def failing(request):
        check(request)
        await pause(request)
        raise Oops(request.params["number"])

    async def exception_view(exc, request):
        check(request)
        await pause(request)
        return {"number": str(exc)}

    config = config_of(Policy())
    for view in (coroutine, generator, thread, failing):
        config.add_view(view, name=view.__name__, permission="view", renderer="json")
    config.add_exception_view(exception_view, context=Oops, renderer="json")
    app = with_tween(config, tween_factory)
    names = ["coroutine", "generator", "thread", "failing"]
    paths = [f"/{names[number % 4]}?number={number}" for number in range(count)]
    answers = await asyncio.gather(*(asyncio.create_task(fetch(app, path)) for path in paths))
    assert [answer.json for answer in answers] == [{"number": str(n)} for n in range(count)]
    assert sorted(finished) == sorted(paths)
    assert finished != paths, "they did not interleave"


async def test_interleaved_requests_each_see_only_themselves_at_every_step(config, fetch):
    def config_of(policy):
        config.set_security_policy(policy)
        return config

    await interleave(config_of, 80, fetch)
    assert get_current_request() is None


async def test_without_context_local_stacks_they_would_see_each_other(config, fetch):
    def config_of(policy):
        from aiopyramid import threadlocal

        config.set_security_policy(policy)
        config.commit()
        threadlocal.uninstall()
        return config

    with pytest.raises(AssertionError):
        await interleave(config_of, 80, fetch)


def test_including_twice_does_no_harm():
    config = Configurator()
    config.include("aiopyramid")
    config.include("aiopyramid")
    config.add_view(coroutine_request)
    config.make_wsgi_app()


def test_pyramid_includes_names_the_package():
    app = Configurator(settings={"pyramid.includes": "aiopyramid"})
    app.add_view(async_generator)
    with pytest.raises(ConfigurationError, match="asynchronous generator function"):
        app.make_wsgi_app()
