from __future__ import annotations

import asyncio
import json
import logging

import pytest
import transaction
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
from webtest import TestApp

from aiopyramid import homes
from aiopyramid.bridge import spawn_greenlet
from aiopyramid.broadcast import groups as groups_module
from aiopyramid.broadcast import groups_of
from aiopyramid.broadcast.backends import Position
from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.forms import RAW, TAGGED, Raw
from aiopyramid.broadcast.groups import Groups
from aiopyramid.broadcast.messages import Envelope, Resync, channel_of
from aiopyramid.broadcast.settings import BroadcastSettings, from_values
from aiopyramid.lifespan import Lifespan
from aiopyramid.testing import client
from aiopyramid.websocket.exceptions import WebsocketClosed

HISTORY = "kept:* = 3\n"


class Telling(Raw):
    """Text as it is, and gaps as text."""

    def resync(self, resync):
        return f"gap: {resync.reason}"


TELLING = Telling()


async def member(ws):
    """Join the groups of the query, as the query says, and say so."""
    query = ws.request.params
    options = {name: query[name] for name in ("after", "info") if name in query}
    if "last" in query:
        options["last"] = int(query["last"])
    if "tagged" in query:
        options["form"] = TAGGED
    elif "after" in query:
        options["form"] = TELLING
    for group in query.getall("group"):
        await ws.request.groups.join(group, ws, **options)
    await ws.send("joined")
    async for message in ws:
        if message == "leave":
            for group in query.getall("group"):
                ws.request.groups.leave(group, ws)
            await ws.send("left")
        else:
            ws.request.groups.publish(query["group"], message, exclude=ws)


async def publish(request):
    await request.groups.publish(request.params["group"], request.body or request.params["text"])
    return Response()


def plain_publish(request):
    request.groups.publish(request.params["group"], request.params["text"])
    request.groups.publish(request.params["group"], "and more").wait()
    return Response()


def in_transaction(request):
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    request.groups.publish(request.params["group"], "of a transaction", after_commit=tm)
    request.groups.publish(request.params["group"], "at once").wait()
    if "abort" in request.params:
        tm.abort()
    else:
        tm.commit()
    return Response()


def make_app(views=(), **settings):
    given = {f"aiopyramid.broadcast.{name}": value for name, value in settings.items()}
    with Configurator(settings=given) as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_websocket_view(member, route_name="ws")
        for view in (publish, plain_publish, in_transaction, *views):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        return config.make_wsgi_app()


async def closed(ws):
    await ws.wait_closed()
    return ws.close_code, ws.close_reason


async def joined(ws):
    assert await ws.receive() == "joined"
    return ws


async def test_all_members_get_what_is_published_from_everywhere():
    async with (
        client(make_app()) as c,
        c.websocket("/ws?group=a") as one,
        c.websocket("/ws?group=a&group=b") as two,
        c.websocket("/ws?group=b") as three,
    ):
        for ws in (one, two, three):
            await joined(ws)
        await c.post("/publish?group=a", b"\x00bytes")
        await c.get("/plain_publish?group=a&text=text")
        for ws in (one, two):
            assert await ws.receive() == b"\x00bytes"
            assert await ws.receive() == "text"
            assert await ws.receive() == "and more"
        await three.send("not for me")
        assert await two.receive() == "not for me"
        await three.receive_nothing()


async def test_who_leaves_or_ends_gets_nothing_more():
    app = make_app()
    async with client(app) as c, c.websocket("/ws?group=a") as one:
        await joined(one)
        groups = groups_of(app.registry)
        async with c.websocket("/ws?group=a") as two:
            await joined(two)
            assert groups.local_count("a") == 2
            await two.send("leave")
            assert await two.receive() == "left"
            assert groups.local_count("a") == 1
            await c.get("/publish?group=a&text=one")
            assert await one.receive() == "one"
            await two.receive_nothing()
        async with c.websocket("/ws?group=a") as three:
            await joined(three)
            assert groups.local_count("a") == 2
        async with c.websocket("/ws?group=a&group=a") as four:  # joining again changes nothing
            await joined(four)
            assert groups.local_count("a") == 2
        await one.close()
        while groups._groups:
            await asyncio.sleep(0)
        assert not groups._outboxes
        assert not groups._backend._channels


