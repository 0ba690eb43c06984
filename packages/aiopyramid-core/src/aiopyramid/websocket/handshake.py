"""
The opening handshake (RFC 6455 section 4.2), without any I/O.

Refusals are Pyramid's HTTP exceptions, so that exception views and tweens see
them as they see all others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pyramid.httpexceptions import (
    HTTPBadRequest,
    HTTPClientError,
    HTTPForbidden,
    HTTPMethodNotAllowed,
)
from pyramid.settings import aslist
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidMethod, InvalidUpgrade
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request as HTTPRequest
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from .options import WebsocketOptions
from .origins import PORTS, Origin, OriginError, is_allowed, split_host

logger = logging.getLogger("aiopyramid.websocket")

VERSION = "13"

# A window of 4 KiB and little memory for zlib: about 10 KiB a connection in
# each direction instead of 160, for a few percent less compression.
DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12,
    client_max_window_bits=12,
    compress_settings={"memLevel": 5},
)

HEADERS = {
    "Connection": "HTTP_CONNECTION",
    "Upgrade": "HTTP_UPGRADE",
    "Sec-WebSocket-Key": "HTTP_SEC_WEBSOCKET_KEY",
    "Sec-WebSocket-Version": "HTTP_SEC_WEBSOCKET_VERSION",
    "Sec-WebSocket-Extensions": "HTTP_SEC_WEBSOCKET_EXTENSIONS",
    "Sec-WebSocket-Protocol": "HTTP_SEC_WEBSOCKET_PROTOCOL",
}
"""The headers of a handshake, and where they stand in the environ."""


class HTTPUpgradeRequired(HTTPClientError):  # type: ignore[misc]
    """426 Upgrade Required (RFC 9110 section 15.5.22)."""

    code = 426
    title = "Upgrade Required"
    explanation = "This address speaks WebSocket, protocol version 13."


class Handshake:
    """
    A valid handshake of a client.

    Args:
        headers: The headers of the 101 response.
        offered: The subprotocols that the client offers.
        protocol: The library's protocol, with the extensions that were negotiated.
    """

    def __init__(
        self, headers: list[tuple[str, str]], offered: Sequence[str], protocol: ServerProtocol
    ) -> None:
        self.headers = headers
        self.offered = offered
        self.protocol = protocol
        self.subprotocol: str | None = None

    def choose(self, subprotocol: str | None) -> None:
        """
        Choose a subprotocol, or none.

        Raises:
            ValueError: If the client did not offer it.
        """
        if subprotocol is not None:
            if subprotocol not in self.offered:
                raise ValueError(
                    f"subprotocol {subprotocol!r} was not offered, only {list(self.offered)!r}"
                )
            self.subprotocol = subprotocol
            self.headers.append(("Sec-WebSocket-Protocol", subprotocol))


def is_upgrade(request: Any) -> bool:
    """Return True if a request asks for a WebSocket, even if its handshake is invalid."""
    return "websocket" in request.environ.get("HTTP_UPGRADE", "").lower()


def upgrade_required(detail: str) -> HTTPUpgradeRequired:
    """Make the answer to a request that does not ask for a WebSocket of our version."""
    return HTTPUpgradeRequired(
        detail,
        headers=[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", VERSION),
        ],
    )


def check_origin(request: Any, options: WebsocketOptions) -> None:
    """
    Refuse a connection that a foreign page opens.

    Raises:
        pyramid.httpexceptions.HTTPForbidden: If the origin is not allowed.
        pyramid.httpexceptions.HTTPBadRequest: If there is no usable Host header.
    """
    try:
        host, port = split_host(request.environ.get("HTTP_HOST", ""))
    except OriginError as exc:
        raise HTTPBadRequest(f"missing or invalid Host header: {exc}") from None
    origin = request.headers.get("Origin")
    if origin is None:  # no browser
        return
    # Some proxies, such as Traefik, forward the WebSocket's own scheme.
    scheme = {"ws": "http", "wss": "https"}.get(request.scheme, request.scheme)
    own = Origin(scheme, host, PORTS.get(scheme) if port is None else port)
    trusted = aslist(request.registry.settings.get("pyramid.csrf_trusted_origins", ()))
    if not is_allowed(origin, own, options.origins, trusted):
        raise HTTPForbidden(
            f"pages of origin {origin} may not open this WebSocket of "
            f"{scheme}://{request.host}; if they should, "
            "list the origin in aiopyramid.websocket.origins"
        )


def read(request: Any, options: WebsocketOptions) -> Handshake:
    """
    Read a client's handshake.

    Args:
        request: The Pyramid request.
        options: The view's options.

    Raises:
        HTTPUpgradeRequired: For a plain request, or another version of the protocol.
        pyramid.httpexceptions.HTTPMethodNotAllowed: For another method than GET.
        pyramid.httpexceptions.HTTPBadRequest: For any other fault.
    """
    environ, headers, upgrade = request.environ, Headers(), is_upgrade(request)
    for name, key in HEADERS.items():
        value = environ.get(key)
        if value is not None:
            headers[name] = value
    if upgrade and (request.content_length or "HTTP_TRANSFER_ENCODING" in environ):
        raise HTTPBadRequest("a WebSocket handshake has no body")
    # A plain request is told to upgrade, whatever its version of HTTP.
    http = environ["SERVER_PROTOCOL"] if upgrade else "HTTP/1.1"
    # RFC 6455 section 4.4: another version is answered with the one we speak.
    version = headers.get("Sec-WebSocket-Version", VERSION)
    # Open already: the handshake does not come to it as bytes.
    protocol = ServerProtocol(
        extensions=[DEFLATE] if options.compression == "deflate" else None,
        state=OPEN,
        logger=logger,
    )
    try:
        if upgrade and version != VERSION:
            raise InvalidUpgrade("Sec-WebSocket-Version", version)
        key, extensions, _ = protocol.process_request(
            HTTPRequest(environ["PATH_INFO"], headers, request.method, http)
        )
        names = headers.get("Sec-WebSocket-Protocol")
        offered = [] if names is None else parse_subprotocol(names)
    except InvalidUpgrade as exc:
        raise upgrade_required(str(exc)) from None
    except InvalidMethod:
        raise HTTPMethodNotAllowed(
            f"a WebSocket is opened with GET, not {request.method}", headers=[("Allow", "GET")]
        ) from None
    except InvalidHandshake as exc:
        cause = f": {exc.__cause__}" if exc.__cause__ else ""
        raise HTTPBadRequest(f"invalid WebSocket handshake: {exc}{cause}") from None
    answer = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", key)]
    if extensions is not None:
        answer.append(("Sec-WebSocket-Extensions", extensions))
    return Handshake(answer, offered, protocol)


def offered_from(options: WebsocketOptions) -> Callable[[Sequence[str]], str | None]:
    """Return the first of the view's subprotocols that the client offers, or ``None``."""

    def select(offered: Sequence[str]) -> str | None:
        return next((name for name in options.subprotocols if name in offered), None)

    return select
