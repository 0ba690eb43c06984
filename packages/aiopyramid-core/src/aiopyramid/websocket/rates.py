"""How many messages and bytes a connection may send in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import WebsocketOptions


class TokenBucket:
    """
    A token bucket, which begins full.

    Args:
        rate: Tokens that come in a second.
        burst: Seconds in which it is filled.
        now: The time of the loop.
    """

    __slots__ = ("_at", "_capacity", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._capacity = max(rate * burst, 1.0)
        self._tokens = self._capacity
        self._at = now

    def _fill(self, now: float) -> None:
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._capacity)
        self._at = now

    def time_to(self, tokens: float, now: float) -> float:
        """
        Return the seconds until there are so many tokens.

        More than it can hold counts as all that it can hold.
        """
        self._fill(now)
        missing = min(tokens, self._capacity) - self._tokens
        return missing / self._rate if missing > 0 else 0.0

    def take(self, tokens: float) -> None:
        """Take tokens; those that are missing are owed."""
        self._tokens -= tokens


class Allowance:
    """
    What a connection may send.

    Args:
        options: With rates, one of which is not 0.
        now: The time of the loop.
    """

    __slots__ = ("_bytes", "_messages")

    def __init__(self, options: WebsocketOptions, now: float) -> None:
        burst = options.rate_burst
        self._messages, self._bytes = (
            TokenBucket(rate, burst, now) if rate else None
            for rate in (options.max_message_rate, options.max_byte_rate)
        )

    def time_to(self, size: int, now: float) -> float:
        """Return the seconds until a message of so many bytes may be received."""
        messages, size_bucket = self._messages, self._bytes
        return max(
            messages.time_to(1, now) if messages else 0.0,
            size_bucket.time_to(size, now) if size_bucket else 0.0,
        )

    def take(self, size: int) -> None:
        """Count a message of so many bytes."""
        if self._messages:
            self._messages.take(1)
        if self._bytes:
            self._bytes.take(size)
