import asyncio
import threading

import pytest

from aiopyramid.exceptions import ScopeError
from aiopyramid.transactions import refuse_on_loop

pytest.importorskip(
    "transaction", reason="transaction comes with the tests' own environment, not the lowest"
)


def test_the_thread_local_transaction_manager_is_refused_on_the_loop_alone():
    import transaction

    seen = []

    def run_loop():
        async def main():
            refuse_on_loop()
            for use in (
                transaction.begin,
                transaction.get,
                transaction.manager.commit,
                transaction.manager.__enter__,
                lambda: setattr(transaction.manager, "explicit", True),
            ):
                with pytest.raises(ScopeError, match="use_request_thread.*explicit_manager"):
                    use()
            with pytest.raises(ScopeError, match="transaction.manager.get was used"):
                transaction.get()
            with pytest.raises(ScopeError):
                transaction.manager.__enter__()
            seen.append(await asyncio.to_thread(transaction.manager.get))

        asyncio.run(main())

    thread = threading.Thread(target=run_loop)
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert transaction.get() is not seen[0]
