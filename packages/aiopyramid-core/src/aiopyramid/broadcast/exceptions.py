"""What can go wrong on the way to the members of a group."""

from __future__ import annotations


class BroadcastError(Exception):
    """A message did not reach the broker, or may not have reached it."""


class BrokerUnavailable(BroadcastError):
    """The broker cannot be reached. Nothing was sent."""


class BadEnvelope(ValueError):
    """What was received is not a message of ours."""
