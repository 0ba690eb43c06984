"""The tests of the documentation's examples."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from apps.examples import FOLDER


@pytest.mark.parametrize("file", ["testing.py", "testing_events.py", "testing_groups.py"])
def test_the_tests_of_the_examples_pass(file):
    path = FOLDER / file
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-p", "no:cacheprovider", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert result.returncode == 0, result.stdout
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed
    tests = re.findall(r"^(?:async )?def test_", (FOLDER / file).read_text(), re.MULTILINE)
    assert int(passed[1]) == len(tests)
