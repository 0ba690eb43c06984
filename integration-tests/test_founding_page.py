"""The founding page's examples, unchanged but for their imports."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("path", ["/ws", "/ws_async", "/traversed", "/traversed/async", "/uwsgi"])
def test_the_examples_echo_text_and_binary(launch, path: str, variant: str):
    server = launch(app="apps.founding:main()", variant=variant)
    with server.sync_connect(path) as ws:
        for message in ("text", "", "grüße", b"binary", b"", "x" * 100_000):
            ws.send(message)
            assert ws.recv() == message
    with server.sync_connect(path) as ws:
        ws.socket.close()  # no closing handshake
    with server.sync_connect(path) as ws:
        ws.send("still there")
        assert ws.recv() == "still there"
    assert "Traceback" not in server.log
