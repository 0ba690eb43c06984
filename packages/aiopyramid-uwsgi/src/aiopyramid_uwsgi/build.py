"""Building uWSGI with the plugins of its asyncio loop."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path


class BuildError(Exception):
    """uWSGI could not be built; the message says why."""


def version() -> str | None:
    """Return the version of the installed uWSGI, if one is."""
    try:
        return metadata.version("uwsgi")
    except metadata.PackageNotFoundError:
        return None


def build(*, wheel_dir: Path | None = None) -> None:
    """
    Build uWSGI from source, with its asyncio and greenlet plugins.

    Needs pip and a C compiler. Takes half a minute.

    Args:
        wheel_dir: Where to leave a wheel; by default, uWSGI is installed in
            place of the one in this environment.

    Raises:
        BuildError: If that fails; what pip says has been printed.
    """
    if util.find_spec("pip") is None:
        raise BuildError("this environment has no pip: python -m ensurepip installs it")
    greenlet = util.find_spec("greenlet")
    assert greenlet is not None
    assert greenlet.origin is not None
    include = Path(greenlet.origin).parents[1]  # of <greenlet/greenlet.h>
    flags = f"-I{include} {os.environ.get('CFLAGS', '')}"
    requirement = f"uwsgi=={version()}" if version() else "uwsgi"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if wheel_dir is None:
        command += ["install", "--force-reinstall"]
    else:
        command += ["wheel", "--wheel-dir", str(wheel_dir)]
    # pip's cache does not tell a wheel with the plugins from one without.
    command += ["--no-cache-dir", "--no-deps", "--no-binary", "uwsgi", requirement]
    environ = dict(os.environ, UWSGI_PROFILE="asyncio", CFLAGS=flags.strip())
    result = subprocess.run(command, env=environ, check=False)  # noqa: S603 - no outside input
    if result.returncode:
        raise BuildError(f"{requirement} was not built; pip's output above says why")
