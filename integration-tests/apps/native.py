"""The same WebSocket views twice: on uWSGI's own calls, and on aiopyramid's mapper."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time

import uwsgi
from pyramid.config import Configurator

from aiopyramid.helpers import synchronize, use_executor
from aiopyramid.websocket.config import UWSGIWebsocketMapper

endings = []  # what the views of /ending saw in the end
released = threading.Event()  # what the threads of /thread wait for


def describe(message):
    return repr(message) if len(message) < 100 else f"{len(message)} bytes"


PAGES = {
    "/up": lambda: "up",
    "/pid": lambda: str(os.getpid()),
    "/endings": lambda: "; ".join(endings),
}


# uWSGI's own calls.


def native_report():
    """Tell what comes."""
    while True:
        uwsgi.websocket_send(describe(uwsgi.websocket_recv()))


def native_ending():
    try:
        native_report()
    except Exception as exc:
        endings.append(f"{type(exc).__name__}: {exc}")


def native_poll():
    """Tell what is there when nothing has come, and when something has."""
    uwsgi.websocket_send(describe(uwsgi.websocket_recv_nb()))
    select.select([uwsgi.connection_fd()], [], [])
    uwsgi.websocket_send(describe(uwsgi.websocket_recv_nb()))
    native_report()


def native_busy():
    time.sleep(0.5)
    uwsgi.websocket_send("done")
    native_report()


def native_thread():
    """Send from a thread that is not the request's, once another request runs."""
    refusals = []

    def send():
        released.wait()
        try:
            uwsgi.websocket_send("sent")
        except Exception as exc:
            refusals.append(f"{type(exc).__name__}: {exc}")

    thread = threading.Thread(target=send)
    thread.start()
    message = uwsgi.websocket_recv()
    thread.join()
    for text in [*refusals, describe(message)]:
        uwsgi.websocket_send(text)
    native_report()


def native_release():
    released.set()
    native_report()


def native_leave():
    """Return, for there is no call that closes."""


VIEWS = {
    "/report": native_report,
    "/silent": native_report,
    "/ending": native_ending,
    "/poll": native_poll,
    "/busy": native_busy,
    "/thread": native_thread,
    "/release": native_release,
    "/leave": native_leave,
}


def native(environ, start_response):
    """Serve with uWSGI's own calls."""
    path = environ["PATH_INFO"]
    if path in VIEWS:
        uwsgi.websocket_handshake()
        VIEWS[path]()
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [PAGES[path]().encode()]


# aiopyramid.


async def report(ws):
    async for message in ws:
        await ws.send(describe(message))


async def ending(ws):
    await report(ws)
    endings.append(f"{ws.close_code} {ws.close_reason!r}")


async def poll(ws):
    try:
        await asyncio.wait_for(ws.recv(), 0.1)
    except TimeoutError:
        await ws.send("TimeoutError")
    await report(ws)


async def busy(ws):
    await asyncio.sleep(0.5)
    await ws.send("done")
    await report(ws)


async def thread(ws):
    def send():
        released.wait()
        synchronize(ws.send)("sent")

    await use_executor(send)()
    await report(ws)


async def release(ws):
    released.set()
    await report(ws)


async def leave(ws):
    await ws.close(4001)


def main():
    """Serve with aiopyramid."""
    settings = {
        "aiopyramid.websocket.max_message_size": 1024,
        "aiopyramid.websocket.compression": "deflate",
    }
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        options = {"ping_interval": 1, "ping_timeout": 1}
        add_view(config, "/silent", report, websocket_options=options)
        for view in (report, ending, poll, busy, thread, release, leave):
            add_view(config, f"/{view.__name__}", view)
        for path, page in PAGES.items():
            config.add_route(path, path)
            config.add_view(lambda request, page=page: page(), route_name=path, renderer="string")
        return config.make_wsgi_app()


def add_view(config, path, view, **options):
    config.add_route(path, path)
    config.add_view(view, route_name=path, mapper=UWSGIWebsocketMapper, **options)
