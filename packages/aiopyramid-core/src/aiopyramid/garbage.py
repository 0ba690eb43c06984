"""Python's garbage collector, in a process that serves requests."""

from __future__ import annotations

import gc

# Of Python 3.11 to 3.14: new objects after which it looks at the youngest.
DEFAULTS = (700, 2000)
LESS_OFTEN = 10_000


def collect_less() -> None:
    """
    Have the garbage collector do less, for this whole process; to be called when all is loaded.

    What is loaded now stays, so it need not be looked at again and again. And with Python's
    default, a few requests are enough for another look at the youngest objects, most of which
    are still in use. A threshold that the application has chosen is left alone.
    """
    gc.freeze()  # without a look before, which would take as long as a part of the start
    threshold, *others = gc.get_threshold()
    if threshold in DEFAULTS:
        gc.set_threshold(LESS_OFTEN, *others)
