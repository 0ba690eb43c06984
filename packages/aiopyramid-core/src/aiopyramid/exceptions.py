"""Errors of the bridge between plain code and coroutines."""


class ScopeError(Exception):
    """Plain code was asked to wait for a coroutine where waiting is impossible."""


class ClientDisconnected(ConnectionResetError):
    """
    The client has left: what its request waited for was cancelled.

    Raised in plain code, as a socket would; coroutines get `asyncio.CancelledError`.
    """