async def test_a_closed_connection_cannot_join():
    seen = asyncio.Queue()

    async def late(ws):
        await ws.close()
        try:
            await ws.request.groups.join("a", ws)
        except WebsocketClosed as exc:
            seen.put_nowait(exc)

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_websocket_view(late, route_name="ws")
        app = config.make_wsgi_app()
    async with client(app) as c, c.websocket("/ws"):
        assert isinstance(await seen.get(), WebsocketClosed)
        assert groups_of(app.registry).local_count("a") == 0


async def test_a_transaction_publishes_when_it_is_committed():
    async with client(make_app()) as c, c.websocket("/ws?group=a") as ws:
        await joined(ws)
        await c.get("/in_transaction?group=a")
        assert await ws.receive() == "at once"
        assert await ws.receive() == "of a transaction"
        await c.get("/in_transaction?group=a&abort=1")
        assert await ws.receive() == "at once"
        await ws.receive_nothing()


async def test_an_aborted_transaction_tells_those_who_wait():
    waiting = []

    async def abort(request):
        tm = transaction.TransactionManager(explicit=True)
        tm.begin()
        waiting.append(request.groups.publish("a", "x", after_commit=tm))
        tm.get().join(Fails(tm))
        with pytest.raises(ArithmeticError):
            tm.commit()
        with pytest.raises(BroadcastError, match="aborted"):
            await waiting[0]
        return Response()

    async with client(make_app([abort])) as c:
        await c.get("/abort")
        assert waiting


class Fails:
    """A resource that cannot commit."""

    def __init__(self, manager):
        self.transaction_manager = manager

    def sortKey(self):
        return "fails"

    def commit(self, transaction):
        raise ArithmeticError

    def __getattr__(self, name):
        return lambda *args: None


async def test_a_history_goes_to_those_who_join_later():
    async with client(make_app(history=HISTORY)) as c:
        for text in ("one", "two", "three", "four"):
            await c.get(f"/publish?group=kept:a&text={text}")
        async with c.websocket("/ws?group=kept:a&last=2&tagged=1") as ws:
            first, second, position = [json.loads(await ws.receive()) for _ in range(3)]
            assert [first["data"], second["data"]] == ["three", "four"]
            assert position == {"group": "kept:a", "id": second["id"]}
            await joined(ws)
            await c.get("/publish?group=kept:a&text=five")
            assert json.loads(await ws.receive())["data"] == "five"
        after = first["id"]
        async with c.websocket(f"/ws?group=kept:a&after={after}") as ws:
            assert [await ws.receive() for _ in range(3)] == ["four", "five", "joined"]


@pytest.mark.parametrize("after", ["", "nonsense", "-.0", "epoch.1", "{epoch}.1", "{epoch}.99"])
async def test_a_history_that_does_not_reach_back_is_a_gap(after):
    app = make_app(history=HISTORY)
    async with client(app) as c:
        for text in "12345":
            await c.get(f"/publish?group=kept:a&text={text}")
        history = await groups_of(app.registry)._backend.history(
            channel_of("aiopyramid", "kept:a"), None, 1
        )
        after = after.format(epoch=history.latest.epoch)
        async with c.websocket(f"/ws?group=kept:a&after={after}&tagged=1") as ws:
            assert json.loads(await ws.receive()) == {"group": "kept:a", "resync": "history"}
            if not after.endswith(".99"):
                assert [json.loads(await ws.receive())["data"] for _ in "345"] == ["3", "4", "5"]
        if after:
            async with c.websocket(f"/ws?group=kept:a&after={after}") as ws:
                assert await ws.receive() == "gap: history"


async def test_from_the_start_is_no_gap_while_everything_is_kept():
    async with client(make_app(history=HISTORY)) as c:
        async with c.websocket("/ws?group=kept:a&tagged=1") as ws:
            start = json.loads(await ws.receive())["id"]
        for text in "12":
            await c.get(f"/publish?group=kept:a&text={text}")
        async with c.websocket(f"/ws?group=kept:a&after={start}") as ws:
            assert [await ws.receive() for _ in range(3)] == ["1", "2", "joined"]


