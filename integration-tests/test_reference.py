"""
The reference has every public name, and every name in it says what it does.

Public is what the documentation lets users import, and what stands in the ``__all__`` of a module.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiopyramid_uwsgi import command

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = ("aiopyramid", "aiopyramid_gunicorn")

# Where the documentation lets users import from.
TEXTS = [
    *(path for path in (ROOT / "docs").rglob("*.rst") if "_build" not in path.parts),
    *(ROOT / "docs" / "examples").rglob("*.py"),
    *(ROOT / "demo").rglob("*.py"),
    *(ROOT / "packages").glob("*/README.md"),
    *(path for path in (ROOT / "template").rglob("*.py") if "{%" not in path.read_text()),
    ROOT / "README.md",
    ROOT / "integration-tests" / "apps" / "founding.py",
]
IMPORT = re.compile(r"from (aiopyramid[\w.]*) import (\([^)]*\)|[^\n]+)")
DIRECTIVE = re.compile(
    r"^( *)\.\. (auto)?(module|class|function|exception|data|method):: (\S+?)(?:\(\))?\n"
    r"((?:\1   :.*\n(?:\1    +\S.*\n)*)*)",
    re.MULTILINE,
)
OPTION = re.compile(r"^ *:([\w-]+):(.*(?:\n {4,}\S.*)*)", re.MULTILINE)


def own_names(module: Any) -> list[str]:
    """Return what autodoc takes for a module's members."""
    listed = getattr(module, "__all__", None)
    return listed or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def find(name: str) -> Any:
    """Import a dotted name, as far as its parts are modules, and take the rest from there."""
    module, attributes = name, []
    while True:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, attribute = module.rpartition(".")
            attributes.insert(0, attribute)
            if not module:
                raise
        else:
            break
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


def documented() -> dict[str, list[str]]:
    """Return the names in the reference, each with those of its members that are listed."""
    names: dict[str, list[str]] = {}
    for path in REFERENCE.glob("*.rst"):
        module = ""
        for _, auto, kind, name, block in DIRECTIVE.findall(path.read_text()):
            options = {
                key: re.split(r"[,\s]+", value.strip()) for key, value in OPTION.findall(block)
            }
            members = [each for each in options.get("members", []) if each]
            if kind == "module":
                module = name
                if "members" in options:
                    members = members or own_names(importlib.import_module(module))
                    hidden = options.get("exclude-members", [])
                    names |= {f"{module}.{each}": [] for each in members if each not in hidden}
            elif auto or "." in name:
                names[name] = members
            else:
                names[f"{module}.{name}"] = members
    return names


NAMES = documented()


def imported() -> set[str]:
    """Return what the documentation imports."""
    found = set()
    for path in TEXTS:
        for module, names in IMPORT.findall(path.read_text()):
            text = re.sub(r"#.*| as \w+", "", names)
            found |= {f"{module}.{name}" for name in re.findall(r"\w+", text)}
    return found


def exported() -> Iterator[str]:
    """Return what stands in the ``__all__`` of modules."""
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for info in pkgutil.walk_packages(path, f"{package}."):
            module = importlib.import_module(info.name)
            for name in getattr(module, "__all__", ()):
                yield f"{info.name}.{name}"


def is_documented(name: str) -> bool:
    if name in NAMES:
        return True
    found = find(name)
    if inspect.ismodule(found):
        return any(each.startswith(f"{name}.") for each in NAMES)
    return any(find(each) is found for each in NAMES if not each.endswith("UWSGIWebsocketMapper"))


def test_what_the_documentation_imports_is_in_the_reference() -> None:
    names = imported()
    assert {"aiopyramid.helpers.synchronize", "aiopyramid.broadcast.groups_of"} <= names
    assert [name for name in sorted(names) if not is_documented(name)] == []


def test_what_modules_export_is_in_the_reference() -> None:
    names = set(exported())
    assert "aiopyramid.gunicorn.worker.AsyncGunicornWorker" in names
    assert [name for name in sorted(names) if not is_documented(name)] == []


def test_directives_and_attributes_of_pyramid_are_in_the_reference() -> None:
    added = re.compile(r"config\.add_directive\(\"\w+\", (\w+)\)")
    names = {
        name
        for path in (ROOT / "packages" / "aiopyramid-core" / "src").rglob("*.py")
        for name in added.findall(path.read_text())
    }
    assert names >= {"add_lifespan", "add_background_task", "add_websocket_view"}
    assert names <= {name.rpartition(".")[2] for name in NAMES}


# What the names say.


def described() -> Iterator[tuple[str, Any]]:
    """Return functions, classes and methods in the reference."""
    for name, members in NAMES.items():
        if name.endswith("UWSGIWebsocketMapper"):
            continue
        found = find(name)
        if inspect.isroutine(found) or inspect.isclass(found):
            yield name, found
        for member in members:
            method = inspect.getattr_static(found, member, None)
            function = getattr(method, "__func__", method)
            if inspect.isfunction(function):
                yield f"{name}.{member}", function


DESCRIBED = dict(described())


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_name_in_the_reference_says_what_it_does(name: str) -> None:
    found = DESCRIBED[name]
    text = inspect.getdoc(found) or ""
    assert text, "no docstring"
    if not inspect.isfunction(found):
        return
    parameters = [
        each
        for each in inspect.signature(found).parameters
        # The last one is what a directive is called on.
        if each not in ("self", "cls", "config") and not each.startswith("_")
    ]
    for each in parameters:
        assert re.search(rf"\b{each}\b", text), f"it does not tell {each}"


def test_the_command_is_in_the_reference() -> None:
    text = (REFERENCE / "uwsgi.rst").read_text()
    (commands,) = (
        action
        for action in command.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, parser in commands.choices.items():
        assert f"``aiopyramid-uwsgi {name}" in text
        for action in parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f".. option:: {option}" in text
