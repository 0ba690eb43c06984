"""What Redis and Valkey are asked for, and where they are: for coroutines and for plain code."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from ..settings import BroadcastSettings
from . import Outgoing, Position

NUMBERED = b"#"
"""Before a message with a position."""

# One number for each message, without a gap, and the message goes out in their order. A server that
# has begun anew, or another one in its place, may have forgotten messages: it must not use their
# numbers again. So it jumps, and tells from where to where.
KEEP = """
local run = redis.pcall('INFO', 'server')
run = type(run) == 'string' and string.match(run, 'run_id:(%w+)') or ''
local known = redis.call('HMGET', KEYS[2], 'epoch', 'run', 'number')
if not known[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[2], 'epoch', ARGV[4], 'run', run)
  known[1] = ARGV[4]
elseif run ~= '' and known[2] ~= run then
  redis.call('HSET', KEYS[2], 'run', run)
  if known[2] ~= '' then
    local first = redis.call('HINCRBY', KEYS[2], 'number', 1000000) + 1
    redis.call('HSET', KEYS[2], 'jump', known[3] .. ' ' .. first)
  end
end
local number = redis.call('HINCRBY', KEYS[2], 'number', 1)
local position = known[1] .. '.' .. string.format('%.0f', number)
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], string.format('%.0f-0', number), 'm', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PUBLISH', ARGV[5], '#' .. position .. '\\n' .. ARGV[1])
return position
"""

# What is kept, the position of the latest, and the last jump, at one moment.
READ = """
local position = redis.call('HMGET', KEYS[2], 'epoch', 'number', 'jump')
local kept
if not position[1] or (ARGV[1] == '' and ARGV[3] == '0') then
  kept = {}
elseif ARGV[1] == '' then
  kept = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[3])
elseif ARGV[1] == position[1] then
  kept = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2] .. '-0', '+')
else
  kept = redis.call('XRANGE', KEYS[1], '-', '+')
end
return {position[1], position[2], kept, position[3]}
"""


def keys_of(channel: str) -> tuple[str, str]:
    """Return the keys of a channel's stream and of its position; in a cluster, on one node."""
    return f"{{{channel}}}:history", f"{{{channel}}}:position"


def publish_command(item: Outgoing, age: float) -> tuple[Any, ...]:
    """Return the command that publishes a message; one that is kept, for ``age`` seconds."""
    if not item.keep:
        return ("PUBLISH", item.channel, item.data)
    keys = keys_of(item.channel)
    milliseconds = int(age * 1000)
    epoch = secrets.token_hex(4)
    return ("EVAL", KEEP, 2, *keys, item.data, item.keep, milliseconds, epoch, item.channel)


def history_command(channel: str, after: Position | None, last: int) -> tuple[Any, ...]:
    """Return the command that reads what a channel has kept."""
    epoch, number = after or ("", 0)
    return ("EVAL", READ, 2, *keys_of(channel), epoch, number, last)


def split_sentinel_url(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """
    Read ``redis+sentinel://user:password@host:port,host:port/service/db?option=value``.

    User and password are those of the server; the options ``sentinel_username`` and
    ``sentinel_password`` are for the sentinels.

    Returns:
        The addresses of the sentinels, the name of the service, and options of its connections.

    Raises:
        ValueError: If the service is missing, or a port is no number.
    """
    from redis import connection

    parse_url: Any = connection.parse_url  # turns options into what they are
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the URL of sentinels ends with the name of the service")
    addresses = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        addresses.append((name.strip("[]"), int(port)))
    options: dict[str, Any] = parse_url(f"redis://x?{parts.query}")
    del options["host"]
    user, _, password = credentials.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    if database:
        options["db"] = int(database)
    return addresses, unquote(service), options


def check_url(settings: BroadcastSettings) -> None:
    """
    Refuse what ``redis`` takes for no database at all.

    Raises:
        ValueError: If the path of a URL is not the number of a database.
    """
    path = urlsplit(settings.url).path.strip("/")
    if settings.scheme in ("redis", "rediss") and path and not path.isdecimal():
        raise ValueError(f"/{path} is not the number of a database")


def is_sentinel(settings: BroadcastSettings) -> bool:
    """Return True if the URL names sentinels, and not the server."""
    return settings.scheme.endswith("+sentinel")


def make_sentinel(factory: Any, settings: BroadcastSettings, options: Mapping[str, Any]) -> Any:
    """
    Return a client of the server that sentinels name.

    Args:
        factory: ``redis.Sentinel``, or that of ``redis.asyncio``.
        settings: With the URL.
        options: Options of the connections.

    Raises:
        ValueError: For a URL that cannot be read.
    """
    addresses, service, given = split_sentinel_url(settings.url)
    tls = settings.scheme.startswith("rediss")
    access = {
        name: given.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in given
    }
    sentinel = factory(
        addresses,
        sentinel_kwargs={
            "socket_timeout": settings.timeout,
            "ssl": tls,
            "retry": options["retry"],  # another sentinel is asked instead
            **access,
        },
        ssl=tls,
        **{**given, **options},
    )
    return sentinel.master_for(service)


def sentinels_of(pool: Any) -> list[Any]:
    """Return the clients of the sentinels that a pool asks, which nobody else closes."""
    manager = getattr(pool, "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


def make_client(settings: BroadcastSettings) -> Any:
    """
    Return a client for plain code.

    Raises:
        ValueError: For a URL that cannot be read.
    """
    from redis import Redis, Sentinel
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    check_url(settings)
    options: dict[str, Any] = {
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        "retry": Retry(NoBackoff(), 0),  # or a message might be published twice
    }
    if is_sentinel(settings):
        return make_sentinel(Sentinel, settings, options)
    return Redis.from_url(settings.url, **options)
