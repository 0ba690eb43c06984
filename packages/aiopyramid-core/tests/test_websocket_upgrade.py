from __future__ import annotations

import pytest

from aiopyramid.websocket import upgrade
from aiopyramid.websocket.sessions import Sessions
from aiopyramid.websocket.upgrade import Upgrade


def new_session():
    # Compared and hashed as an object.
    return type("Session", (), {"quotas": {}})()


@pytest.fixture
def sessions(monkeypatch):
    sessions = Sessions()
    monkeypatch.setattr(upgrade, "sessions", sessions)
    return sessions


def test_a_session_is_kept_until_the_request_has_ended(sessions):
    place, session = Upgrade(), new_session()
    assert place.accept(session, 1)
    place.follow(None)
    assert place.session is session
    assert not Upgrade().accept(new_session(), 1)
    place.forget()
    assert place.session is None
    assert sessions.has_room(1)
    place.forget()


def test_a_retried_request_has_one_session(sessions):
    place, second = Upgrade(), new_session()
    assert place.accept(new_session(), 1)
    assert place.accept(second, 1)
    assert place.session is second
    assert not sessions.has_room(1)


def test_without_room_there_is_no_session(sessions):
    sessions.admit(new_session(), 1)
    place = Upgrade("an obstacle")
    assert not place.accept(new_session(), 1)
    assert place.session is None
    assert place.obstacle == "an obstacle"
