"""Conformance: the quick part of the Autobahn test suite."""

from __future__ import annotations

import autobahn
import pytest
from harness import WEBSOCKET_VARIANTS, Server

pytestmark = pytest.mark.skipif(
    autobahn.find_python2() is None, reason="the Autobahn test suite needs Python 2.7"
)


@pytest.fixture(scope="session", params=WEBSOCKET_VARIANTS)
def variant(request):
    return request.param


@pytest.mark.parametrize("path", ["/echo_plain", "/echo_autobahn"])
def test_no_case_fails(server: Server, path: str, tmp_path):
    results = autobahn.test(server.ws_url(path), autobahn.SLOW, tmp_path)
    assert len(results) == 247
    assert autobahn.faults(results) == {}