async def test_what_a_broker_loses_is_told():
    app = make_app()
    async with client(app) as c, c.websocket("/ws?group=a&tagged=1") as ws:
        assert json.loads(await ws.receive()) == {"group": "a"}
        await joined(ws)
        groups = groups_of(app.registry)

        def arrives(number, publisher="p"):
            envelope = Envelope("text", b"%d" % number, publisher, number, "-")
            groups.received(channel_of("aiopyramid", "a"), envelope.encode())

        for number in (4, 5, 7):
            arrives(number)
        assert [json.loads(await ws.receive()).get("data") for _ in range(4)] == [
            "4",
            "5",
            None,
            "7",
        ]
        arrives(1)  # that publisher has forgotten the group
        arrives(1, "q")
        assert [json.loads(await ws.receive())["data"] for _ in range(2)] == ["1", "1"]
        groups.resync(channel_of("aiopyramid", "a"), "reconnect")
        assert json.loads(await ws.receive()) == {"group": "a", "resync": "reconnect"}
        arrives(9)  # where it goes on after a gap is not known
        assert json.loads(await ws.receive())["data"] == "9"
        groups.resync(channel_of("aiopyramid", "nobody"), "reconnect")
        await ws.receive_nothing()


async def test_what_a_broker_loses_is_filled_from_the_history():
    app = make_app(history=HISTORY)
    async with client(app) as c, c.websocket("/ws?group=kept:a") as ws:
        await joined(ws)
        groups = groups_of(app.registry)
        channel = channel_of("aiopyramid", "kept:a")
        received = groups.received
        lost = []
        groups._backend._receiver = type(
            "Lossy", (), {"received": lambda self, *args: lost.append(args), "resync": None}
        )()
        for text in "12":
            await c.get(f"/publish?group=kept:a&text={text}")
        received(*lost[1])
        received(*lost[1])
        assert [await ws.receive() for _ in range(2)] == ["1", "2"]
        received(*lost[0])
        await c.get("/publish?group=kept:a&text=3")
        groups.resync(channel, "reconnect")
        assert await ws.receive() == "3"
        for text in "45678":
            await c.get(f"/publish?group=kept:a&text={text}")
        groups.resync(channel, "reconnect")
        assert await closed(ws) == (1012, "messages are missing: reconnect")


async def test_a_history_that_cannot_be_read_is_read_later(caplog, monkeypatch):
    monkeypatch.setattr(groups_module, "RETRY", (0, 0.01))
    app = make_app(history=HISTORY)
    async with client(app) as c, c.websocket("/ws?group=kept:a&tagged=1") as ws:
        await ws.receive()
        await joined(ws)
        groups = groups_of(app.registry)
        await c.get("/publish?group=kept:a&text=1")
        first = json.loads(await ws.receive())

        async def history(*args):
            raise BroadcastError("the disk is full")

        groups._backend.history = history
        groups.resync(channel_of("aiopyramid", "kept:a"), "reconnect")
        async with (
            c.websocket(f"/ws?group=kept:a&after={first['id']}") as other,
            c.websocket(f"/ws?group=kept:a&after={first['id']}") as third,
        ):
            await joined(other)
            await joined(third)
            await c.get("/publish?group=kept:a&text=2")
            await third.send("leave")
            assert await third.receive() == "left"
            await other.receive_nothing()
            await ws.receive_nothing()
            groups.resync(channel_of("aiopyramid", "kept:a"), "reconnect")
            del groups._backend.history
            assert await other.receive() == "2"
            assert json.loads(await ws.receive())["data"] == "2"
            await c.get("/publish?group=kept:a&text=3")
            assert await other.receive() == "3"
            assert json.loads(await ws.receive())["data"] == "3"
            await third.receive_nothing()
    assert caplog.text.count("the disk is full; it is tried again") == 3


