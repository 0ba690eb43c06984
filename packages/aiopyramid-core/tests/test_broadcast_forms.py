from __future__ import annotations

import json

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from aiopyramid.broadcast.forms import RAW, TAGGED, Frames, encode
from aiopyramid.broadcast.messages import Message, Resync


def decoded(data, window_bits=0):
    """Read frames as a client does that keeps the context between messages."""
    extension = PerMessageDeflate(False, False, window_bits or 15, 15)
    found = []
    while data:
        first, length = data[0], data[1]
        start = 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        payload = data[start : start + length]
        frame = Frame(Opcode(first & 15), payload, True, bool(first & 0x40))
        found.append((extension.decode(frame) if window_bits else frame).data)
        data = data[start + length :]
    return [bytes(each) for each in found]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 125, 126, 1000, 70_000])
@pytest.mark.parametrize("window_bits", [0, 9, 12, 15])
def test_frames_are_read_whatever_came_before(size, window_bits):
    texts = ["ab" * (size // 2), "cd" * (size // 2), "ab" * (size // 2)]
    frames = b"".join(encode(text, window_bits) for text in texts)
    assert decoded(frames, window_bits) == [text.encode() for text in texts]
    if window_bits and size > 125:
        assert len(frames) < 3 * size


def test_what_does_not_become_smaller_is_not_compressed():
    noise = bytes(range(256))
    assert encode(noise, 15) == encode(noise, 0)


def test_raw():
    assert RAW.message(Message("g", b"x")) == b"x"
    assert RAW.resync(Resync("g", "lost")) is None
    assert RAW.joined("g", "e.1") is None


def test_tagged():
    message = json.loads(TAGGED.message(Message("g", "x")))
    assert message == {"group": "g", "data": "x"}
    message = json.loads(TAGGED.message(Message("g", b"\xff", "e.1")))
    assert message == {"group": "g", "id": "e.1", "base64": "/w=="}
    assert json.loads(TAGGED.resync(Resync("g", "lost"))) == {"group": "g", "resync": "lost"}
    assert json.loads(TAGGED.joined("g", None)) == {"group": "g"}
    assert json.loads(TAGGED.joined("g", "e.1")) == {"group": "g", "id": "e.1"}


class Counting:
    count = 0

    def message(self, message):
        self.count += 1
        return str(message.data)


def test_a_form_is_asked_once_for_all_who_share_it():
    form = Counting()
    frames = Frames([Message("g", "1"), Message("g", "2")])
    assert frames.encoded(form, 0) == b"\x81\x011\x81\x012"
    assert frames.encoded(form, 0) is frames.encoded(form, 0)
    assert form.count == 2
    assert frames.encoded(form, 12)
    assert form.count == 4


def test_who_is_left_out_is_known():
    assert Frames([Message("g", "1"), Message("g", "2", None, "p.1")]).excluding == {"p.1"}


def test_a_form_that_fails_is_logged_once(caplog):
    class Fails:
        def message(self, message):
            raise ArithmeticError("no form")

    form = Fails()
    frames = Frames([Message("g", "1")])
    assert frames.encoded(form, 0) is None
    assert frames.encoded(form, 0) is None
    assert caplog.text.count("ArithmeticError: no form") == 1
