"""The tables of settings in the documentation."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from aiopyramid.broadcast.settings import BroadcastSettings
from aiopyramid.websocket.options import WebsocketOptions

HOWTO = Path(__file__).parents[1] / "docs" / "howto"
ROW = re.compile(r"^   \* - ``(\w+)``\n     - (.+)\n     - ", re.MULTILINE)


def shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return f"``{value}``" if isinstance(value, str) else f"{value:g}".replace("e+06", "")


@pytest.mark.parametrize(
    ("page", "settings"),
    [("scaling.rst", BroadcastSettings), ("options.rst", WebsocketOptions)],
)
def test_all_settings_are_listed_in_order_with_their_defaults(page: str, settings: Any) -> None:
    table = dict(ROW.findall((HOWTO / page).read_text()))
    known = {each.name: each for each in fields(settings)}
    assert list(table) == list(known)
    for name, default in table.items():
        value = known[name].default
        if value is MISSING:
            value = known[name].default_factory()
        if isinstance(value, str) or value in (None, ()):
            assert default == shown(value), name
        else:
            assert float(default) == float(value), name
