"""
The head of an HTTP/1 request, as gunicorn's WSGI workers read it, and the environ made of it.

gunicorn's own :class:`gunicorn.http.message.Request` decides what is a request, what is an
error, and which. It reads from a socket and takes its time; so what is beyond doubt, which
is nearly everything, is read here in the same way but faster, and all else is left to it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import compat

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HTTP_1_0, HTTP_1_1 = (1, 0), (1, 1)

# How much is read at a time, as gunicorn does; more where a body is known to be longer.
PIECE, MAX_PIECE = 8192, 1024 * 1024

# Header names are few, but clients choose them.
MAX_NAMES = 500


class Unreader(compat.Unreader):  # type: ignore[misc]
    """
    What gunicorn's readers of heads and bodies read from, in pieces as from a socket.

    Args:
        received: What the client has sent.
    """

    #: Waits for more. ``None`` while there is none to be had.
    more: Callable[[], bytes] | None = None

    def __init__(self, received: bytes) -> None:
        super().__init__()
        self.received = received

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return more of what the client sends; nothing at the end."""
        if not self.received and self.more is not None:
            self.received = self.more()
        size = max(PIECE, min(size_hint or 0, MAX_PIECE))
        piece, self.received = self.received[:size], self.received[size:]
        return piece

    def take_buffered(self) -> bytes:
        """Return what has not been read."""
        rest: bytes = super().take_buffered() + self.received
        self.received = b""
        return rest


NOTHING = Unreader(b"")


def has_body(request: Any) -> bool:
    """Return True if a request has a body."""
    reader = request.body.reader
    return reader.__class__ is not compat.LengthReader or reader.length > 0


class Heads:
    """
    Reads the heads of the requests of a worker.

    Args:
        cfg: gunicorn's settings.
    """

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        # All that gunicorn's constructor sets which does not depend on the request.
        try:
            request = compat.Request(cfg, Unreader(b"GET / HTTP/1.1\r\n\r\n"), ("", 0))
        except compat.LimitRequestLine:  # then none is read, fast or not
            self.fast, self.max_head = False, MAX_PIECE
            return
        self.template: dict[str, Any] = vars(request)
        self.fast = bool(self.template["_use_fast"])
        self.max_head = request.max_buffer_headers + request._fast_limit_request_line
        self.casefold = cfg.casefold_http_method
        self.no_proxy_protocol = cfg.proxy_protocol == "off"
        self.limits = {
            "limit_request_line": request._fast_limit_request_line,
            "limit_request_fields": request.limit_request_fields,
            "limit_request_field_size": request.limit_request_field_size,
            "permit_unconventional_http_method": cfg.permit_unconventional_http_method,
            "permit_unconventional_http_version": cfg.permit_unconventional_http_version,
        }
        # Names of headers that are taken as they are.
        self.names: dict[bytes, str] = {}
        self.special = {"EXPECT", "CONTENT-LENGTH", "TRANSFER-ENCODING"}
        self.special.update(cfg.secure_scheme_headers)

    def read(self, data: bytes, parsed: int, peer: Any, number: int) -> tuple[Any, bytes] | None:
        """
        Read the head of a request.

        Args:
            data: What has been received.
            parsed: How much of it was read before, when it was too little.
            peer: The client's address.
            number: Which request of its connection this is, from 1.

        Returns:
            A `gunicorn.http.message.Request`, and what was received behind its head if it has
            no body; else its ``unreader`` holds that. ``None`` if the head is not complete.

        Raises:
            Exception: What gunicorn raises for a bad request.
        """
        if self.fast and data[0] != 13 and (number > 1 or self.no_proxy_protocol):
            try:
                head = compat.parse_request(data, last_len=parsed, **self.limits)
            except compat.IncompleteError:
                if len(data) > self.max_head:
                    raise compat.LimitRequestHeaders("max buffer headers") from None
                return None
            except Exception:
                head = None  # gunicorn knows how to say what is wrong
            if head is not None:
                return self._request(head, data, peer, number)
        try:
            request = compat.Request(self.cfg, Unreader(data), peer, number)
        except compat.NoMoreData:
            if len(data) > self.max_head:
                raise compat.LimitRequestHeaders("max buffer headers") from None
            return None
        return request, b"" if has_body(request) else request.unreader.take_buffered()

    def _request(
        self, head: dict[str, Any], data: bytes, peer: Any, number: int
    ) -> tuple[Any, bytes]:
        """Make a request of what the C parser has found, as ``Request._parse_fast`` does."""
        uri = head["path"].decode("latin-1")
        if not uri or compat.TARGET_INVALID.search(uri):
            raise compat.InvalidRequestLine(uri)
        request = compat.Request.__new__(compat.Request)
        vars(request).update(self.template)
        request.peer_addr = request.remote_addr = peer
        request.req_number = number
        request.trailers = []
        method = head["method"].decode("latin-1")
        request.method = method.upper() if self.casefold else method
        request.uri = uri
        if uri[0] == "/" and uri[1:2] != "/" and "#" not in uri:
            request.path, _, request.query = uri.partition("?")
        else:
            try:
                parts = compat.split_request_uri(uri)
            except ValueError:
                raise compat.InvalidRequestLine(uri) from None
            request.path = parts.path or ""
            request.query = parts.query or ""
            request.fragment = parts.fragment or ""
        request.version = HTTP_1_1 if head["minor_version"] == 1 else (1, head["minor_version"])
        may_have_body = self._add_headers(request, head["headers"])
        consumed = head["consumed"]
        rest = data[consumed:] if consumed < len(data) else b""
        if may_have_body:
            request.unreader = Unreader(rest)
            request.set_body_reader()
            if has_body(request):
                return request, b""
        else:
            request.unreader = NOTHING
            request.body = compat.Body(compat.LengthReader(NOTHING, 0))
        return request, rest

    def _add_headers(self, request: Any, fields: list[tuple[bytes, bytes]]) -> bool:
        """Add headers to a request, and return True if it may have a body."""
        names = self.names
        headers: list[tuple[str, str]] = []
        request.headers = headers
        has_body = False
        policy: tuple[Any, ...] | None = None
        for field, value in fields:
            name = names.get(field)
            if name is None:
                name = field.decode("latin-1").upper()
                if name in self.special or "_" in name:
                    if name in ("CONTENT-LENGTH", "TRANSFER-ENCODING"):
                        has_body = True
                    if policy is None:
                        policy = ([False], set(), *request._peer_trusted_for_forwarded())
                    kept = request._apply_header_policy(name, value.decode("latin-1"), *policy)
                    if kept is not None:
                        headers.append(kept)
                    continue
                if len(names) < MAX_NAMES:
                    names[field] = name
            headers.append((name, value.decode("latin-1")))
        return has_body


