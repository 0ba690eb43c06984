from __future__ import annotations

import io

from aiopyramid.body import BodyStream


class Pieces(BodyStream):
    def __init__(self, *pieces):
        super().__init__()
        self.pieces = list(pieces)

    def next_piece(self):
        return self.pieces.pop(0) if self.pieces else b""


def test_pieces_of_any_size_are_read_as_one_stream():
    body = Pieces(b"one", b"t" * 100, b"three")
    assert body.readable()
    buffer = bytearray(2)
    assert body.readinto(buffer) == 2
    assert buffer == b"on"
    assert body.read(50) == b"e"
    assert body.read() == b"t" * 100 + b"three"
    assert body.read(1) == b""
    assert body.readinto(buffer) == 0


def test_lines_are_read_through_a_buffer():
    stream = io.BufferedReader(Pieces(b"a\nb", b"\nc"), 16)
    assert list(stream) == [b"a\n", b"b\n", b"c"]
