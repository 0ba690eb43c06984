from __future__ import annotations

import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace

import pytest

from aiopyramid_uwsgi import build


@pytest.fixture
def pip(monkeypatch):
    """Stand where pip would run."""
    pip = SimpleNamespace(status=0, command=None, environ=None)

    def run(command, env, check):
        pip.command, pip.environ = command, env
        return SimpleNamespace(returncode=pip.status)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(build, "version", lambda: "2.0.31")
    monkeypatch.delenv("CFLAGS", raising=False)
    return pip


def test_the_installed_version_is_built_with_both_plugins(pip):
    build.build()
    assert pip.command[:3] == [sys.executable, "-m", "pip"]
    assert pip.command[4:6] == ["install", "--force-reinstall"]
    assert pip.command[-1] == "uwsgi==2.0.31"
    assert pip.environ["UWSGI_PROFILE"] == "asyncio"
    include = Path(pip.environ["CFLAGS"].removeprefix("-I"))
    assert (include / "greenlet" / "greenlet.h").exists()


def test_a_wheel_may_be_left_in_a_folder(pip, tmp_path):
    build.build(wheel_dir=tmp_path)
    assert pip.command[4:7] == ["wheel", "--wheel-dir", str(tmp_path)]


def test_without_uwsgi_the_newest_is_built(pip, monkeypatch):
    monkeypatch.setattr(build, "version", lambda: None)
    build.build()
    assert pip.command[-1] == "uwsgi"


def test_the_flags_of_the_environment_stay(pip, monkeypatch):
    monkeypatch.setenv("CFLAGS", "-O1")
    build.build()
    assert pip.environ["CFLAGS"].endswith(" -O1")


def test_a_build_that_fails_is_an_error(pip):
    pip.status = 1
    with pytest.raises(build.BuildError, match=r"uwsgi==2\.0\.31 was not built"):
        build.build()


def test_without_pip_the_error_tells_how_to_get_it(pip, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(build.BuildError, match="this environment has no pip"):
        build.build()
    assert pip.command is None


def test_the_version_is_that_of_the_installed_uwsgi(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} 1")
    assert build.version() == "uwsgi 1"

    def missing(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert build.version() is None
