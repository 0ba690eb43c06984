from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aiopyramid_uwsgi import build, command

STOCK = "    --threads\n    --http-socket\n"
PLUGINS = STOCK + "    --asyncio    a shortcut\n    --greenlet    enable\n"


@pytest.fixture
def uwsgi(tmp_path, monkeypatch):
    """Install a stand-in for uWSGI beside a stand-in for Python."""

    def install(options: str, status: int = 0) -> Path:
        (tmp_path / "options").write_text(options)
        executable = tmp_path / "uwsgi"
        version = '[ "$1" = --version ] && echo 2.0.99 && exit'
        executable.write_text(
            f"#!/bin/sh\n{version}\ncat {tmp_path}/options; echo why >&2; exit {status}\n"
        )
        executable.chmod(0o755)
        return executable

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return install


def run(monkeypatch, capsys, *args: str) -> str:
    monkeypatch.setattr(sys, "argv", ["aiopyramid-uwsgi", *args])
    command.main()
    return capsys.readouterr().out


@pytest.mark.parametrize(("options", "answer"), [(STOCK, "no, its"), (PLUGINS, "yes, with")])
def test_check_says_which_modes_uwsgi_has(uwsgi, monkeypatch, capsys, options, answer):
    executable = uwsgi(options)
    out = run(monkeypatch, capsys, "check")
    assert out.startswith(f"uWSGI 2.0.99: {executable}\nthread mode: yes")
    assert f"loop mode:   {answer}" in out


def test_check_finds_uwsgi_on_the_path(uwsgi, tmp_path, monkeypatch, capsys):
    executable = uwsgi(STOCK)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert str(executable) in run(monkeypatch, capsys, "check")
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(SystemExit, match="uWSGI is not installed here: pip install uwsgi"):
        run(monkeypatch, capsys, "check")


def test_a_uwsgi_that_does_not_run_is_told(uwsgi, monkeypatch, capsys):
    executable = uwsgi(STOCK, status=1)
    with pytest.raises(SystemExit, match=f"{executable} --help failed: why"):
        run(monkeypatch, capsys, "check")


@pytest.mark.parametrize(
    ("options", "args", "mode"),
    [
        (STOCK, [], "threads = 16"),
        (PLUGINS, [], "asyncio = 100\ngreenlet = true"),
        (PLUGINS, ["--mode", "thread"], "threads = 16"),
        (PLUGINS, ["--mode", "loop"], "asyncio = 100\ngreenlet = true"),
    ],
)
def test_ini_prints_options_for_the_mode(uwsgi, monkeypatch, capsys, options, args, mode):
    uwsgi(options)
    out = run(monkeypatch, capsys, "ini", "myproject.app:main()", *args)
    assert "\nmodule = myproject.app:main()\n" in out
    assert f"\n{mode}\n" in out
    assert "{" not in out


def test_ini_for_a_mode_that_is_missing_is_refused(uwsgi, monkeypatch, capsys):
    uwsgi(STOCK)
    with pytest.raises(SystemExit, match="has no loop mode: aiopyramid-uwsgi build"):
        run(monkeypatch, capsys, "ini", "app:main()", "--mode", "loop")


def test_ini_for_pastedeploy(uwsgi, tmp_path, monkeypatch, capsys):
    uwsgi(STOCK)
    file = tmp_path / "production.ini"
    file.write_text("[loggers]\nkeys = root\n[formatter_x]\nformat = %(message)s\n")
    monkeypatch.chdir(tmp_path)
    out = run(monkeypatch, capsys, "ini", "production.ini#site")
    assert f"\npaste = config:{file}#site\npaste-logger = {file}\n" in out


@pytest.mark.parametrize(
    ("logging", "message"),
    [
        ("", ""),
        ("[loggers]\nkeys = root\n[handler_x]\nargs = ('%(here)s/x',)\n", "uWSGI cannot set up"),
    ],
)
def test_ini_leaves_out_logging_that_uwsgi_cannot_read(
    uwsgi, tmp_path, monkeypatch, capsys, logging, message
):
    uwsgi(STOCK)
    file = tmp_path / "production.ini"
    file.write_text("[app:main]\nuse = egg:x\n" + logging)
    monkeypatch.setattr(sys, "argv", ["aiopyramid-uwsgi", "ini", str(file)])
    command.main()
    out, err = capsys.readouterr()
    assert "paste-logger" not in out
    assert err.startswith(message)