async def test_a_gap_while_the_history_is_not_known_is_told(monkeypatch):
    monkeypatch.setattr(groups_module, "RETRY", (0, 0.01))
    app = make_app(history=HISTORY)
    async with client(app) as c:
        groups = groups_of(app.registry)
        groups.publish("a", "begin")

        async def history(*args):
            raise BroadcastError("gone")

        groups._backend.history = history
        async with c.websocket("/ws?group=kept:a&tagged=1") as ws:
            await joined(ws)
            del groups._backend.history
            assert json.loads(await ws.receive())["id"]
            groups.resync(channel_of("aiopyramid", "kept:a"), "reconnect")
            assert json.loads(await ws.receive()) == {"group": "kept:a", "resync": "reconnect"}


async def test_who_joins_while_the_last_one_leaves_gets_everything():
    app = make_app()
    async with client(app) as c:
        await c.get("/publish?group=a&text=begin")
        backend = groups_of(app.registry)._backend
        leaving, go_on = asyncio.Event(), asyncio.Event()

        async def unsubscribe(channel):
            leaving.set()
            await go_on.wait()
            await type(backend).unsubscribe(backend, channel)

        backend.unsubscribe = unsubscribe
        async with c.websocket("/ws?group=a") as ws:
            await joined(ws)
        await leaving.wait()
        async with c.websocket("/ws?group=a") as ws:
            await ws.receive_nothing()
            go_on.set()
            await joined(ws)
            await c.get("/publish?group=a&text=x")
            assert await ws.receive() == "x"


async def test_what_arrives_while_the_history_is_read_is_behind_the_position():
    app = make_app(history=HISTORY)
    async with client(app) as c:
        await c.get("/publish?group=kept:a&text=1")
        backend = groups_of(app.registry)._backend
        history = backend.history

        async def slow(*args):
            found = await history(*args)
            if args[2]:
                await groups_of(app.registry).publish("kept:a", "2")
                await asyncio.sleep(0.01)
            return found

        backend.history = slow
        async with c.websocket("/ws?group=kept:a&last=5&tagged=1") as ws:
            received = [json.loads(await ws.receive()) for _ in range(3)]
            assert [each["id"].rpartition(".")[2] for each in received] == ["1", "1", "2"]
            assert [each.get("data") for each in received] == ["1", None, "2"]


async def test_a_view_listens():
    seen = []

    async def listens(request):
        async with await request.groups.listen("a", info="me") as listener:
            assert request.groups.local_members("a") == ["me"]
            request.groups.publish("a", "1")
            request.groups.publish_json("a", {"n": 2})
            async for message in listener:
                seen.append((message.group, message.data, message.id))
                if len(seen) == 2:
                    break
        assert request.groups.local_count("a") == 0
        return Response()

    async with client(make_app([listens])) as c:
        await c.get("/listens")
    assert seen == [("a", "1", None), ("a", '{"n": 2}', None)]


async def test_who_does_not_wait_to_have_joined_is_no_member():
    groups = Groups(None, BroadcastSettings())
    groups.publish("a", "begin")

    async def never(channel):
        await asyncio.Event().wait()

    groups._backend.subscribe = never
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(groups.listen("a"), 0.01)
    assert groups.local_count("a") == 0

    async def view(ws):
        groups = ws.request.groups
        groups.publish("a", "begin")
        groups._backend.subscribe = never
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(groups.join("a", ws), 0.01)
        await ws.send_json(groups.local_count("a"))

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_websocket_view(view, route_name="ws")
        app = config.make_wsgi_app()
    async with client(app) as c, c.websocket("/ws") as ws:
        assert await ws.receive_json() == 0


async def test_all_connections_of_a_group_can_be_closed():
    async def logout(request):
        await request.groups.publish("user:1", "goodbye")
        await request.groups.close_connections("user:1", 4001, "logged out")
        return Response()

    async with (
        client(make_app([logout])) as c,
        c.websocket("/ws?group=user:1&group=b") as one,
        c.websocket("/ws?group=b") as two,
    ):
        await joined(one)
        await joined(two)
        await c.get("/logout")
        assert await one.receive() == "goodbye"
        assert await closed(one) == (4001, "logged out")
        await c.get("/publish?group=b&text=still+here")
        assert await two.receive() == "still here"


