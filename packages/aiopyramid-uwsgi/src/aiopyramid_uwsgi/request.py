"""A request under uWSGI: a call of Pyramid's router, on a connection that uWSGI reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import uwsgi
from pyramid.httpexceptions import HTTPException
from pyramid.interfaces import IExecutionPolicy

from aiopyramid.websocket.upgrade import KEY

from . import body, options, stream, worker
from .connection import leave_connection
from .upgrade import UWSGIUpgrade

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def isolate(event: Any) -> None:
    """Make a request of each call of Pyramid (`pyramid.events.ApplicationCreated`)."""
    router = event.app
    policy = router.execution_policy

    def isolated(environ: WSGIEnvironment, router: Any) -> Any:
        own = worker.install()
        own.hold_signals()
        try:
            return _run(policy, environ, router, own)
        except (SystemExit, KeyboardInterrupt) as exc:
            # For these uWSGI ends the interpreter, which hangs in a thread.
            raise RuntimeError(f"the application raised {exc!r} in a request") from exc

    router.execution_policy = isolated
    router.registry.registerUtility(isolated, IExecutionPolicy)  # for another router of it
    if uwsgi.worker_id():
        worker.install().enter_lifespans()


def _run(policy: Any, environ: WSGIEnvironment, router: Any, own: worker.Worker) -> Any:
    upgrade = UWSGIUpgrade.of(environ) if "HTTP_UPGRADE" in environ else None
    if upgrade is not None:
        environ[KEY] = upgrade
    # uWSGI cannot tell where a chunked body ends: its rest would be the next request.
    is_last = not options.keeps_connections(environ) or "HTTP_TRANSFER_ENCODING" in environ
    try:
        # Before the policy, which may read the body on its own, to send it again.
        body.prepare(environ, own)
        response = policy(environ, router)
    except HTTPException as exc:
        response = exc
        is_last = True  # the body could not be read, and is still there
    except BaseException:
        if upgrade is not None:
            upgrade.forget()
        raise
    if upgrade is not None:
        upgrade.answered(response)
    if stream.prepare(environ, response, own):
        is_last = True
    return LastResponse(response) if is_last and response.status_int != 101 else response


class LastResponse:
    """
    A response behind which its connection is closed.

    Args:
        response: The response, as an application (PEP 3333).
    """

    def __init__(self, response: Any) -> None:
        self.response = response

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the response, and announce the end (RFC 9112 section 9.6)."""
        options_of_hop = self.response.headers.getall("Connection")
        if "close" not in options_of_hop:
            self.response.headers.add("Connection", "close")
        chunks = self.response(environ, start_response)
        return Closing(chunks) if options.keeps_connections(environ) else chunks


class Closing:
    """The body of a response, which closes the connection of uWSGI behind it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        """Called by uWSGI when the response is out (PEP 3333)."""
        try:
            close = getattr(self.chunks, "close", None)
            if close is not None:
                close()
        finally:
            leave_connection()
