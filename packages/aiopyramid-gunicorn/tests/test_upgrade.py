from __future__ import annotations

from types import SimpleNamespace

import pytest
from websockets.frames import CloseCode

from aiopyramid_gunicorn.http1 import Released
from aiopyramid_gunicorn.upgrade import become_websocket


class Calls:
    """Remembers the calls of all its methods, in order."""

    def __init__(self, *, takes_eof=True):
        self.calls = []
        self.takes_eof = takes_eof

    def open(self):
        self.calls.append(("open",))
        return self

    def eof_received(self):
        self.calls.append(("eof_received",))
        return self.takes_eof

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args))


def hand_over(calls, *, alive=True, **state):
    """Let one object be session, protocol and transport, and so see the order of the calls."""
    state = {"received": b"", "half_closed": False, "paused": False} | state

    def release():
        calls.calls.append(("release",))
        return Released(calls, **state)

    worker = SimpleNamespace(alive=alive, closing_code=lambda: CloseCode.SERVICE_RESTART)
    become_websocket(SimpleNamespace(worker=worker, release=release), calls)
    begin = [("release",), ("open",), ("set_protocol", calls), ("connection_made", calls)]
    assert calls.calls[:4] == begin
    return calls.calls[4:]


@pytest.mark.parametrize(
    ("state", "calls"),
    [
        ({}, []),
        ({"paused": True}, [("pause_writing",)]),
        ({"received": b"early"}, [("data_received", b"early")]),
        ({"half_closed": True}, [("eof_received",)]),
        ({"alive": False}, [("close", CloseCode.SERVICE_RESTART)]),
        (
            {"paused": True, "received": b"early", "half_closed": True},
            [("pause_writing",), ("data_received", b"early"), ("eof_received",)],
        ),
    ],
)
def test_a_session_takes_over_the_state_of_its_connection(state, calls):
    assert hand_over(Calls(), **state) == calls


def test_a_half_closed_connection_is_closed_if_its_session_wants_no_more():
    calls = hand_over(Calls(takes_eof=False), half_closed=True)
    assert calls == [("eof_received",), ("close",)]
