"""The ini files that ``aiopyramid-uwsgi`` prints, as uWSGI runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import HERE, Server, UWSGILoopServer, UWSGIServer, eventually

from aiopyramid_uwsgi import command

PASTE = """\
[app:main]
use = call:apps.application:paste_main
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = ini says: %(message)s
"""


def serve(launch, tmp_path: Path, text: str, executable: Path) -> Server:
    ini = tmp_path / "uwsgi.ini"
    ini.write_text(text.replace("127.0.0.1:8080", "127.0.0.1:0"))
    # What an ini file says for itself is kept; only the tests' folder is added.
    arguments = [str(executable), "--ini", str(ini), "--pythonpath", str(HERE)]
    return launch(variant="uwsgi-threads", command=arguments)


def test_the_command_prints_an_ini_for_the_installed_uwsgi(launch, tmp_path):
    script = Path(sys.executable).with_name("aiopyramid-uwsgi")
    arguments = [script, "ini", "apps.application:main()"]
    text = subprocess.run(arguments, cwd=HERE, check=True, capture_output=True, text=True).stdout
    server = serve(launch, tmp_path, text, UWSGIServer.executable())
    with server.sync_connect("/echo") as ws:
        ws.send("hello")
        assert ws.recv() == "hello"
    assert "in a thread of its own, with up to 16 requests at a time" in server.log


@pytest.mark.parametrize("application", ["apps.application:main()", "app.ini"])
def test_the_ini_for_loop_mode(launch, tmp_path, monkeypatch, capsys, application):
    (tmp_path / "app.ini").write_text(PASTE)
    monkeypatch.chdir(tmp_path if application == "app.ini" else HERE)
    monkeypatch.setattr(command, "find_uwsgi", UWSGILoopServer.executable)
    monkeypatch.setattr(sys, "argv", ["aiopyramid-uwsgi", "ini", application])
    command.main()
    text = capsys.readouterr().out
    server = serve(launch, tmp_path, text, UWSGILoopServer.executable())
    with server.sync_connect("/echo") as ws:
        ws.send("hello")
        assert ws.recv() == "hello"
    assert "in the main thread, with up to 100 requests at a time" in server.log
    if application == "app.ini":
        eventually(lambda: "ini says: WebSocket /echo" in server.log, "the log is the ini's")


def test_the_ini_passes_a_factory_its_arguments(launch, tmp_path, monkeypatch, capsys):
    arguments = "'a', b={'c': '50%; #1 $(HOME)'}"
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(command, "find_uwsgi", UWSGIServer.executable)
    monkeypatch.setattr(
        sys, "argv", ["aiopyramid-uwsgi", "ini", f"apps.plain:application_with({arguments})"]
    )
    command.main()
    server = serve(launch, tmp_path, capsys.readouterr().out, UWSGIServer.executable())
    with server.client() as client:
        assert client.get("/").text == f"called with {(('a',), {'b': {'c': '50%; #1 $(HOME)'}})}"
