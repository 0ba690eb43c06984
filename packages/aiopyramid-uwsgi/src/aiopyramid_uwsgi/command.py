"""The command ``aiopyramid-uwsgi``: what uWSGI can do here, and how to run it."""

from __future__ import annotations

import argparse
import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import build

INI = """\
[uwsgi]
; The application.
{application}
need-app = true
single-interpreter = true

; Requests and coroutines.
{mode}

; Processes, each with WebSockets of its own. SIGTERM stops, SIGHUP reloads, and
; both close them first.
master = true
processes = 2
die-on-term = true
worker-reload-mercy = 30

; The front: HTTP for a browser or a proxy. See the documentation for nginx and TLS.
http-socket = 127.0.0.1:8080
buffer-size = 16384
"""

THREAD_MODE = """\
; Each of {number} threads runs a request; WebSockets hold none of them.
threads = {number}"""

LOOP_MODE = """\
; {number} requests at a time on the event loop; WebSockets do not count.
asyncio = {number}
greenlet = true
; The plugins leak some bytes with each request.
max-requests = 100000"""


BUILD = "Build uWSGI with the plugins for loop mode, in half a minute; needs a C compiler."


def find_uwsgi() -> Path:
    """Find the uWSGI of this environment, or else the one on the search path."""
    beside = Path(sys.executable).with_name("uwsgi")
    if beside.exists():
        return beside
    found = shutil.which("uwsgi")
    if found is None:
        raise SystemExit("uWSGI is not installed here: pip install uwsgi")
    return Path(found)


def has_loop_mode(uwsgi: Path) -> bool:
    """Return True if a uWSGI was built with the plugins of the asyncio loop."""
    return {"--asyncio", "--greenlet"} <= set(_ask(uwsgi, "--help").split())


def _ask(uwsgi: Path, option: str) -> str:
    result = subprocess.run(  # noqa: S603 - it is the uWSGI that is going to be run
        [uwsgi, option], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{uwsgi} {option} failed: {result.stderr.strip()}")
    return result.stdout.strip()


def check(_: argparse.Namespace) -> None:
    """Say what the installed uWSGI allows."""
    uwsgi = find_uwsgi()
    print(f"uWSGI {_ask(uwsgi, '--version')}: {uwsgi}")
    print("thread mode: yes, with threads = N")
    if has_loop_mode(uwsgi):
        print("loop mode:   yes, with asyncio = N and greenlet = true")
    else:
        print("loop mode:   no, its asyncio and greenlet plugins are missing")
        print("             (aiopyramid-uwsgi build builds uWSGI with them)")


def ini(args: argparse.Namespace) -> None:
    """Print an ini file for an application."""
    loop_mode = args.mode == "loop"
    uwsgi = find_uwsgi()
    if args.mode is None:
        loop_mode = has_loop_mode(uwsgi)
    elif loop_mode and not has_loop_mode(uwsgi):
        raise SystemExit(f"{uwsgi} has no loop mode: aiopyramid-uwsgi build builds one that has")
    mode = LOOP_MODE.format(number=100) if loop_mode else THREAD_MODE.format(number=16)
    application = application_options(args.application)
    if sys.prefix != sys.base_prefix:
        application += f"\nvirtualenv = {sys.prefix}"
    # uWSGI replaces what is between percent signs.
    print(INI.format(application=application.replace("%", "%%"), mode=mode), end="")


def _paste_logger(path: Path) -> str:
    """Let uWSGI set up the logging of an ini file, if it can."""
    ini = configparser.ConfigParser(interpolation=None, strict=False)
    ini.read(path)
    if "loggers" not in ini:
        return ""
    kinds = ("logger", "handler", "formatter")
    values = {
        value
        for section in ini.sections()
        if section.startswith(kinds)
        for option, value in ini.items(section)
        if option != "format"
    }
    if any("%(" in value for value in values):
        print(f"uWSGI cannot set up the logging of {path}, for its %(here)s", file=sys.stderr)
        return ""
    return f"\npaste-logger = {path}"


def application_options(application: str) -> str:
    """Give the options that load an application, as it was written on the command line."""
    file, _, section = application.partition("#")
    if file.endswith(".ini"):
        path = Path(file).resolve()
        if not path.exists():
            raise SystemExit(f"there is no file {file}")
        name = f"#{section}" if section else ""
        return f"chdir = {path.parent}\npaste = config:{path}{name}{_paste_logger(path)}"
    match = re.fullmatch(r"([\w.]+):(\w+)(\(.*\))?", application)
    if match is None:
        raise SystemExit(
            f"{application!r} names no application: use module:application, "
            "module:factory(), or an ini file of PasteDeploy"
        )
    module, name, arguments = match.groups("")
    if arguments in ("", "()"):
        return f"chdir = {os.getcwd()}\nmodule = {application}"
    # uWSGI's own notation has no arguments.
    call = f"{module}.{name}({_arguments(name, arguments)})"
    return f"chdir = {os.getcwd()}\neval = import {module}; application = {call}"


def _arguments(name: str, text: str) -> str:
    """Write a factory's arguments so that nothing in them means anything to uWSGI."""
    try:
        call = ast.parse(name + text, mode="eval").body
        assert isinstance(call, ast.Call)
        values = [repr(ast.literal_eval(value)) for value in call.args]
        values += [f"{each.arg}={ast.literal_eval(each.value)!r}" for each in call.keywords]
    except (SyntaxError, ValueError, AssertionError) as exc:
        raise SystemExit(f"the arguments of {name}{text} must be literals of Python") from exc
    # In literals, these stand in strings alone.
    return re.sub(r"[;#$@%]", lambda match: f"\\x{ord(match[0]):02x}", ", ".join(values))


def build_uwsgi(args: argparse.Namespace) -> None:
    """Build uWSGI with the plugins, unless the one that is installed has them."""
    if args.wheel_dir is None and build.version() and has_loop_mode(find_uwsgi()):
        print("uWSGI has loop mode already")
        return
    try:
        build.build(wheel_dir=args.wheel_dir)
    except build.BuildError as exc:
        raise SystemExit(str(exc)) from None
    if args.wheel_dir is None:
        check(args)


def parser() -> argparse.ArgumentParser:
    """Make the command's parser."""
    main = argparse.ArgumentParser(
        prog="aiopyramid-uwsgi", description="Coroutines and WebSockets for Pyramid under uWSGI."
    )
    commands = main.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("check", help=check.__doc__, description=check.__doc__)
    command.set_defaults(run=check)
    command = commands.add_parser("ini", help=ini.__doc__, description=ini.__doc__)
    command.add_argument(
        "application", help="module:application, module:factory(), or an ini file of PasteDeploy"
    )
    command.add_argument(
        "--mode", choices=["thread", "loop"], help="default: loop, if this uWSGI has that mode"
    )
    command.set_defaults(run=ini)
    command = commands.add_parser("build", help=BUILD, description=BUILD)
    command.add_argument(
        "--wheel-dir", type=Path, help="leave a wheel there, and do not install it"
    )
    command.set_defaults(run=build_uwsgi)
    return main


def main() -> None:
    """Run the command."""
    args = parser().parse_args()
    args.run(args)