async def test_who_is_there():
    found = []

    async def who(request):
        groups = request.groups
        found.append(await groups.count("a"))
        found.append(sorted(await groups.members("a")))
        (worker,) = await groups.workers()
        found.append((worker.connections, worker.draining))
        return Response()

    async with (
        client(make_app([who])) as c,
        c.websocket("/ws?group=a&info=ann") as one,
        c.websocket("/ws?group=a&info=bob") as two,
    ):
        await joined(one)
        await joined(two)
        await c.get("/who")
    assert found == [2, ["ann", "bob"], (2, False)]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda g, ws: g.publish("", "x"), ValueError, "cannot be the name"),
        (lambda g, ws: g.publish("a\n", "x"), ValueError, "cannot be the name"),
        (lambda g, ws: g.publish(1, "x"), TypeError, "the name of a group is a str"),
        (lambda g, ws: g.publish("a", {}), TypeError, "publish_json"),
        (lambda g, ws: g.publish("a", b"x" * 2**25), ValueError, "too large"),
        (lambda g, ws: g.join("a", ws, last=3), ValueError, "has no history"),
        (lambda g, ws: g.join("a", ws, after="x"), ValueError, "has no history"),
        (lambda g, ws: g.join("a", ws, info="x" * 2000), ValueError, "more than 1024 bytes"),
        (lambda g, ws: g.join("a", ws, form=RAW), ValueError, "overflow = drop_oldest needs on_re"),
        (lambda g, ws: g.close_connections("a", 1), ValueError, "1"),
        (lambda g, ws: g.count("\n"), ValueError, "cannot be the name"),
    ],
)
async def test_misuse_is_refused(call, error, text):
    seen = asyncio.Queue()

    async def view(ws):
        try:
            result = call(ws.request.groups, ws)
            if asyncio.iscoroutine(result):
                await result
        except Exception as exc:
            seen.put_nowait(exc)

    with Configurator(settings={"aiopyramid.broadcast.overflow": "drop_oldest"}) as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_websocket_view(view, route_name="ws")
        app = config.make_wsgi_app()
    async with client(app) as c, c.websocket("/ws"):
        found = await seen.get()
    assert isinstance(found, error), found
    assert text in str(found)


async def test_where_a_client_goes_on_needs_a_form_that_tells_of_gaps():
    groups = Groups(None, from_values({"history": HISTORY}))
    with pytest.raises(ValueError, match="after needs on_resync, or a form that tells of gaps"):
        groups._check_form("kept:a", RAW, "x.1")
    groups._check_form("kept:a", RAW, None)
    groups._check_form("kept:a", TAGGED, "x.1")


async def test_plain_code_in_a_thread_can_leave():
    left = asyncio.Event()

    async def view(ws):
        groups = ws.request.groups
        await groups.join("a", ws)
        await asyncio.to_thread(groups.leave, "a", ws)
        await asyncio.sleep(0)
        while groups._groups:
            await asyncio.sleep(0)
        left.set()

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_websocket_view(view, route_name="ws")
        app = config.make_wsgi_app()
    async with client(app) as c, c.websocket("/ws"):
        await left.wait()


async def test_what_is_not_ours_in_a_history_is_ignored(caplog):
    app = make_app(history=HISTORY)
    async with client(app) as c:
        await c.get("/publish?group=kept:a&text=1")
        groups = groups_of(app.registry)
        log = groups._backend._logs[channel_of("aiopyramid", "kept:a")]
        log.kept.append((Position(log.epoch, 2), b"rubbish"))
        log.number = 2
        async with c.websocket("/ws?group=kept:a&last=5") as ws:
            assert [await ws.receive() for _ in range(2)] == ["1", "joined"]
            groups._groups["kept:a"].latest = Position(log.epoch, 1)
            groups.resync(channel_of("aiopyramid", "kept:a"), "reconnect")
            await c.get("/publish?group=kept:a&text=3")
            assert await ws.receive() == "3"
    assert "a message of a history is ignored" in caplog.text


