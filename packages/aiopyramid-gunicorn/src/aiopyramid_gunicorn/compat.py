"""
What this package uses of gunicorn that gunicorn does not document as API.

Nothing else imports these from gunicorn. All of it is checked when this module is loaded,
so that a version of gunicorn that lacks something is refused when a worker starts.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import gunicorn
from gunicorn import SERVER as SERVER
from gunicorn import util
from gunicorn.asgi import protocol as _protocol
from gunicorn.http import body as _body
from gunicorn.http import errors as _errors
from gunicorn.http import message as _message
from gunicorn.http import unreader as _unreader
from gunicorn.http import wsgi as _wsgi
from gunicorn.http2 import negotiation as _negotiation
from gunicorn.workers import gasgi as _gasgi

REQUIRED: dict[type | ModuleType, tuple[str, ...]] = {
    _protocol.ASGIProtocol: (
        "_build_environ",
        "_build_http2_environ",
        "_build_http2_scope",
        "_build_http_scope",
        "_cancel_task_if_pending",
        "_close_transport",
        "_get_reason_phrase",
        "_is_websocket_upgrade",
        "_send_response_start",
        "_check_h1c_protocol_available",
        "connection_lost",
        "connection_made",
    ),
    _protocol.FlowControl: ("write_paused",),
    _protocol: ("ClientDisconnected", "_post_request_hook", "_pre_request_hook"),
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
    _message: ("RFC9112_TARGET_INVALID", "TOKEN_RE", "_check_fast_parser"),
    _message.Request: (
        "_apply_header_policy",
        "_peer_trusted_for_forwarded",
        "set_body_reader",
        "should_close",
    ),
    _unreader.Unreader: ("chunk", "take_buffered"),
    _body: ("Body", "LengthReader"),
    _wsgi: (
        "FileWrapper",
        "HEADER_VALUE_RE",
        "STATUS_RE",
        "_make_early_hints_callback",
        "base_environ",
        "create",
    ),
    _wsgi.Response: ("close", "default_headers", "force_close", "send_headers", "should_close"),
    _negotiation: ("preface_match", "prior_knowledge_allowed", "upgrade_allowed"),
    util: ("http_date", "is_hoppish", "split_request_uri", "unquote_to_wsgi_str", "write_error"),
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

# HTTP/1, as gunicorn's WSGI workers have it.
Unreader: Any = _unreader.Unreader
Request: Any = _message.Request
Response: Any = _wsgi.Response
Body: Any = _body.Body
LengthReader: Any = _body.LengthReader
NoMoreData = _errors.NoMoreData
LimitRequestHeaders = _errors.LimitRequestHeaders
LimitRequestLine = _errors.LimitRequestLine
InvalidRequestLine = _errors.InvalidRequestLine
TARGET_INVALID = _message.RFC9112_TARGET_INVALID
base_environ = _wsgi.base_environ
make_early_hints = _wsgi._make_early_hints_callback
unquote_to_wsgi_str = util.unquote_to_wsgi_str
http_date = util.http_date
write_error = util.write_error
negotiation = _negotiation
pre_request_hook = _protocol._pre_request_hook
post_request_hook = _protocol._post_request_hook
check_fast_parser = _message._check_fast_parser
# Its answer is kept on the class that asks, and looked for on this one.
_protocol.ASGIProtocol._check_h1c_protocol_available()
try:
    _h1c: Any = importlib.import_module("gunicorn_h1c")
except ImportError:  # not CPython: gunicorn uses its own parser then, and nobody calls this one
    _h1c = None
parse_request: Any = getattr(_h1c, "parse_request", None)
IncompleteError: Any = getattr(_h1c, "IncompleteError", ())

#: Patterns of RFC 9110.
TOKEN = _message.TOKEN_RE
HEADER_VALUE = _wsgi.HEADER_VALUE_RE
STATUS = _wsgi.STATUS_RE
