"""
The body of a request (``wsgi.input``), which only one thread or greenlet can read.

uWSGI finds the current request by the current thread, or the current greenlet in
loop mode. And it leaves chunked bodies out of ``wsgi.input``.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uwsgi
from pyramid.httpexceptions import HTTPLengthRequired, HTTPRequestEntityTooLarge

from aiopyramid import bridge
from aiopyramid.body import BodyStream
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid.request_threads import run_in_request_thread

from . import options
from .worker import LoopModeWorker, Worker

logger = logging.getLogger("aiopyramid.uwsgi")

SPOOL_SIZE = 64 * 1024
LOST_CHUNKS = "uWSGI's router passes no chunked bodies on: set http-chunked-input = true"


def prepare(environ: dict[str, Any], worker: Worker) -> None:
    """
    Make a body readable from all code of its request.

    Raises:
        pyramid.httpexceptions.HTTPLengthRequired: If uWSGI's router keeps it back.
        pyramid.httpexceptions.HTTPRequestEntityTooLarge: If it exceeds ``limit-post``.
    """
    source: Any = environ["wsgi.input"]
    has_length = environ.get("CONTENT_LENGTH")
    # With a length, a proxy has read it.
    chunked = not has_length and environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked"
    if chunked:
        if options.loses_chunks(environ):
            logger.error("%s refused: %s", environ["PATH_INFO"], LOST_CHUNKS)
            raise HTTPLengthRequired(LOST_CHUNKS)
        source = io.BufferedReader(Chunks(options.number("limit-post")), SPOOL_SIZE)
        environ["wsgi.input_terminated"] = True
    # Views run in other greenlets then, and in threads.
    in_loop_mode = isinstance(worker, LoopModeWorker)
    if in_loop_mode:
        environ.pop("wsgi.file_wrapper", None)
    if not (has_length or chunked):
        environ["wsgi.input"] = io.BytesIO()
    elif in_loop_mode:
        environ["wsgi.input"] = spool(source, environ, chunked=chunked)
    else:
        environ["wsgi.input"] = RequestThreadInput(source)


def spool(source: Any, environ: dict[str, Any], *, chunked: bool) -> Any:
    """Read a body into a temporary file."""
    file = tempfile.SpooledTemporaryFile(SPOOL_SIZE)  # noqa: SIM115 - lives as long as the request
    left = sys.maxsize if chunked else int(environ["CONTENT_LENGTH"])
    try:
        while chunk := source.read(min(left, SPOOL_SIZE)):
            file.write(chunk)
            left -= len(chunk)
        if left and not chunked:
            raise ClientDisconnected("the client did not send the whole request body")
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


class Chunks(BodyStream):
    """
    A chunked body, as it comes.

    Args:
        limit: Size in bytes above which it is refused; 0 for no limit.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.size = 0
        self.ended = False

    def next_piece(self) -> bytes:
        """
        Return a chunk; nothing at the end.

        Raises:
            pyramid.httpexceptions.HTTPRequestEntityTooLarge: If the body exceeds the limit.
        """
        if self.ended:
            return b""
        chunk: bytes = uwsgi.chunked_read()
        self.ended = not chunk
        self.size += len(chunk)
        if 0 < self.limit < self.size:
            raise HTTPRequestEntityTooLarge(f"the body exceeds {self.limit} bytes")
        return chunk


class RequestThreadInput:
    """
    A body that is always read in its request's own thread, whichever thread asks for it.

    Args:
        source: The body, as a binary file (PEP 3333).
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.thread = threading.get_ident()

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        if threading.get_ident() == self.thread:
            return method(*args)
        return bridge.await_(run_in_request_thread(method, *args))

    def read(self, *args: int) -> bytes:
        """Read up to so many bytes, or all."""
        return self._call(self.source.read, *args)  # type: ignore[no-any-return]

    def readline(self, *args: int) -> bytes:
        """Read a line."""
        return self._call(self.source.readline, *args)  # type: ignore[no-any-return]

    def readlines(self, *args: int) -> list[bytes]:
        """Read all lines."""
        return self._call(self.source.readlines, *args)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
