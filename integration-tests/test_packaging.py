"""The wheels, as they would come from an index."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from harness import HERE, WORKER
from wheels import make_environment, run

import aiopyramid


def test_there_is_a_wheel_and_an_sdist_of_each_with_one_version(dist: Path):
    names = sorted(path.name for path in dist.iterdir())
    versions = {name.split("-")[1].removesuffix(".tar.gz") for name in names}
    assert len(versions) == 1
    assert len(names) == 6
    for wheel in dist.glob("*.whl"):
        contents = zipfile.ZipFile(wheel).namelist()
        assert any(name.endswith("/py.typed") for name in contents)
        assert any(name.endswith("/licenses/LICENSE") for name in contents)
    for sdist in dist.glob("*.tar.gz"):
        with tarfile.open(sdist) as archive:
            assert any(name.endswith("/LICENSE") for name in archive.getnames())


def test_the_newest_changes_are_those_of_this_version():
    changes = (HERE.parent / "CHANGES.md").read_text()
    newest = re.search(r"^## (\S+)( \(unreleased\))?", changes, re.M)
    assert newest is not None
    version, dev, _ = aiopyramid.__version__.partition(".dev")
    assert newest.groups() == (version, " (unreleased)" if dev else None)


def test_the_gunicorn_wheel_serves_in_an_empty_environment(dist: Path, launch, tmp_path: Path):
    python = make_environment(tmp_path / "venv", dist, "aiopyramid-gunicorn")
    command = [python, "-m", "gunicorn", "-k", WORKER, "-b", "127.0.0.1:0", "--no-control-socket"]
    command += ["--pythonpath", HERE, "apps.minimal:main()"]
    server = launch(command=[str(part) for part in command])
    with server.sync_connect("/echo") as ws:
        ws.send("from a wheel")
        assert ws.recv() == "from a wheel"
    # What makes it fast comes with it.
    run(python, "-c", "import uvloop, gunicorn_h1c")


@pytest.mark.parametrize("uwsgi", ["uwsgi", "pyuwsgi"])
def test_the_uwsgi_wheel_serves_in_an_empty_environment(
    dist: Path, launch, tmp_path: Path, uwsgi: str
):
    if uwsgi == "uwsgi":
        python = make_environment(tmp_path / "venv", dist, "aiopyramid-uwsgi")
    else:  # as documented, for machines without a compiler
        python = make_environment(tmp_path / "venv", dist, "aiopyramid-core", "pyuwsgi", "uvloop")
        run(python, "-m", "pip", "install", "-q", "--no-deps", *dist.glob("aiopyramid_uwsgi*.whl"))
    ini = run(python.with_name("aiopyramid-uwsgi"), "ini", "apps.minimal:main()", cwd=HERE)
    file = tmp_path / "uwsgi.ini"
    file.write_text(ini.replace("127.0.0.1:8080", "127.0.0.1:0"))
    server = launch(variant="uwsgi-threads", command=[str(python.with_name(uwsgi)), "--ini", file])
    with server.sync_connect("/echo") as ws:
        ws.send("from a wheel")
        assert ws.recv() == "from a wheel"
    assert "runs coroutines on uvloop" in server.log


def test_core_alone_names_the_package_to_install(dist: Path, tmp_path: Path):
    python = make_environment(tmp_path / "venv", dist, "aiopyramid-core")
    run(python, "-c", "import aiopyramid.config, aiopyramid.helpers, aiopyramid.websocket.view")
    code = """
import importlib, aiopyramid.websocket.config as config
assert config.__all__ == ["AutoWebsocketMapper"], config.__all__
for name, package in [("WebsocketMapper", "gunicorn"), ("UWSGIWebsocketMapper", "uwsgi")]:
    try:
        getattr(config, name)
    except ImportError as exc:
        assert f"pip install aiopyramid-{package}" in str(exc), exc
    else:
        raise AssertionError(name)
try:
    import aiopyramid.gunicorn.worker
except ImportError as exc:
    assert "pip install aiopyramid-gunicorn" in str(exc), exc
else:
    raise AssertionError("worker")
"""
    run(python, "-c", code)
