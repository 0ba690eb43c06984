"""
Which web pages may open a connection (RFC 6455 section 10.2, RFC 6454).

A browser lets every page connect to every server, with the user's cookies.
Comparing the Origin header is what keeps foreign pages out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

# A name (RFC 3986 section 3.2.2, as far as DNS knows it) or an IPv6 address.
HOST = re.compile(r"(?:\*\.)?[a-z0-9._~-]+|[0-9a-f:.]+")
PORTS = {"http": 80, "https": 443}


class OriginError(ValueError):
    """The text is no origin."""


class Origin(NamedTuple):
    """An origin (RFC 6454 section 4). A scheme or port of ``None`` matches any."""

    scheme: str | None
    host: str
    port: int | None

    def matches(self, other: Origin) -> bool:
        """Return True if this allowed origin covers the origin of a request."""
        if self.scheme is not None and self.scheme != other.scheme:
            return False
        if self.port is not None and self.port != other.port:
            return False
        if self.host.startswith("*."):
            return other.host.endswith(self.host[1:])
        return self.host == other.host


def parse_origin(text: str) -> Origin:
    """
    Read an Origin header.

    Raises:
        OriginError: If it is not scheme, host and optional port.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise OriginError(str(exc)) from None
    scheme, host = parts.scheme.lower(), parts.hostname
    if not scheme or not host:
        raise OriginError("no scheme and host")
    if not HOST.fullmatch(host):
        raise OriginError(f"{host!r} is no host name")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise OriginError("more than scheme, host and port")
    return Origin(scheme, host, PORTS.get(scheme) if port is None else port)


def parse_allowed(text: str) -> Origin | None:
    """
    Read an entry of the option ``origins``.

    Returns:
        The origin; ``None`` for the special entries ``*`` and ``null``. Its host
        may begin with ``*.``, for all hosts below.

    Raises:
        OriginError: If it is neither.
    """
    if not isinstance(text, str):
        raise OriginError(f"{text!r} is no text")
    if text in ("*", "null"):
        return None
    return parse_origin(text)


def parse_trusted(text: str, scheme: str) -> Origin:
    """
    Read an entry of ``pyramid.csrf_trusted_origins``: a host with optional port.

    Args:
        text: ``example.com``, ``example.com:8443``, or ``.example.com`` for
            the host and all below it.
        scheme: The scheme of the request: Pyramid's entries have none.
    """
    host, port = split_host(text)
    return Origin(scheme, host, PORTS.get(scheme) if port is None else port)


def split_host(text: str) -> tuple[str, int | None]:
    """
    Split a Host header into lower-case host and port.

    Raises:
        OriginError: If it is neither.
    """
    origin = parse_origin(f"any://{text}")
    return origin.host, origin.port


def is_allowed(text: str, own: Origin, allowed: Iterable[str], trusted: Iterable[str] = ()) -> bool:
    """
    Decide on a request's Origin header.

    Args:
        text: The header.
        own: The origin that the request was sent to.
        allowed: The option ``origins``.
        trusted: The setting ``pyramid.csrf_trusted_origins``.
    """
    allowed, trusted = tuple(allowed), tuple(trusted)
    if "*" in allowed:
        return True
    if text == "null":
        return "null" in allowed or "null" in trusted
    try:
        origin = parse_origin(text)
    except OriginError:
        return False
    if origin == own:
        return True
    if any(entry is not None and entry.matches(origin) for entry in map(parse_allowed, allowed)):
        return True
    return any(_is_trusted(entry, origin, own.scheme) for entry in trusted)


def _is_trusted(entry: str, origin: Origin, scheme: str | None) -> bool:
    try:
        trusted = parse_trusted(entry.lstrip("."), scheme or "")
    except OriginError:
        return False  # Pyramid's own setting, and it does not check it either
    if entry.startswith("."):
        below = trusted._replace(host=f"*.{trusted.host}")
        return trusted.matches(origin) or below.matches(origin)
    return trusted.matches(origin)
