"""
Codecs: what turns the messages of a connection into objects, and back.

A codec is an object with these attributes, given by the option ``codec``:

``decode(message)``
    Returns the object that a message of the client stands for.
``encode(obj)``
    Returns the message for an object: `str`, or `bytes` in UTF-8.
``errors``
    The exceptions that ``decode`` raises for a message that does not fit, a class or a tuple
    of them; by default `ValueError`. Any other exception is a fault of the application.
``error_message(exc)``
    Returns the object that tells the client what did not fit, for ``invalid_message = answer``;
    by default `describe`.
``binary``
    True for a codec whose messages are binary ones and not text.

All but the first two may be missing. A class, or a function, that makes a codec of the request
is called once for each connection, before it is accepted.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from pyramid.renderers import render

MAX_DETAIL = 500
"""Characters of an exception's text that a client is sent."""


class JSONCodec:
    """
    Sends and receives JSON, by way of Pyramid's ``json`` renderer and its adapters.

    Args:
        request: The request that opens the connection.
    """

    def __init__(self, request: Any) -> None:
        self.request = request

    def encode(self, obj: Any) -> str:
        """
        Render an object.

        Args:
            obj: What the renderer knows.

        Returns:
            The JSON.

        Raises:
            TypeError: For an object that the renderer does not know.
        """
        text: str = render("json", obj, request=self.request)
        return text

    def decode(self, message: str | bytes) -> Any:
        """
        Parse a message.

        Args:
            message: JSON; bytes in UTF-8.

        Returns:
            The value.

        Raises:
            ValueError: If it is not JSON, or too deeply nested.
        """
        try:
            return _DECODER.decode(message if isinstance(message, str) else message.decode())
        except RecursionError:
            raise ValueError("too deeply nested") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # RFC 8259 section 6, and no browser reads it


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def is_codec(codec: Any) -> bool:
    """Return True for a codec, and for what may make one."""
    return _is_made_of_request(codec) or (hasattr(codec, "decode") and hasattr(codec, "encode"))


def _is_made_of_request(codec: Any) -> bool:
    return inspect.isclass(codec) or inspect.isroutine(codec)


def make_codec(codec: Any, request: Any) -> Any:
    """
    Return the codec of a connection.

    Args:
        codec: The value of the option ``codec``.
        request: The request that opens the connection.

    Raises:
        TypeError: If what should have made a codec has not.
    """
    made = codec(request) if _is_made_of_request(codec) else codec
    if not (hasattr(made, "decode") and hasattr(made, "encode")):
        raise TypeError(f"{codec!r} made {made!r}, which has no decode() and encode()")
    return made


def describe(exc: BaseException) -> dict[str, str]:
    """
    Return what tells a client that its message did not fit.

    Args:
        exc: What ``decode`` has raised.

    Returns:
        A mapping with ``error`` and ``detail``: the exception's text, at most 500 characters of it.
    """
    return {"error": "invalid message", "detail": str(exc)[:MAX_DETAIL]}
