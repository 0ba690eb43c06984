"""
The options of WebSocket views: settings, view options and defaults.

Each option can be a setting (``aiopyramid.websocket.ping_interval = 30``) and
an option of a view (``@view_config(..., ping_interval=30)``), which wins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.settings import aslist

from .origins import OriginError, parse_allowed

PREFIX = "aiopyramid.websocket."


@dataclass(frozen=True, slots=True)
class Option:
    """How a value is read: ``parse`` raises ValueError for what is not ``allowed``."""

    parse: Callable[[Any], Any]
    allowed: str


def _at_least(least: int) -> Option:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
        if number < least:
            raise ValueError
        return number

    return Option(parse, f"a whole number of at least {least}")


def _seconds(*, may_be_zero: str = "") -> Option:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if not 0 <= number <= 86400 * 365 or (number == 0 and not may_be_zero):
            raise ValueError
        return number

    return Option(parse, f"a number of seconds above 0{may_be_zero}")


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
    ping_interval: float = _option(_seconds(may_be_zero=OFF), 20.0)
    #: How long to wait for the pong.
    ping_timeout: float = _option(_seconds(may_be_zero=OFF), 20.0)
    #: How long to wait for the peer's part of the closing handshake.
    close_timeout: float = _option(_seconds(), 10.0)
    #: How long a peer may leave the outgoing buffer full.
    send_timeout: float = _option(_seconds(may_be_zero=OFF), 20.0)
    #: Time a view has after a disconnect before it is cancelled.
    disconnect_grace: float = _option(_seconds(may_be_zero=", or 0 to cancel it at once"), 5.0)
    #: Messages that wait for ``recv()`` before reading from the peer pauses.
    max_queue: int = _option(_at_least(1), 16)
    #: Memory that these messages take before reading pauses. The last one may exceed it:
    #: Python keeps a text in one, two or four bytes for each character.
    max_queue_size: int = _option(_at_least(1), 2**21)
    #: Size of the outgoing buffer at which ``send()`` begins to wait.
    write_limit: int = _option(_at_least(0), 2**16)
    #: Connections of one worker process at which further ones get 503.
    max_connections: int = _option(_at_least(1), 10_000)

    def with_values(self, values: Mapping[str, Any], prefix: str = "") -> WebsocketOptions:
        """
        Replace options by values from settings or a view.

        Args:
            values: Unparsed values by option name.
            prefix: What stands before the name in the settings.

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
    option = OPTIONS[name]
    try:
        return option.parse(value)
    except (ValueError, OverflowError, OriginError) as exc:
        detail = f" ({exc})" if isinstance(exc, OriginError) else ""
        raise ConfigurationError(
            f"{prefix}{name} = {value!r} is not allowed{detail}: it must be {option.allowed}"
        ) from None
