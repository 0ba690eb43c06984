from __future__ import annotations

import pytest

from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.rates import Allowance, TokenBucket


def test_a_bucket_begins_full_and_is_filled_at_its_rate():
    bucket = TokenBucket(rate=2, burst=3, now=100)
    for _ in range(6):
        assert bucket.time_to(1, 100) == 0
        bucket.take(1)
    assert bucket.time_to(1, 100) == 0.5
    assert bucket.time_to(1, 100.25) == 0.25
    assert bucket.time_to(1, 100.5) == 0
    assert bucket.time_to(6, 1000) == 0
    bucket.take(6)
    assert bucket.time_to(1, 1000) == 0.5  # no more than it can hold


def test_it_holds_one_at_least():
    bucket = TokenBucket(rate=0.1, burst=1, now=0)
    assert bucket.time_to(1, 0) == 0
    bucket.take(1)
    assert bucket.time_to(1, 0) == 10


def test_what_is_larger_than_the_bucket_needs_a_full_one_and_is_owed():
    bucket = TokenBucket(rate=10, burst=1, now=0)
    assert bucket.time_to(100, 0) == 0
    bucket.take(100)
    assert bucket.time_to(1, 0) == pytest.approx(9.1)


def test_messages_and_bytes_both_count():
    allowance = Allowance(WebsocketOptions(max_message_rate=1, max_byte_rate=10, rate_burst=2), 0)
    allowance.take(15)
    assert allowance.time_to(5, 0) == 0
    assert allowance.time_to(6, 0) == pytest.approx(0.1)
    allowance.take(5)
    assert allowance.time_to(0, 0) == 1


def test_either_may_be_off():
    by_bytes = Allowance(WebsocketOptions(max_byte_rate=10, rate_burst=1), 0)
    by_messages = Allowance(WebsocketOptions(max_message_rate=1, rate_burst=1), 0)
    for _ in range(10):
        by_bytes.take(1)
    by_messages.take(1000)
    assert by_bytes.time_to(1, 0) == pytest.approx(0.1)
    assert by_messages.time_to(1, 0) == 1
