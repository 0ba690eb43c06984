"""
What this package uses of gunicorn that gunicorn does not document as API.

Nothing else imports these from gunicorn. All of it is checked when this module is loaded,
so that a version of gunicorn that lacks something is refused when a worker starts.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import gunicorn
from gunicorn import SERVER as SERVER
from gunicorn import util
from gunicorn.asgi import protocol as _protocol
from gunicorn.http import errors as _errors
from gunicorn.http import message as _message
from gunicorn.http import wsgi as _wsgi
from gunicorn.workers import gasgi as _gasgi

REQUIRED: dict[type | ModuleType, tuple[str, ...]] = {
    _protocol.ASGIProtocol: (
        "_arm_keepalive_timer",
        "_build_environ",
        "_build_http2_environ",
        "_build_http2_scope",
        "_build_http_scope",
        "_cancel_task_if_pending",
        "_close_transport",
        "_get_reason_phrase",
        "_is_websocket_upgrade",
        "_keepalive_timeout",
        "_on_headers_complete",
        "_send_error_response",
        "_send_response_start",
        "_serve_http_request",  # gives each request a task, and so a context, of its own
        "_will_close",
        "connection_lost",
        "connection_made",
    ),
    _protocol.FlowControl: ("write_paused",),
    _protocol: ("ClientDisconnected",),
    _gasgi.ASGIWorker: (
        "_cleanup",
        "_get_ssl_context",
        "_serve",
        "_setup_event_loop",
        "_shutdown",
        "handle_exit_signal",
        "handle_quit_signal",
    ),
    _errors: ("InvalidResponseHeader", "InvalidResponseHeaderName"),
    _message: ("TOKEN_RE",),
    _wsgi: ("FileWrapper", "HEADER_VALUE_RE", "STATUS_RE", "create"),
    util: ("is_hoppish", "split_request_uri"),
}


def check(required: dict[type | ModuleType, tuple[str, ...]]) -> None:
    """
    Check that gunicorn has what this package builds on.

    Raises:
        ImportError: If it lacks something.
    """
    for owner, names in required.items():
        for name in names:
            if not hasattr(owner, name):
                raise ImportError(
                    f"gunicorn {gunicorn.__version__} has no {owner.__name__}.{name}, "
                    "which aiopyramid-gunicorn builds on; install a version of gunicorn "
                    "that its metadata allows"
                )


check(REQUIRED)

ASGIProtocol: Any = _protocol.ASGIProtocol
ASGIWorker: Any = _gasgi.ASGIWorker
ClientDisconnected = _protocol.ClientDisconnected
FileWrapper = _wsgi.FileWrapper
InvalidResponseHeader = _errors.InvalidResponseHeader
InvalidResponseHeaderName = _errors.InvalidResponseHeaderName

is_hoppish = util.is_hoppish
split_request_uri = util.split_request_uri
create_environ = _wsgi.create

#: Patterns of RFC 9110.
TOKEN = _message.TOKEN_RE
HEADER_VALUE = _wsgi.HEADER_VALUE_RE
STATUS = _wsgi.STATUS_RE


def writing_is_paused(protocol: Any) -> bool:
    """Return True if the transport of an ``ASGIProtocol`` has told it to stop writing."""
    return protocol._flow_control is not None and protocol._flow_control.write_paused
