"""The documentation's page on uWSGI's own WebSocket calls tells what happens."""

from __future__ import annotations

import native_calls
import pytest
from harness import HERE

SHOWN = (HERE.parent / "docs/examples/native_calls.txt").read_text()
BLOCKS = {block.splitlines()[0]: block for block in SHOWN.rstrip().split("\n\n")}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return dict(native_calls.measure(tmp_path_factory.mktemp("native"), []))


@pytest.mark.parametrize("title", BLOCKS)
def test_both_do_what_the_page_shows(outcomes, title: str):
    assert native_calls.as_text(title, outcomes[title]).rstrip() == BLOCKS[title]


def test_the_page_shows_all_claims():
    assert list(BLOCKS) == list(native_calls.claims)
