"""Makes the distributions, and environments of their own for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import HERE

PACKAGES = HERE.parent / "packages"


def run(*command: object, **options: Any) -> str:
    """Run a command that must succeed, and return what it prints."""
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(folder: Path) -> None:
    """Put wheels and sdists of all distributions into a folder."""
    for package in sorted(PACKAGES.iterdir()):
        run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=package)


def make_environment(folder: Path, dist: Path, *requirements: object) -> Path:
    """Make a virtual environment, install requirements there, and return its Python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    install(python, dist, *requirements)
    return python


def install(python: Path, dist: Path, *requirements: object) -> None:
    """Install requirements: ours from the folder ``dist``, others from the index."""
    run(python, "-m", "pip", "install", "-q", "--find-links", dist, *requirements)
