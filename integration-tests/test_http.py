"""Plain HTTP through the real servers."""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path

import pytest
from apps.application import CHUNK
from harness import OTHERS, VARIANTS, Server

MIB = 2**20


@pytest.fixture(scope="session", params=[*VARIANTS, *OTHERS])
def variant(request: pytest.FixtureRequest) -> str:
    """Our servers, and those that run no event loop."""
    return str(request.param)


def memory(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def test_tweens_see_coroutine_views(server: Server):
    with server.client() as client:
        response = client.get("/sleep?s=0")
    assert response.headers["x-tween"] == "seen"
    assert response.cookies["tween"] == "yes"


async def test_two_hundred_requests_wait_at_the_same_time(server: Server):
    async with server.async_client() as client:
        begin = time.monotonic()
        await client.get("/sleep?s=0.2")
        one = time.monotonic() - begin
        begin = time.monotonic()
        responses = await asyncio.gather(*(client.get("/sleep?s=0.2") for _ in range(200)))
        all_of_them = time.monotonic() - begin
    assert {response.status_code for response in responses} == {200}
    # One after the other they would take 200 times as long as one. Most of
    # what is measured here is the client, on as many cores as the server.
    assert all_of_them < 100 * one


async def test_each_of_many_mixed_requests_sees_itself(server: Server):
    paths = ["/sleep?s=0.01", "/generator", "/threaded?s=0.01", "/value_error"]
    async with server.async_client() as client:
        responses = await asyncio.gather(*(client.get(path) for path in paths * 25))
    assert all(response.json()["same"] for response in responses)


@pytest.mark.parametrize("path", ["/user", "/user_async"])
def test_context_variables_come_back_from_a_view_and_stay_in_its_request(server: Server, path: str):
    with server.client() as client:
        for _ in range(10):
            response = client.get(path, params={"name": "ann"})
            assert (response.json(), response.headers["x-user"]) == ("ann", "ann")
            response = client.get(path)
            assert (response.json(), response.headers["x-user"]) == ("nobody", "nobody")


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * MIB])
def test_a_body_of_any_size_is_read_in_a_coroutine_view(server: Server, size: int):
    body = bytes(range(256)) * (size // 256) + b"." * (size % 256)
    with server.client() as client:
        assert client.post("/echo_body", content=body).content == body


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20])
def test_a_chunked_body_is_read_in_a_coroutine_view(server: Server, size: int):
    body = b"." * size
    content = (body[i : i + 50_000] for i in range(0, size, 50_000))
    with server.client() as client:
        assert client.post("/echo_body", content=content).content == body


def test_a_form_with_a_file_is_read_in_a_coroutine_view(server: Server):
    with server.client() as client:
        answer = client.post(
            "/form", data={"text": "grüße"}, files={"file": ("big.bin", b"y" * 3 * MIB)}
        ).json()
    assert answer == {"name": "big.bin", "size": 3 * MIB, "text": "grüße"}


@pytest.mark.parametrize("path", ["/count_body", "/count_body_async"])
def test_a_large_upload_streams_in_bounded_memory(server: Server, path: str):
    pid = server.state()["pid"]
    before = memory(pid)
    with server.client() as client:
        answer = client.post(
            path,
            content=(CHUNK for _ in range(800)),
            headers={"Content-Length": str(800 * len(CHUNK))},
        )
    assert answer.json() == {"size": 800 * len(CHUNK)}
    assert memory(pid, "VmHWM") - before < 25 * MIB


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_a_large_download_streams_in_bounded_memory(server: Server, path: str):
    pid = server.state()["pid"]
    before = memory(pid)
    size = 0
    with server.client() as client, client.stream("GET", f"{path}?n=800") as response:
        for chunk in response.iter_raw():
            size += len(chunk)
    assert size == 800 * len(CHUNK)
    assert memory(pid, "VmHWM") - before < 25 * MIB


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_a_slow_client_holds_back_the_generator(server: Server, path: str):
    before = server.state()["counts"].get("chunks", 0)
    with server.client() as client, client.stream("GET", f"{path}?n=10000") as response:
        next(response.iter_raw(1))
        # Buffers of sockets fill up, and then no more is produced.
        produced = [0, -1]
        while produced[-1] != produced[-2]:
            produced.append(server.state()["counts"]["chunks"] - before)
        assert 0 < produced[-1] < 1000


@pytest.mark.parametrize("path", ["/stream", "/stream_threaded"])
def test_a_client_that_leaves_ends_the_generator(server: Server, path: str):
    before = server.state()["counts"].get("stream closed", 0)
    with server.client() as client, client.stream("GET", f"{path}?n=1000000") as response:
        next(response.iter_raw(1))
    server.eventually_state(
        lambda state: state["counts"].get("stream closed", 0) > before, "the generator is closed"
    )


def test_exception_views_can_be_coroutines(server: Server):
    with server.client() as client:
        response = client.get("/value_error")
    assert response.status_code == 418
    assert response.reason_phrase == "I'm a teapot"
    assert response.json() == {"error": "handled", "same": True}


def test_the_reason_phrase_is_the_applications(server: Server):
    with server.client() as client:
        assert client.get("/status").reason_phrase == "All Fine"


def test_files_are_served(launch, tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(gzip.compress(bytes(range(256)) * 9) * 5000)
    monkeypatch.setenv("AIOPYRAMID_TEST_FILE", str(path))
    server = launch()
    with server.client() as client:
        whole = client.get("/file")
        assert whole.content == path.read_bytes()
        assert int(whole.headers["content-length"]) == path.stat().st_size
        not_modified = client.get(
            "/file", headers={"If-Modified-Since": whole.headers["last-modified"]}
        )
        assert not_modified.status_code == 304
        assert client.head("/file").headers["content-length"] == whole.headers["content-length"]
    fds = server.state()["fds"]
    with server.client() as client:
        for _ in range(5):
            client.head("/file")
    assert server.state()["fds"] <= fds  # each file was closed
