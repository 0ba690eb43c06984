"""WSGI applications without Pyramid."""

from __future__ import annotations

import json


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
