"""An application that uses uWSGI itself: its hooks, mules, spooler and functions."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time

import uwsgi
from pyramid.config import Configurator
from uwsgidecorators import postfork

from aiopyramid.helpers import synchronize
from aiopyramid.websocket.config import UWSGIWebsocketMapper

forked = []


@postfork
def remember_fork():
    forked.append(os.getpid())


async def value(value):
    await asyncio.sleep(0.001)
    return value


def up(request):
    return "up"


async def state(request):
    return {
        "pid": os.getpid(),
        "forked": forked,
        "tasks": len(asyncio.all_tasks()),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


async def sleep(request):
    await asyncio.sleep(float(request.params["s"]))
    return "slept"


async def child(request):
    """Talk to a subprocess, and terminate another."""
    cat = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    output, _ = await cat.communicate(b"said")
    sleeping = await asyncio.create_subprocess_exec("sleep", "3600")
    sleeping.terminate()
    return {"said": output.decode(), "terminated": await sleeping.wait()}


def child_of_thread(request):
    with subprocess.Popen(["sleep", "3600"]) as sleeping:
        sleeping.terminate()
    return {"terminated": sleeping.returncode} | synchronize(child)(request)


def tell_mule(request):
    uwsgi.mule_msg(b"told")
    return "ok"


def spool(request):
    """Call functions of uWSGI that give up the GIL."""
    uwsgi.cache_update("spooled from", request.path.encode())
    uwsgi.spool({b"text": b"spooled"})
    return "ok"


async def spool_async(request):
    return spool(request)


def work(arguments):
    text = arguments.get("text", arguments.get(b"text")).decode()
    print("spooler:", synchronize(value)(text), uwsgi.cache_get("spooled from"), flush=True)
    return uwsgi.SPOOL_OK


uwsgi.spooler = work


async def pid(ws):
    await ws.send(str(os.getpid()))
    async for message in ws:
        await ws.send(message)


async def flood(ws):
    while True:
        await ws.send(bytes(65536))


async def fail(ws):
    await ws.recv()
    raise RuntimeError("the view fails")


def main():
    with Configurator() as config:
        config.include("aiopyramid")
        for view in (up, state, sleep, child, child_of_thread, tell_mule, spool, spool_async):
            config.add_route(view.__name__, f"/{view.__name__}")
            renderer = "string" if view is up else "json"
            config.add_view(view, route_name=view.__name__, renderer=renderer)
        for view in (pid, flood, fail):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, mapper=UWSGIWebsocketMapper)
        return config.make_wsgi_app()


def slow_main():
    """Take time to load, until there is a file."""
    application = main()
    print("loading", flush=True)
    while not os.path.exists(os.environ["AIOPYRAMID_TEST_FILE"]):
        time.sleep(0.01)
    return application