async def test_a_history_that_is_gone_is_a_gap_where_nothing_was_known():
    app = make_app(history=HISTORY)
    async with client(app) as c, c.websocket("/ws?group=kept:a&tagged=1") as ws:
        await ws.receive()
        await joined(ws)
        groups_of(app.registry).resync(channel_of("aiopyramid", "kept:a"), "reconnect")
        assert json.loads(await ws.receive()) == {"group": "kept:a", "resync": "reconnect"}


async def test_what_is_not_ours_is_ignored(caplog):
    app = make_app()
    async with client(app) as c, c.websocket("/ws?group=a") as ws:
        await joined(ws)
        groups = groups_of(app.registry)
        channel = channel_of("aiopyramid", "a")
        control = [b"{}", b"[]", b"{", b'{"close": 1}']
        bad = [b"", b"x", b"t p 1 -\n\xff", b"z p 1 -\n", b"t p x -\n"]
        bad += [Envelope("control", payload, "p", 0, "-").encode() for payload in control]
        for data in bad:
            groups.received(channel, data)
        groups.received("aiopyramid:workers", Envelope("control", b"[]", "p", 0, "-").encode())
        await c.get("/publish?group=a&text=ours")
        assert await ws.receive() == "ours"
    assert caplog.text.count("is ignored") == len(bad) + 1


async def test_groups_at_a_broker_begin_with_the_lifespan():
    groups = Groups(None, BroadcastSettings(url="redis://x"))
    assert repr(groups) == "<Groups by redis, 0 here>"
    with pytest.raises(RuntimeError, match="groups begin with"):
        groups.publish("a", "x")
    with pytest.raises(RuntimeError, match="groups begin with"):
        await spawn_greenlet(groups.publish, "a", "x")


def test_groups_in_memory_begin_when_they_are_used():
    app = make_app()
    assert app.registry.get(Lifespan) is None
    webtest = TestApp(app)
    webtest.get("/ws", status=426)
    assert homes.process_home is None
    webtest.get("/plain_publish?group=a&text=x")
    groups = groups_of(app.registry)
    home = homes.process_home
    assert groups._home is home
    homes.own_loop.end()
    assert groups._home is None
    assert groups.counters.published == 2


def test_groups_in_memory_begin_anew_on_another_loop():
    groups = Groups(None, BroadcastSettings())

    async def use():
        listener = await groups.listen("a")
        await groups.publish("a", "x")
        assert (await anext(listener)).data == "x"
        assert groups.local_count("a") == 1

    for _ in range(2):
        asyncio.run(use())


async def test_groups_of_another_loop_are_refused():
    groups = Groups(None, BroadcastSettings())
    async with groups.running():
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(groups.count("a")))


async def test_groups_end_with_their_members():
    groups = Groups(None, BroadcastSettings())
    async with groups.running():
        listener = await groups.listen("a")
        groups.publish("a", "last words")
    assert [item.data async for item in listener] == ["last words"]
    assert not groups._groups


async def test_joining_again_changes_the_info():
    async def rename(ws):
        for info in ("ann", "bob"):
            await ws.request.groups.join("a", ws, info=info)
        await ws.send_json(ws.request.groups.local_members("a"))

    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("ws", "/ws")
        config.add_websocket_view(rename, route_name="ws")
        app = config.make_wsgi_app()
    async with client(app) as c, c.websocket("/ws") as ws:
        assert await ws.receive_json() == ["bob"]


async def test_workers_on_their_own_are_warned_of(caplog):
    async with client(make_app()) as c:
        for _ in range(2):
            environ = {"wsgi.multiprocess": True}
            await c.get("/publish?group=a&text=x", extra_environ=environ)
    assert caplog.text.count("Set aiopyramid.broadcast.url to a broker") == 1


def test_a_request_outside_of_a_server_publishes():
    app = make_app()
    groups = groups_of(app.registry)
    groups.publish("a", "x").wait()
    assert groups.counters.published >= 1


def test_a_bad_setting_stops_the_start():
    with pytest.raises(ConfigurationError, match=r"aiopyramid\.broadcast\.overflow = 'x'"):
        make_app(overflow="x")


def test_resync_is_what_the_members_are_told():
    assert Resync("a", "lost") == Resync("a", "lost")
    assert logging.getLogger("aiopyramid.broadcast")
