from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopyramid.broadcast.exceptions import BadEnvelope
from aiopyramid.broadcast.messages import (
    NOBODY,
    NUMBERED_GROUPS,
    Envelope,
    Message,
    Numbering,
    Seen,
    channel_of,
    check_group,
    decode,
    from_control,
    to_control,
    to_json,
    to_payload,
    worker_channel,
    workers_channel,
)


@settings(deadline=None)
@given(st.text() | st.binary(), st.integers(0, 2**60))
def test_an_envelope_brings_what_was_put_into_it(message, sequence):
    try:
        kind, payload = to_payload(message)
    except UnicodeEncodeError:
        return  # a lone surrogate
    envelope = Envelope(kind, payload, "0123456789ab", sequence, NOBODY)
    assert decode(envelope.encode()) == envelope


@settings(deadline=None)
@given(st.binary())
def test_what_is_no_envelope_is_refused(data):
    parts = data.split(b"\n", 1)
    if len(parts) == 2 and parts[0].count(b" ") == 3:
        return  # it may be one
    with pytest.raises(BadEnvelope, match="not published by aiopyramid"):
        decode(data)


@pytest.mark.parametrize("message", [None, 1, {}, ["x"]])
def test_other_values_are_refused(message):
    with pytest.raises(TypeError, match="publish_json"):
        to_payload(message)


@pytest.mark.parametrize("message", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_like_is_binary(message):
    assert to_payload(message) == ("binary", b"x")


@pytest.mark.parametrize("group", ["a", "user:1", "x" * 200, "späti", "a b", "*"])
def test_names_of_groups(group):
    assert check_group(group) is group


@pytest.mark.parametrize("group", ["", "x" * 201, "ä" * 101, "a\n", "\0", "\ud800"])
def test_names_that_groups_cannot_have(group):
    with pytest.raises(ValueError, match="cannot be the name"):
        check_group(group)


def test_a_name_is_a_text():
    with pytest.raises(TypeError, match="a str, not b'a'"):
        check_group(b"a")


def test_numbers_of_a_publisher_have_no_gap():
    numbering = Numbering()
    assert [numbering.next(group) for group in "aabab"] == [1, 2, 1, 3, 2]
    assert numbering.publisher != Numbering().publisher


def test_a_publisher_forgets_the_groups_of_long_ago():
    numbering = Numbering()
    for n in range(NUMBERED_GROUPS):
        numbering.next(str(n))
    assert numbering.next("1") == 2
    numbering.next("one more")
    assert numbering.next("1") == 3
    assert numbering.next("0") == 1


def envelope(publisher, sequence):
    return Envelope("text", b"", publisher, sequence, NOBODY)


def test_gaps_in_the_numbers_of_a_publisher_are_seen():
    seen = Seen()
    numbers = [("p", 7), ("p", 8), ("q", 1), ("p", 10), ("p", 11), ("q", 2), ("p", 1), ("q", 2)]
    assert [seen.is_next(envelope(*each)) for each in numbers] == [
        *(True, True, True, False, True, True, True, False)
    ]
    seen.clear()
    assert seen.is_next(envelope("p", 5))


def test_publishers_of_long_ago_are_forgotten():
    seen = Seen(max_publishers=2)
    for publisher in "pqr":
        seen.is_next(envelope(publisher, 1))
    assert seen.is_next(envelope("p", 9))
    assert not seen.is_next(envelope("r", 9))


def test_json_is_compact_and_nothing_else():
    assert to_json({"a": [1, "ä"]}) == '{"a":[1,"\\u00e4"]}'
    with pytest.raises(ValueError, match="Out of range"):
        to_json(float("nan"))


def test_what_workers_tell_each_other():
    assert from_control(to_control({"a": 1})) == {"a": 1}
    for payload in (b"", b"[]", b"\xff", b"{"):
        with pytest.raises(BadEnvelope):
            from_control(payload)


def test_channels():
    assert channel_of("p", "g") == "p:group:g"
    assert len({channel_of("p", "s"), workers_channel("p"), worker_channel("p", "s")}) == 3


def test_who_is_left_out_is_no_part_of_a_message():
    assert Message("g", "x", None, "p.1") == Message("g", "x")
    assert "p.1" not in repr(Message("g", "x", None, "p.1"))


def test_a_publisher_needs_neither_pyramid_nor_asyncio():
    code = (
        "import json, sys\n"
        "import aiopyramid.broadcast.publisher\n"
        "print(json.dumps([name for name in ('asyncio', 'pyramid') if name in sys.modules]))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(printed.stdout) == []
