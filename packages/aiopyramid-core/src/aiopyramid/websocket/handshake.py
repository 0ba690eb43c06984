"""
The opening handshake (RFC 6455 section 4.2), without any I/O.

Refusals are Pyramid's HTTP exceptions, so that exception views and tweens see
them as they see all others.
"""

from __future__ import annotations

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
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

from .options import WebsocketOptions
from .origins import PORTS, Origin, OriginError, is_allowed, split_host

VERSION = "13"

# A window of 4 KiB and little memory for zlib: about 10 KiB a connection in
# each direction instead of 160, for a few percent less compression.
DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12,
    client_max_window_bits=12,
    compress_settings={"memLevel": 5},
)

HEADERS = (
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
)


class HTTPUpgradeRequired(HTTPClientError):  # type: ignore[misc]
    """426 Upgrade Required (RFC 9110 section 15.5.22)."""

    code = 426
    title = "Upgrade Required"
    explanation = "This address speaks WebSocket, protocol version 13."


class Handshake:
    """
    An accepted handshake.

    Attributes:
        headers: The headers of the 101 response.
        subprotocol: The chosen subprotocol, or ``None``.
        extensions: The negotiated extensions.
    """

    def __init__(
        self, headers: list[tuple[str, str]], subprotocol: str | None, extensions: list[Extension]
    ) -> None:
        self.headers = headers
        self.subprotocol = subprotocol
        self.extensions = extensions


def is_upgrade(request: Any) -> bool:
    """Return True if a request asks for a WebSocket, even if its handshake is invalid."""
    return "websocket" in request.headers.get("Upgrade", "").lower()


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


def check_request(request: Any) -> None:
    """
    Refuse what is no handshake, or one of another protocol version.

    Raises:
        HTTPUpgradeRequired: For a plain request, or another version.
        pyramid.httpexceptions.HTTPMethodNotAllowed: For another method than GET.
        pyramid.httpexceptions.HTTPBadRequest: For any other fault.
    """
    _judge(ServerProtocol(), request)


def accept(
    request: Any,
    options: WebsocketOptions,
    select_subprotocol: Callable[[Sequence[str]], str | None],
) -> Handshake:
    """
    Accept a handshake.

    Args:
        request: The Pyramid request.
        options: The view's options.
        select_subprotocol: Chooses among the subprotocols that the client offers.

    Raises:
        pyramid.httpexceptions.HTTPException: As for `check_request`.
        ValueError: If a subprotocol is chosen that the client did not offer.
    """

    def select(_: ServerProtocol, offered: Sequence[str]) -> Any:
        selected = select_subprotocol(offered)
        if selected is not None and selected not in offered:
            raise ValueError(f"subprotocol {selected!r} was not offered, only {list(offered)!r}")
        return selected

    judge = ServerProtocol(
        extensions=[DEFLATE] if options.compression == "deflate" else None,
        select_subprotocol=select,
    )
    accept_header, extensions, subprotocol = _judge(judge, request)
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_header),
    ]
    if extensions is not None:
        headers.append(("Sec-WebSocket-Extensions", extensions))
    if subprotocol is not None:
        headers.append(("Sec-WebSocket-Protocol", subprotocol))
    return Handshake(headers, subprotocol, judge.extensions)


def offered_from(options: WebsocketOptions) -> Callable[[Sequence[str]], str | None]:
    """Return the first of the view's subprotocols that the client offers, or ``None``."""

    def select(offered: Sequence[str]) -> str | None:
        return next((name for name in options.subprotocols if name in offered), None)

    return select


def _judge(judge: ServerProtocol, request: Any) -> tuple[str, str | None, str | None]:
    headers = Headers()
    for name in HEADERS:
        value = request.headers.get(name)
        if value is not None:
            headers[name] = value
    if is_upgrade(request) and (request.content_length or request.headers.get("Transfer-Encoding")):
        raise HTTPBadRequest("a WebSocket handshake has no body")
    # A plain request is told to upgrade, whatever its version of HTTP.
    http = request.environ["SERVER_PROTOCOL"] if is_upgrade(request) else "HTTP/1.1"
    handshake = Request(request.path_qs, headers, request.method, http)
    # RFC 6455 section 4.4: another version is answered with the one we speak.
    version = headers.get("Sec-WebSocket-Version", VERSION)
    try:
        if is_upgrade(request) and version != VERSION:
            raise InvalidUpgrade("Sec-WebSocket-Version", version)
        return judge.process_request(handshake)
    except InvalidUpgrade as exc:
        raise HTTPUpgradeRequired(
            str(exc),
            headers=[
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", VERSION),
            ],
        ) from None
    except InvalidMethod:
        raise HTTPMethodNotAllowed(
            f"a WebSocket is opened with GET, not {request.method}", headers=[("Allow", "GET")]
        ) from None
    except InvalidHandshake as exc:
        cause = f": {exc.__cause__}" if exc.__cause__ else ""
        raise HTTPBadRequest(f"invalid WebSocket handshake: {exc}{cause}") from None
