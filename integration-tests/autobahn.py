"""
The Autobahn test suite against the real server.

The suite runs on Python 2.7 only, in an environment of its own.
``python integration-tests/autobahn.py`` runs all of it, which takes about a
quarter of an hour, and writes the table that the documentation shows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from harness import HERE, Server

ENVIRONMENT = HERE.parent / ".autobahn"
TABLE = HERE.parent / "docs" / "autobahn.rst"

# What costs minutes: limits and performance, and compression in all variants.
SLOW = ["9.*", "12.*", "13.*"]

NON_STRICT = {"6.4.3", "6.4.4"}
"""Cases in which wrong text is refused with its frame, and not with its first wrong byte."""


def find_python2() -> str | None:
    """Find Python 2.7, on the path or in pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which("python2.7"), *root.glob("versions/2.7*/bin/python2.7")]
    for candidate in filter(None, candidates):
        found = subprocess.run([candidate, "--version"], capture_output=True, check=False)
        if found.returncode == 0:
            return str(candidate)
    return None


def install() -> Path:
    """Make the suite's environment, unless it is there; return its command."""
    wstest = ENVIRONMENT / "suite" / "bin" / "wstest"
    if not wstest.exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        maker = ENVIRONMENT / "maker"
        run(sys.executable, "-m", "venv", maker)
        # The last release that knows Python 2.
        run(maker / "bin" / "pip", "install", "-q", "virtualenv==20.21.1")
        suite = ENVIRONMENT / "suite"
        run(maker / "bin" / "virtualenv", "-q", "-p", find_python2(), suite)
        run(suite / "bin" / "pip", "install", "-q", "autobahntestsuite==25.10.1")
    return wstest


def run(*command: object) -> None:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(result.stdout + result.stderr)


def test(url: str, exclude: list[str], folder: Path) -> dict[str, dict[str, str]]:
    """Run the suite against a URL; return the results by case."""
    spec = {
        "outdir": str(folder / "report"),
        "servers": [{"agent": "aiopyramid", "url": url}],
        "cases": ["*"],
        "exclude-cases": exclude,
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    run(install(), "-m", "fuzzingclient", "-s", folder / "spec.json")
    results = json.loads((folder / "report" / "index.json").read_text())["aiopyramid"]
    return dict(sorted(results.items(), key=lambda item: [int(n) for n in item[0].split(".")]))


def faults(results: dict[str, dict[str, str]]) -> dict[str, str]:
    """Pick the cases that are not as they should be."""
    expected = {"OK", "INFORMATIONAL"}
    return {
        case: f"{result['behavior']}, close {result['behaviorClose']}"
        for case, result in results.items()
        if result["behaviorClose"] not in expected
        or (
            result["behavior"] not in expected
            and (result["behavior"], case in NON_STRICT) != ("NON-STRICT", True)
        )
    }


def table(plain: dict[str, dict[str, str]], deflate: dict[str, dict[str, str]]) -> str:
    """Write the results down, by section of the suite."""
    sections = {
        "1": "Framing",
        "2": "Pings and pongs",
        "3": "Reserved bits",
        "4": "Opcodes",
        "5": "Fragmentation",
        "6": "UTF-8 handling",
        "7": "Closing handshake",
        "9": "Limits and performance",
        "10": "Miscellaneous",
        "12": "Compression, different payloads",
        "13": "Compression, different parameters",
    }
    lines = [
        "Autobahn test suite",
        "===================",
        "",
        "Results of all cases of autobahntestsuite 25.10.1 against an echo view under gunicorn,",
        "plain and with ``compression = deflate``. The cases on compression need the latter.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - Section",
        "     - Plain",
        "     - With compression",
    ]
    for number, title in sections.items():
        lines += [f"   * - {number}. {title}"]
        lines += [f"     - {_count(results, number)}" for results in (plain, deflate)]
    lines += [
        "",
        f"Non-strict, in cases {' and '.join(sorted(NON_STRICT))}: a frame with wrong UTF-8 is",
        "refused when the whole frame has come, not at its first wrong byte.",
    ]
    lines += ["", "``make autobahn`` runs the suite and writes this page."]
    return "\n".join(lines) + "\n"


def _count(results: dict[str, dict[str, str]], section: str) -> str:
    counts = Counter(
        result["behavior"] for case, result in results.items() if case.split(".")[0] == section
    )
    names = {"OK": "passed", "INFORMATIONAL": "informational", "NON-STRICT": "non-strict"}
    return ", ".join(f"{n} {names.get(name, name)}" for name, n in counts.items()) or "none"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(folder / "server.log")
        server.launch()
        server.wait_until_up()
        try:
            results = []
            for path, exclude in (("/echo_plain", ["12.*", "13.*"]), ("/echo_autobahn", [])):
                (folder / path[1:]).mkdir()
                results.append(test(server.ws_url(path), exclude, folder / path[1:]))
        finally:
            server.stop()
    TABLE.write_text(table(*results))
    bad = [faults(result) for result in results]
    print(f"{sum(map(len, results))} cases, {sum(map(len, bad))} with faults: {bad}")
    sys.exit(any(bad))


if __name__ == "__main__":
    main()
