from __future__ import annotations

import os

import pytest
from websocket_peer import frame
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.server import ServerProtocol

from aiopyramid.websocket.frames import BINARY, TEXT
from aiopyramid.websocket.judge import Judge, Pong


def deflate():
    return [PerMessageDeflate(False, False, 12, 12)]


def judge_of(max_message_size, extensions=()):
    protocol = ServerProtocol(state=OPEN)
    protocol.extensions = list(extensions)
    return Judge(max_message_size, protocol)


def receive(judge, *frames):
    return [judge.receive(each) for each in frames]


@pytest.mark.parametrize(
    ("first", "second", "length", "code", "reason"),
    [
        (0x81, 0x05, 5, 1002, "client frames must be masked"),
        (0x81, 0xFE, 125, 1002, "length is not in its shortest form"),
        (0x81, 0xFF, 65535, 1002, "length is not in its shortest form"),
        (0x89, 0xFE, 126, 1002, "control frame too long"),
        (0x81, 0xFE, 1001, 1009, "message exceeds 1000 bytes"),
        (0x01, 0xFE, 1001, 1009, "message exceeds 1000 bytes"),
    ],
)
def test_what_is_wrong_with_a_header_is_said_before_the_payload_comes(
    first, second, length, code, reason
):
    judge = judge_of(1000)
    assert judge.objection(first, second, length) == Close(code, reason)
    assert judge.open
    assert judge.answer() == b""


def test_a_good_header_meets_no_objection():
    judge = judge_of(1000)
    assert judge.objection(0x81, 0xFE, 1000) is None
    assert judge.objection(0x89, 0xFD, 125) is None


def test_only_compressed_messages_may_be_a_little_larger():
    judge = judge_of(1000, deflate())
    assert judge.objection(0xC1, 0xFE, 1126) is None
    assert judge.objection(0xC1, 0xFE, 1127).code == 1009
    assert judge.objection(0x81, 0xFE, 1001).code == 1009


def test_the_fragments_of_a_message_count_together():
    judge = judge_of(10)
    receive(judge, frame(0x02, bytes(6)))
    assert judge.in_message
    assert judge.objection(0x80, 0x84, 4) is None
    assert judge.objection(0x80, 0x85, 5).code == 1009
    judge = judge_of(10, deflate())
    receive(judge, frame(0x02, bytes(6)), frame(0x80, bytes(5)))
    assert (judge.open, judge.ended, judge.close_status().code) == (False, True, 1009)


def test_fragments_are_joined_and_control_frames_answered():
    judge = judge_of(1000)
    text = "grüße".encode()
    frames = [frame(0x01, text[:3]), frame(0x89, b"?"), frame(0x8A, b"!"), frame(0x80, text[3:])]
    assert receive(judge, *frames) == [None, None, Pong(b"!"), "grüße"]
    assert judge.answer() == b"\x8a\x01?"
    assert receive(judge, frame(0x02, b"a"), frame(0x00), frame(0x80, b"b"))[-1] == b"ab"
    assert not judge.in_message


@pytest.mark.parametrize(
    "frames", [[frame(0x81, b"\xff")], [frame(0x01, b"a"), frame(0x80, b"\xff")]]
)
def test_wrong_text_is_refused(frames):
    judge = judge_of(1000)
    assert receive(judge, *frames)[-1] is None
    assert judge.close_status() == Close(1007, "invalid start byte at position 0")
    assert judge.ended


@pytest.mark.parametrize("first", [0x83, 0x80, 0xC1, 0x09])
def test_illegal_frames_are_refused(first):
    judge = judge_of(1000)
    receive(judge, frame(first))
    assert judge.close_status().code == 1002


@pytest.mark.parametrize(
    ("extensions", "first", "inside", "outside"),
    [
        ([], 0x81, False, True),
        ([], 0x80, True, False),
        ([], 0xC1, False, False),
        (deflate(), 0xC1, False, True),
        ([], 0x89, False, False),
        ([], 0x83, False, False),
    ],
)
def test_data_frames_are_told_from_others(extensions, first, inside, outside):
    judge = judge_of(1000, extensions)
    assert judge.continues(first) is outside
    receive(judge, frame(0x01))
    assert judge.continues(first) is inside


def test_compression_works_both_ways():
    judge, client = judge_of(1000, deflate()), Protocol(CLIENT)
    client.extensions = deflate()
    client.send_text(b"x" * 1000)
    assert receive(judge, b"".join(client.data_to_send())) == ["x" * 1000]
    for first in (TEXT, BINARY):
        data = judge.encode_message(first, b"y" * 1000)
        assert data[0] == first | 0x40
        assert len(data) < 100


def test_a_message_that_inflates_beyond_the_limit_is_refused():
    judge, client = judge_of(1000, deflate()), Protocol(CLIENT)
    client.extensions = deflate()
    client.send_binary(bytes(1001))
    assert receive(judge, b"".join(client.data_to_send())) == [None]
    assert judge.close_status().code == 1009


def test_a_close_frame_is_answered_even_inside_of_a_message():
    judge = judge_of(1000)
    receive(judge, frame(0x01, b"half"), frame(0x88, b"\x03\xe8bye"))
    assert judge.answer() == b"\x88\x05\x03\xe8bye"
    assert judge.close_status() == Close(1000, "bye")
    assert (judge.open, judge.ended) == (False, True)


def test_the_code_that_came_first_counts():
    judge = judge_of(1000)
    assert judge.close_status() is None
    assert judge.close(4000, "ours") == b"\x88\x06\x0f\xa0ours"
    assert (judge.open, judge.ended) == (False, False)
    receive(judge, frame(0x88, b"\x0f\xa1"))
    assert judge.close_status() == Close(4000, "ours")
    assert judge.ended


def test_a_reason_to_fail_is_cut_to_what_a_frame_may_carry():
    judge = judge_of(1000)
    judge.fail(Close(1011, "ü" * 100))
    assert judge.close_status().reason == "ü" * 61
    assert len(judge.answer()) == 2 + 2 + 122


def test_pings_are_made():
    assert judge_of(1000).ping(b"1234") == b"\x89\x041234"


def test_random_messages_survive():
    judge, client = judge_of(2**20, deflate()), Protocol(CLIENT)
    client.extensions = deflate()
    for size in (0, 1, 125, 126, 65536):
        payload = os.urandom(size)
        client.send_binary(payload)
        assert receive(judge, b"".join(client.data_to_send())) == [payload]


def test_messages_that_do_not_refer_to_others_can_stand_between_those_of_others():
    judge = judge_of(10_000, deflate())
    client = Protocol(CLIENT, state=OPEN)
    client.extensions = deflate()
    text = b"the same text, which a context makes much smaller " * 3
    before = len(judge.encode_message(TEXT, text)), len(judge.encode_message(TEXT, text))
    assert before[1] < before[0] / 2
    judge = judge_of(10_000, deflate())
    client.receive_data(judge.encode_message(TEXT, text))
    assert judge.forget_context() == 12
    assert judge.forget_context() == 12
    shared = judge_of(10_000, deflate()).encode_message(TEXT, b"something of others " * 20)
    for frame_ in (judge.encode_message(TEXT, text), shared, judge.encode_message(TEXT, text)):
        client.receive_data(frame_)
    received = [bytes(event.data) for event in client.events_received()]
    assert received == [text, text, b"something of others " * 20, text]


def test_without_compression_there_is_no_context():
    assert judge_of(10).forget_context() == 0
