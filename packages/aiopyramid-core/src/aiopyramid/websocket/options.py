"""
The options of WebSocket views: settings, view options and defaults.

Each option can be a setting (``aiopyramid.websocket.ping_interval = 30``) and
an option of a view (``@websocket_view_config(..., ping_interval=30)``), which wins.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.path import DottedNameResolver
from pyramid.settings import aslist

from .codecs import is_codec
from .origins import OriginError, parse_allowed

PREFIX = "aiopyramid.websocket."
VIEW_OPTION = "websocket_options"
"""The one name under which Pyramid knows the options of a WebSocket view: a mapping of them."""

YEAR = 365 * 86400.0


class ImportFailed(ValueError):
    """What a dotted name stands for cannot be imported."""


@dataclass(frozen=True, slots=True)
class Option:
    """How a value is read: ``parse`` raises ValueError for what is not ``allowed``."""

    parse: Callable[[Any], Any]
    allowed: str

    def read(self, name: str, value: Any) -> Any:
        """
        Read a value.

        Raises:
            pyramid.exceptions.ConfigurationError: With the name, for a bad value.
        """
        try:
            return self.parse(value)
        except (ValueError, OverflowError) as exc:
            detail = f" ({exc})" if isinstance(exc, OriginError | ImportFailed) else ""
            raise ConfigurationError(
                f"{name} = {value!r} is not allowed{detail}: it must be {self.allowed}"
            ) from None


def _at_least(least: int) -> Option:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
        if number < least:
            raise ValueError
        return number

    return Option(parse, f"a whole number of at least {least}")


def _number(least: float, most: float, allowed: str) -> Option:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if not least <= number <= most:
            raise ValueError
        return number

    return Option(parse, allowed)


def seconds(*, may_be_zero: str = "") -> Option:
    """Make an option for a time in seconds."""
    least = 0.0 if may_be_zero else sys.float_info.min
    return _number(least, YEAR, f"a number of seconds above 0{may_be_zero}")


def _named(check: Callable[[Any], bool], allowed: str) -> Option:
    """An object, or its dotted name."""

    def parse(value: Any) -> Any:
        if value is None or value == "":
            return None
        try:
            found = DottedNameResolver().maybe_resolve(value)
        except ImportError as exc:
            raise ImportFailed(str(exc)) from exc
        if not check(found):
            raise ValueError
        return found

    return Option(parse, f"{allowed}, or its dotted name")


def _one_of(*values: str) -> Option:
    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError
        return str(value)

    return Option(parse, " or ".join(values))


def _list(check: Callable[[str], Any], allowed: str) -> Option:
    def parse(value: Any) -> tuple[str, ...]:
        if not isinstance(value, str) and not isinstance(value, Iterable):
            raise ValueError
        values = tuple(aslist(value) if isinstance(value, str) else value)
        for item in values:
            check(item)
        return values

    return Option(parse, allowed)


def _is_token(value: Any) -> None:
    # RFC 6455 section 4.1, item 10: a token of RFC 9110.
    if (
        not isinstance(value, str)
        or not value
        or not all(c.isalnum() or c in EXTRA_CHARACTERS for c in value)
    ):
        raise ValueError
    value.encode("ascii")


EXTRA_CHARACTERS = "!#$%&'*+-.^_`|~"
OFF = ", or 0 to switch it off"


def _rate(of: str) -> Option:
    return _number(0, 1e12, f"a number of {of} a second{OFF}")


def _option(option: Option, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"option": option})


@dataclass(frozen=True, slots=True)
class WebsocketOptions:
    """What a WebSocket view allows. Sizes are in bytes, times in seconds."""

    #: Origins besides the application's own: ``https://app.example.com``,
    #: ``https://*.example.com``, ``null``, or ``*`` for all.
    origins: tuple[str, ...] = _option(
        _list(parse_allowed, "a list of origins such as https://app.example.com, null, or *"), ()
    )
    #: Subprotocols that the view speaks, the preferred one first.
    subprotocols: tuple[str, ...] = _option(
        _list(_is_token, "a list of subprotocol names such as chat.v1"), ()
    )
    #: Largest message that is accepted, whole and decompressed.
    max_message_size: int = _option(_at_least(1), 2**20)
    #: ``deflate`` to compress messages for clients that offer it.
    compression: str = _option(_one_of("none", "deflate"), "none")
    #: Time between keep-alive pings.
    ping_interval: float = _option(seconds(may_be_zero=OFF), 20.0)
    #: How long to wait for the pong.
    ping_timeout: float = _option(seconds(may_be_zero=OFF), 20.0)
    #: How long to wait for the peer's part of the closing handshake.
    close_timeout: float = _option(seconds(), 10.0)
    #: How long a peer may leave the outgoing buffer full.
    send_timeout: float = _option(seconds(may_be_zero=OFF), 20.0)
    #: Time a view has after a disconnect before it is cancelled.
    disconnect_grace: float = _option(seconds(may_be_zero=", or 0 to cancel it at once"), 5.0)
    #: Messages that wait for ``recv()`` before reading from the peer pauses.
    max_queue: int = _option(_at_least(1), 16)
    #: Memory that these messages take before reading pauses. The last one may exceed it:
    #: Python keeps a text in one, two or four bytes for each character.
    max_queue_size: int = _option(_at_least(1), 2**21)
    #: Size of the outgoing buffer at which ``send()`` begins to wait.
    write_limit: int = _option(_at_least(0), 2**16)
    #: Connections of one worker process at which further ones get 503.
    max_connections: int = _option(_at_least(1), 10_000)
    #: Called with the request of a handshake, it refuses by raising an HTTP exception, and may
    #: return a mapping: of each name that the connection counts for (such as a user or an
    #: address) to the number of connections that may count for it in this process. A further
    #: one gets 429.
    admission: Callable[[Any], Any] | None = _option(  # noqa: RUF009
        _named(callable, "a function that takes the request"), None
    )
    #: Messages in a second that are received on a connection, on average.
    max_message_rate: float = _option(_rate("messages"), 0.0)
    #: Bytes of messages in a second that are received on a connection, on average.
    max_byte_rate: float = _option(_rate("bytes"), 0.0)
    #: A connection that was silent for so long may send at once what it may send in this time.
    rate_burst: float = _option(seconds(), 2.0)
    #: What happens to a message above the rate: ``delay`` reads it later, ``drop`` drops and
    #: counts it, ``close`` closes the connection with code 1008.
    rate_policy: str = _option(_one_of("delay", "drop", "close"), "delay")
    #: Age at which a connection is closed with code 1012, so that the client reconnects.
    max_age: float = _option(seconds(may_be_zero=OFF), 0.0)
    #: The part of ``max_age`` by which that may be earlier, so that connections which began
    #: together do not reconnect together: 0.2 means at 80 to 100 % of it.
    max_age_jitter: float = _option(_number(0, 1, "a number from 0 to 1"), 0.2)
    #: Turns text messages into objects and back (see `aiopyramid.websocket.codecs`).
    codec: Any = _option(  # noqa: RUF009
        _named(is_codec, "an object with decode() and encode(), or what makes one of the request"),
        None,
    )
    #: What happens to a message that the codec cannot decode: ``close`` closes the connection
    #: with code 1007, ``answer`` sends the codec's error message and goes on.
    invalid_message: str = _option(_one_of("close", "answer"), "close")

    def with_values(self, values: Mapping[str, Any], prefix: str = "") -> WebsocketOptions:
        """
        Replace options by values from settings or a view.

        Args:
            values: Unparsed values by option name.
            prefix: What stands before the name in the settings.

        Returns:
            The options with these values.

        Raises:
            pyramid.exceptions.ConfigurationError: For a bad value or name.
        """
        return dataclasses.replace(
            self, **{name: _parse(name, value, prefix) for name, value in values.items()}
        )


OPTIONS: dict[str, Option] = {
    field.name: field.metadata["option"] for field in dataclasses.fields(WebsocketOptions)
}


def from_settings(settings: Mapping[str, Any]) -> WebsocketOptions:
    """
    Read the options from an application's settings.

    Args:
        settings: The settings; those with another prefix are skipped.

    Returns:
        The options, with defaults for what is not set.

    Raises:
        pyramid.exceptions.ConfigurationError: For a bad value or name.
    """
    values = {
        name.removeprefix(PREFIX): value
        for name, value in settings.items()
        if name.startswith(PREFIX)
    }
    return WebsocketOptions().with_values(values, PREFIX)


def _parse(name: str, value: Any, prefix: str) -> Any:
    if name not in OPTIONS:
        raise ConfigurationError(
            f"unknown setting {prefix}{name}; the settings are {', '.join(OPTIONS)}"
        )
    return OPTIONS[name].read(prefix + name, value)
