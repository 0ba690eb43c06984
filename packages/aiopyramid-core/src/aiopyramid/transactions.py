"""The thread-local transaction manager of the ``transaction`` package, on an event loop."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from .exceptions import ScopeError

ON_THE_LOOP = """\
transaction.manager.{name} was used on the event loop, whose thread all requests share, \
and so would their transaction.
In a coroutine view, call what uses the transaction \
with `await aiopyramid.helpers.use_request_thread(function)(...)`; \
or set tm.manager_hook = pyramid_tm.explicit_manager and use request.tm."""


class SharedByAll:
    """Stands where the transaction manager of a thread would be."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ScopeError(ON_THE_LOOP.format(name=name))

    # `with transaction.manager:` asks the class, and so does setting `explicit`.

    def __enter__(self) -> NoReturn:
        raise ScopeError(ON_THE_LOOP.format(name="__enter__"))

    def __exit__(self, *exc_info: object) -> None:
        """Never entered."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise ScopeError(ON_THE_LOOP.format(name=name))


def refuse_on_loop() -> None:
    """
    In a loop's thread: refuse ``transaction.manager`` from now on.

    Changes what that thread alone sees, and does nothing where the application
    has not imported ``transaction``.
    """
    transaction = sys.modules.get("transaction")
    if transaction is not None:
        transaction.manager.manager = SharedByAll()
