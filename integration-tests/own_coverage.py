"""
Runs the unit tests, and checks that each module is covered by its own test file.

``aiopyramid/websocket/judge.py`` is covered by ``test_websocket_judge.py``, in the tests of
its distribution. Lines that only the tests of other modules run do not count: they pass by
accident, and fail far from the cause.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

PACKAGES = Path(__file__).parents[1] / "packages"
LEAST = 90  # percent of the lines of a module


class Contexts:
    """Tells coverage which test file runs."""

    def __init__(self, cov: coverage.Coverage) -> None:
        self.cov = cov

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.cov.switch_context(str(item.path.relative_to(PACKAGES)))
        result = yield
        self.cov.switch_context("")
        return result


def test_file(source: Path, root: Path) -> str:
    """Return a module's test file, which is among the tests of its distribution."""
    parts = source.relative_to(root).with_suffix("").parts[1:]  # without the package's name
    return f"{root.parent.name}/tests/test_{'_'.join(parts).replace('__init__', 'init')}.py"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        cov = coverage.Coverage(
            data_file=str(Path(folder) / "data"),
            config_file=False,
            source=[str(root) for root in PACKAGES.glob("*/src")],
            concurrency=["greenlet", "thread"],
        )
        cov.exclude("if TYPE_CHECKING:")
        cov.exclude("pragma: no cover")
        cov.start()
        # Coverage would ask greenlet for what runs in each thread. Where a thread has used it and
        # ended, the next one that uses it frees the rest, and greenlet 3.5 and coverage's tracer
        # then spin for ever. Here only this thread's greenlets matter, which began before.
        cov._collector.concur_id_func = threading.current_thread
        options = ["-q", "-p", "no:cacheprovider", "--reruns", "1", "-rRs"]
        failed = pytest.main([*options, str(PACKAGES)], [Contexts(cov)])
        cov.stop()
        if failed:
            return int(failed)
        poor = 0
        for root in sorted(PACKAGES.glob("*/src")):
            for source in sorted(root.rglob("*.py")):
                poor += not check(cov, source, root)
    if not poor:
        print(f"Each module's own tests cover at least {LEAST} % of its lines.")
    return poor


def check(cov: coverage.Coverage, source: Path, root: Path) -> bool:
    """Print a line about a module that is not covered by its own test file."""
    own = test_file(source, root)
    _, statements, _, _, _ = cov.analysis2(str(source))
    # What runs when a module is imported has no context.
    contexts = cov.get_data().contexts_by_lineno(str(source))
    covered = {line for line, names in contexts.items() if own in names or "" in names}
    missing = sorted(set(statements) - covered)
    if len(missing) * 100 <= len(statements) * (100 - LEAST):
        return True
    print(f"{source.relative_to(root)}: {own} does not cover {len(missing)} of {len(statements)}")
    print(f"    lines {', '.join(map(str, missing))}")
    return False


if __name__ == "__main__":
    sys.exit(main())
