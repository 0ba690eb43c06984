from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopyramid.broadcast.backends.postgresql_messages import (
    MAX_ENVELOPE,
    MAX_PAYLOAD,
    MAX_SIZE,
    channel_name,
    from_text,
    to_text,
)


@settings(deadline=None)
@given(st.binary())
def test_every_byte_is_brought_as_text_without_nul(data):
    text = to_text(data)
    assert "\0" not in text
    assert from_text(text) == data


def test_the_largest_message_fits():
    assert len(to_text(b"\xff" * (MAX_SIZE + MAX_ENVELOPE))) <= MAX_PAYLOAD


def test_what_is_no_base64_is_refused():
    with pytest.raises(ValueError, match="base64"):
        from_text("b???")


def test_names_are_short_and_differ():
    names = {channel_name(f"{n}" * 100) for n in range(100)}
    assert len(names) == 100
    assert all(len(name) <= 63 for name in names)
