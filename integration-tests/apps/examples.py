"""The examples of the documentation that are applications with settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


def databases():
    sys.path.insert(0, str(FOLDER))
    from databases import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def shop():
    sys.path.insert(0, str(FOLDER))
    from lifespan import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def scopes():
    sys.path.insert(0, str(FOLDER))
    from scopes import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def front():
    sys.path.insert(0, str(FOLDER))
    from front import main

    return main()


def waiting():
    sys.path.insert(0, str(FOLDER))
    from waiting import main

    return main()


def typed_messages():
    sys.path.insert(0, str(FOLDER))
    from typed_messages import main

    return main()


def limits():
    sys.path.insert(0, str(FOLDER))
    from limits import main

    return main()


def events():
    sys.path.insert(0, str(FOLDER))
    from events import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


@contextlib.asynccontextmanager
async def outermost(registry):
    """Hold up the end of the process, when all other lifespans have been left."""
    yield
    while not Path(registry.settings["test.go_on"]).exists():
        await asyncio.sleep(0.01)


def include_outermost(config):
    config.add_lifespan(outermost)


def gallery():
    sys.path.insert(0, str(FOLDER))
    from debugging import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def rooms():
    sys.path.insert(0, str(FOLDER))
    from groups import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def room():
    sys.path.insert(0, str(FOLDER))
    from room import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def notices():
    sys.path.insert(0, str(FOLDER))
    from notices import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def signed_in():
    sys.path.insert(0, str(FOLDER))
    from signed_in import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def tokens():
    sys.path.insert(0, str(FOLDER))
    from tokens import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))


def deployed():
    sys.path.insert(0, str(FOLDER / "deployment"))
    from shop import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))
