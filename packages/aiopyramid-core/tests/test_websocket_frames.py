from __future__ import annotations

import os

import pytest
from websocket_peer import frame

from aiopyramid.websocket.frames import (
    BINARY,
    TEXT,
    encode_message,
    find_frame,
    find_payload,
    read_messages,
)

MIB = 2**20


def read(data, max_size=MIB, max_count=100, position=0):
    messages = []
    return messages, read_messages(data, position, max_size, max_count, messages)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_messages_of_any_size_are_read(size):
    payload = os.urandom(size)
    data = frame(BINARY, payload)
    assert read(data + data) == ([payload, payload], 2 * len(data))
    for cut in {1, len(data) - size - 1, len(data) - 1}:
        assert read(data[:cut]) == ([], 0)


def test_text_is_decoded():
    assert read(frame(TEXT, "grüße".encode()))[0] == ["grüße"]


def test_reading_begins_where_it_is_told_and_a_bytearray_will_do():
    data = bytearray(b"xxx" + frame(TEXT, b"a"))
    assert read(data, position=3) == (["a"], len(data))


def test_no_more_messages_are_read_than_asked_for():
    data = frame(TEXT, b"a")
    assert read(data * 5, max_count=2) == (["a", "a"], 2 * len(data))
    assert read(data, max_count=0) == ([], 0)


@pytest.mark.parametrize(
    "other",
    [
        frame(0x01, b"a fragment"),
        frame(0x80, b"a continuation"),
        frame(0xC1, b"compressed"),
        frame(0xA1, b"reserved"),
        frame(0x88),
        frame(0x89),
        frame(0x8A),
        frame(0x83),
        encode_message(TEXT, b"unmasked"),
        frame(TEXT, b"\xff"),
        frame(BINARY, bytes(200)),  # too large
        b"\x82\xfe\x00\x05mask12345",  # not the shortest form
        b"\x82\xff\0\0\0\0\0\0\x00\x05mask12345",
    ],
)
def test_what_is_not_beyond_doubt_is_left_where_it_stands(other):
    first = frame(TEXT, b"first")
    data = first + other + frame(TEXT, b"behind")
    assert read(data, max_size=150) == (["first"], len(first))


def test_the_largest_message_is_read():
    assert read(frame(BINARY, bytes(150)), max_size=150)[0] == [bytes(150)]
    assert read(frame(BINARY, bytes(3)), max_size=3)[0] == [bytes(3)]
    assert read(frame(BINARY, bytes(4)), max_size=3)[0] == []


@pytest.mark.parametrize(("size", "mask"), [(5, 2), (200, 4), (70000, 10)])
def test_payloads_are_found(size, mask):
    data = frame(BINARY, bytes(size))
    assert find_payload(b"x" + data, 1) == (1 + mask, size)
    for cut in range(mask):
        assert find_payload(data[:cut], 0) is None


def test_a_frame_is_found_behind_others():
    data = frame(TEXT, b"a") + frame(BINARY, bytes(300))
    assert find_frame(data + frame(0x88), 0, 8, 10) == (len(data), True)
    assert find_frame(data, 0, 8, 10) == (len(data), False)
    assert find_frame(data[:-1], 0, 8, 10) == (7, False)
    assert find_frame(data + frame(0x88), 0, 8, 1) == (7, None)


def test_messages_are_encoded_as_they_are_read():
    for size in (0, 125, 126, 65535, 65536):
        data = encode_message(BINARY, bytes(size))
        assert data.endswith(bytes(size))
        mask, length = find_payload(data, 0)
        assert (mask, length) == (len(data) - size, size)