class TLSSocket:
    """
    ``gunicorn.socket`` of a TLS connection: what `ssl.SSLSocket` tells of it.

    Args:
        sock: The socket.
        ssl_object: Its TLS session, as asyncio has it.
    """

    def __init__(self, sock: Any, ssl_object: ssl.SSLObject) -> None:
        self._sock = sock
        self._ssl_object = ssl_object

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "write", "do_handshake", "unwrap"):
            raise AttributeError(f"the connection is the server's: no {name}()")
        return getattr(self._ssl_object if hasattr(self._ssl_object, name) else self._sock, name)


class Environs:
    """
    Makes the environs of a worker's requests, equal to gunicorn's.

    Args:
        cfg: gunicorn's settings.
    """

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.reopen()
        self.base = compat.base_environ(cfg)
        self.base["wsgi.multithread"] = True
        self.keys: dict[str, str] = {
            "CONTENT-TYPE": "CONTENT_TYPE",
            "CONTENT-LENGTH": "CONTENT_LENGTH",
        }

    def reopen(self) -> None:
        """Look where errors go now, and whether the process has a ``SCRIPT_NAME``."""
        self.errors = compat.base_environ(self.cfg)["wsgi.errors"]
        self.mounted = bool(os.environ.get("SCRIPT_NAME"))

    def of_connection(self, peer: Any, server: Any, sock: Any) -> WSGIEnvironment | None:
        """
        Make what the environs of all requests of a connection have in common.

        Args:
            peer: The client's address.
            server: The server's address.
            sock: The connection's socket.

        Returns:
            The environ; ``None`` if each is to be made by gunicorn.
        """
        if self.mounted or not isinstance(peer, tuple) or not isinstance(server, tuple):
            return None
        environ = self.base.copy()
        environ["gunicorn.socket"] = sock
        environ["REMOTE_ADDR"] = peer[0]
        environ["REMOTE_PORT"] = str(peer[1])
        environ["SERVER_NAME"] = server[0]
        environ["SERVER_PORT"] = str(server[1])
        environ["SCRIPT_NAME"] = ""
        return environ  # type: ignore[no-any-return]

    def of_request(self, request: Any, common: WSGIEnvironment) -> WSGIEnvironment | None:
        """
        Make the environ of a request.

        Args:
            request: The request.
            common: What `of_connection` has made.

        Returns:
            The environ, without ``wsgi.early_hints``; ``None`` if gunicorn has to make it.
        """
        environ = common.copy()
        environ["wsgi.errors"] = self.errors
        environ["wsgi.input"] = request.body
        environ["wsgi.url_scheme"] = request.scheme
        environ["REQUEST_METHOD"] = request.method
        environ["RAW_URI"] = request.uri
        environ["QUERY_STRING"] = request.query
        version = request.version
        environ["SERVER_PROTOCOL"] = (
            "HTTP/1.1" if version is HTTP_1_1 else f"HTTP/{version[0]}.{version[1]}"
        )
        path = request.path
        environ["PATH_INFO"] = compat.unquote_to_wsgi_str(path) if "%" in path else path
        keys = self.keys
        repeated: dict[str, list[str]] = {}
        for name, value in request.headers:
            key = keys.get(name)
            if key is None:
                if name == "SCRIPT_NAME":
                    return None
                key = "HTTP_" + name.replace("-", "_")
                if len(keys) < MAX_NAMES:
                    keys[name] = key
            if key not in environ:
                environ[key] = value
            elif key[:5] == "HTTP_":
                repeated.setdefault(key, [environ[key]]).append(value)
            else:
                environ[key] = value
        for key, values in repeated.items():
            environ[key] = ",".join(values)
        return None if request.proxy_protocol_info else environ
