"""A request of Pyramid's, under any server: in a context of its own, with the lifespans entered."""

from __future__ import annotations

from asyncio import _get_running_loop
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import greenlet
from pyramid.interfaces import IExecutionPolicy

from . import bridge, homes, threads
from .creation import when_created
from .lifespan import Lifespan
from .request_threads import run_as_request
from .transactions import refuse_on_loop

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Prepare each request of the application, when that is created."""
    when_created(config, prepare_requests)


def prepare_requests(event: Any) -> None:
    """
    Make a request of each call of Pyramid, where the server does not do it.

    A thread of a server, and a greenlet of uWSGI, has one context for all of its requests: a
    context variable that one sets would be seen by the next.

    Args:
        event: The event (`pyramid.events.ApplicationCreated`).
    """
    router = event.app
    policy = router.execution_policy
    lifespan: Lifespan | None = router.registry.get(Lifespan)

    def with_lifespan(environ: WSGIEnvironment, router: Any) -> Any:
        assert lifespan is not None
        if not lifespan.is_serving:
            bridge.await_(lifespan.enter())
        return policy(environ, router)

    run = policy if lifespan is None else with_lifespan

    def prepared(environ: WSGIEnvironment, router: Any) -> Any:
        if threads.call_here() is not None:
            return run(environ, router)
        if _get_running_loop() is None:
            return run_as_request(run, environ, router)
        if isinstance(greenlet.getcurrent(), bridge.Child):
            return run(environ, router)
        return copy_context().run(run, environ, router)

    router.execution_policy = prepared
    router.registry.registerUtility(prepared, IExecutionPolicy)  # for another router of it
    if homes.process_home is not None and homes.process_home.is_running():
        # The application may have imported what is to be refused after the loop began.
        homes.process_home.call(refuse_on_loop)
