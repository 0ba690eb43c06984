"""WSGI applications without Pyramid."""

from __future__ import annotations

import json
import threading
import time

from pyramid.config import Configurator
from pyramid.response import Response


def environ_app(environ, start_response):
    """Answer with the environ as JSON."""

    def known(value):
        if callable(value) and not isinstance(value, type):
            return "callable"
        return value if isinstance(value, str | int | bool | tuple | None) else type(value).__name__

    body = json.dumps({key: known(value) for key, value in environ.items()}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def writing_app(environ, start_response):
    """Use the write() callable and an iterable."""
    if environ["PATH_INFO"] == "/up":
        start_response("200 OK", [])
        return []
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written ")
    write(b"twice, ")
    return iter([b"and ", b"", b"returned"])


def bad_app(environ, start_response):
    """Break the rules of PEP 3333 in the way that the path names."""
    match environ["PATH_INFO"]:
        case "/status":
            start_response("OK", [])
        case "/header":
            start_response("200 OK", [("X-Bad", "a\r\nSet-Cookie: stolen")])
        case "/header-name":
            start_response("200 OK", [("X Bad", "a")])
        case "/header-type":
            start_response("200 OK", [("X-Bad", 1)])
        case "/twice":
            start_response("200 OK", [])
            start_response("200 OK", [])
        case "/never":
            pass
        case "/text":
            start_response("200 OK", [])
            return ["text"]
        case "/replaced":
            start_response("200 OK", [])
            try:
                raise RuntimeError("replaced")
            except RuntimeError:
                import sys

                start_response("503 Sorry", [("Connection", "close")], sys.exc_info())
        case _:
            start_response("200 OK", [])
    return [b"body"]


lock = threading.Lock()
running = 0


def block() -> int:
    """Block this thread for a while; return how many have done so at a time."""
    global running
    with lock:
        running += 1
        now = running
    time.sleep(0.05)
    with lock:
        running -= 1
    return now


def blocking_app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(block()).encode()]


def blocking_view():
    with Configurator() as config:
        config.include("aiopyramid")
        for path in "", "up":
            config.add_route(path, f"/{path}")
            config.add_view(lambda request: Response(str(block())), route_name=path)
        return config.make_wsgi_app()


def application_with(*args, **kwargs):
    """Make an application that tells the arguments with which it was made."""

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"called with {(args, kwargs)}".encode()]

    return application
