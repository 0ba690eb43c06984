"""The page of all settings, and what the code reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS

from aiopyramid.broadcast.settings import BroadcastSettings
from aiopyramid.debug import DebugOptions
from aiopyramid.websocket.options import WebsocketOptions

ROOT = Path(__file__).parents[1]
SOURCES = {
    name: list((ROOT / "packages" / f"aiopyramid-{name}" / "src").rglob("*.py"))
    for name in ("core", "gunicorn", "uwsgi")
}
PAGE = (ROOT / "docs" / "settings.rst").read_text()
SECTIONS = dict(
    zip(*[iter(re.split(r"^([^\n]+)\n-{3,}\n", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True)
)
ROW = re.compile(r"^   \* - ((?:``[^`]+``(?:, )?)+)\n     - (.+)\n     - ", re.MULTILINE)


def table(section: str) -> dict[str, str]:
    """Read the names and defaults of a section's table."""
    return {
        name: default
        for names, default in ROW.findall(SECTIONS[section])
        for name in re.findall(r"``([^`]+)``", names)
    }


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("WebSockets", WebsocketOptions),
        ("Groups", BroadcastSettings),
        ("Debugging", DebugOptions),
    ],
)
def test_all_settings_are_listed_in_order_with_their_defaults(section: str, settings: Any) -> None:
    listed = table(section)
    known = {each.name: each for each in fields(settings)}
    assert list(listed) == list(known)
    for name, default in listed.items():
        value = known[name].default
        if value is MISSING:
            value = known[name].default_factory()
        if value is None or value == ():
            assert default == "none", name
        elif isinstance(value, str):
            assert default == f"``{value}``", name
        else:
            assert float(default.split()[0]) == float(value), name


def test_the_defaults_of_gunicorn_are_its_own() -> None:
    known = {each.name: each.default for each in KNOWN_SETTINGS}
    ours = {"threads": 16}
    for name, default in table("gunicorn").items():
        value = ours.get(name, known[name])
        if callable(value):
            assert default == "none", name
        elif isinstance(value, bool):
            assert default == str(value).lower(), name
        elif isinstance(value, str):
            assert default == f"``{value}``", name
        else:
            assert float(default.split()[0]) == value, name


# What the code reads, as its syntax shows.


def nodes(package: str) -> Iterator[ast.AST]:
    for path in SOURCES[package]:
        yield from ast.walk(ast.parse(path.read_text()))


def constant(node: Any) -> list[str]:
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def read_from(owner: str, package: str) -> Iterator[str]:
    """Find ``owner.get("name")``, ``owner["name"]`` and ``"name" in owner``."""
    for node in nodes(package):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr="get"), args=[first, *_]):
                pass
            case ast.Subscript(value=value, slice=first):
                pass
            case ast.Compare(left=first, ops=[ast.In() | ast.NotIn()], comparators=[value]):
                pass
            case _:
                continue
        if ast.unparse(value).split(".")[-len(owner.split(".")) :] == owner.split("."):
            yield from constant(first)


def called_with(functions: set[str], package: str) -> Iterator[str]:
    """Find the first argument of calls."""
    for node in nodes(package):
        if (
            isinstance(node, ast.Call)
            and node.args
            and ast.unparse(node.func).split(".")[-1] in functions
        ):
            yield from constant(node.args[0])


def sets_of(names: set[str], package: str) -> Iterator[str]:
    """Find the strings of constants of modules."""
    for node in nodes(package):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names:
            for each in ast.walk(node.value):
                yield from constant(each)


def attributes_of(owner: str, package: str) -> Iterator[str]:
    for node in nodes(package):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == owner:
            yield node.attr


def check(read: set[str], section: str) -> None:
    named = set(re.findall(r"``([\w.-]+)``", SECTIONS[section]))
    assert read, "the sources do not look as this test expects"
    assert sorted(read - named) == [], f"docs/settings.rst lacks these in {section}"


def test_what_is_read_of_the_settings_of_others_is_listed() -> None:
    read = {name for package in SOURCES for name in read_from("settings", package)}
    check(read, "Pyramid and add-ons")


def test_what_is_read_of_gunicorns_settings_is_listed() -> None:
    known = {each.name for each in KNOWN_SETTINGS}
    read = set(attributes_of("cfg", "gunicorn")) & known
    check(read | {"worker_connections", "max_requests"}, "gunicorn")


def test_what_is_read_of_uwsgis_options_is_listed() -> None:
    read = set(read_from("uwsgi.opt", "uwsgi"))
    read |= set(called_with({"number", "_text", "_texts", "_router_lacks"}, "uwsgi"))
    read |= set(sets_of({"OPTIONS", "ROUTERS", "TLS", "RECYCLING"}, "uwsgi"))
    check(read, "uWSGI")


def test_variables_of_the_environment_are_listed() -> None:
    read = {name for package in SOURCES for name in read_from("os.environ", package)}
    read |= set(called_with({"getini", "addini", "getenv"}, "core"))
    check(read, "Environment")


def test_the_tables_stand_on_one_page() -> None:
    prefixes = [f"``aiopyramid.{each}." for each in ("websocket", "broadcast", "debug")]
    assert all(prefix in PAGE for prefix in prefixes)
    for path in (ROOT / "docs" / "howto").glob("*.rst"):
        rows = {name for names, _ in ROW.findall(path.read_text()) for name in [names.strip("`")]}
        for settings in (WebsocketOptions, BroadcastSettings):
            known = {each.name for each in fields(settings)}
            assert len(rows & known) < len(known) / 2, f"{path.name} has a table of settings"
