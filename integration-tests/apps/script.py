"""A script that uses the application of an ini file, as one that cron starts would."""

from __future__ import annotations

import sys
from typing import Any

from pyramid.paster import bootstrap

from aiopyramid.helpers import synchronize


@synchronize
async def work(registry: Any) -> str:
    return f"lifespans are entered: {hasattr(registry, 'loop')}"


if __name__ == "__main__":
    with bootstrap(sys.argv[1]) as env:
        print(work(env["registry"]))
