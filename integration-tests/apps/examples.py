"""The examples of the documentation that are applications with settings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


def databases():
    sys.path.insert(0, str(FOLDER))
    from databases import main

    return main(**json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"]))
