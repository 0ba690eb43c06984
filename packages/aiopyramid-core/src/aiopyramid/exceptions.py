"""Errors of the bridge between plain code and coroutines."""


class ScopeError(Exception):
    """Plain code was asked to wait for a coroutine where waiting is impossible."""
