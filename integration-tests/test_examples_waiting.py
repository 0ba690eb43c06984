"""The application of docs/howto/waiting.rst, under each server."""

from __future__ import annotations

from collections.abc import Callable

from harness import Server


def test_traversal_acl_and_policy_wait(launch: Callable[..., Server], variant: str) -> None:
    server = launch(variant=variant, app="apps.examples:waiting()", wait=False)
    server.port = int(server.wait_for_log(server.listening).group(1))
    with server.client() as client:
        for user, status in (("ann", 200), ("bob", 403), ("", 403)):
            answer = client.get("/a", headers={"X-User": user} if user else {})
            assert answer.status_code == status
        assert client.get("/a", headers={"X-User": "ann"}).json() == {
            "name": "a",
            "owner": "ann",
            "may edit": True,
        }