def test_ini_escapes_what_uwsgi_replaces(uwsgi, tmp_path, monkeypatch, capsys):
    uwsgi(STOCK)
    folder = tmp_path / "50%n"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert f"\nchdir = {tmp_path}/50%%n\n" in run(monkeypatch, capsys, "ini", "app:main()")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("(retry=True)", "(retry=True)"),
        ("('a', b={'c': [1]})", "('a', b={'c': [1]})"),
        ("('50%; #1 $(HOME) @(x)')", r"('50\x25\x3b \x231 \x24(HOME) \x40(x)')"),
    ],
)
def test_ini_passes_arguments_on(uwsgi, monkeypatch, capsys, arguments, printed):
    uwsgi(STOCK)
    out = run(monkeypatch, capsys, "ini", f"my.app:main{arguments}")
    assert f"\neval = import my.app; application = my.app.main{printed}\n" in out
    assert "module =" not in out


@pytest.mark.parametrize("arguments", ["(open('x'))", "(1", "(**x)", "()+main(1)"])
def test_ini_takes_no_arguments_but_literals(uwsgi, monkeypatch, capsys, arguments):
    uwsgi(STOCK)
    with pytest.raises(SystemExit, match="names no application|must be literals of Python"):
        run(monkeypatch, capsys, "ini", f"my.app:main{arguments}")


@pytest.mark.parametrize(
    ("application", "message"),
    [
        ("missing.ini", "there is no file missing.ini"),
        ("myproject", "'myproject' names no application: use module:application"),
        ("my-project:main", "names no application"),
        ("a:b\nmaster = false", "names no application"),
    ],
)
def test_what_names_no_application_is_refused(uwsgi, monkeypatch, capsys, application, message):
    uwsgi(STOCK)
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, capsys, "ini", application)


def test_build_needs_pip(uwsgi, monkeypatch, capsys):
    uwsgi(STOCK)
    monkeypatch.setattr(build.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="this environment has no pip: python -m ensurepip"):
        run(monkeypatch, capsys, "build")


def test_build_leaves_a_uwsgi_with_the_plugins_alone(uwsgi, monkeypatch, capsys):
    uwsgi(PLUGINS)
    monkeypatch.setattr(build, "build", None)
    assert run(monkeypatch, capsys, "build") == "uWSGI has loop mode already\n"


def test_build_says_what_the_new_uwsgi_can_do(uwsgi, monkeypatch, capsys):
    uwsgi(STOCK)
    monkeypatch.setattr(build, "build", lambda wheel_dir: uwsgi(PLUGINS))
    assert "loop mode:   yes" in run(monkeypatch, capsys, "build")


@pytest.mark.parametrize("status", [0, 1])
def test_build_lets_pip_build_with_the_plugins(uwsgi, tmp_path, monkeypatch, capsys, status):
    uwsgi(PLUGINS)
    called = []

    def pip(args, env, check):
        called.append((args, env))
        return subprocess.CompletedProcess(args, status)

    monkeypatch.setattr(build.subprocess, "run", pip)
    find_spec = build.util.find_spec
    monkeypatch.setattr(build.util, "find_spec", lambda name: name == "pip" or find_spec(name))
    if status:
        with pytest.raises(SystemExit, match="was not built; pip's output above says why"):
            run(monkeypatch, capsys, "build", "--wheel-dir", str(tmp_path))
    else:
        run(monkeypatch, capsys, "build", "--wheel-dir", str(tmp_path))
    ((args, env),) = called
    assert args[-2:] == ["uwsgi", f"uwsgi=={build.version()}"]
    assert "--no-cache-dir" in args
    assert env["UWSGI_PROFILE"] == "asyncio"
    include = env["CFLAGS"].split()[0].removeprefix("-I")
    assert (Path(include) / "greenlet" / "greenlet.h").exists()
