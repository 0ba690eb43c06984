from __future__ import annotations

import sys

import pytest

from aiopyramid.broadcast.backends import Position, check_backend, make_backend
from aiopyramid.broadcast.backends.memory import MemoryBackend
from aiopyramid.broadcast.settings import from_values


def test_positions_are_read_as_they_are_written():
    position = Position("ab12", 7)
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize("text", ["", ".", "a", "a.", ".1", "a.x", "a.-1", "a.¹", "a." + "9" * 19])
def test_what_is_no_position(text):
    assert Position.parse(text) is None


def test_memory():
    backend = make_backend(from_values({"url": "memory://"}))
    assert isinstance(backend, MemoryBackend)
    check_backend(from_values({"history": "a = 1"}))


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("redis://x", "redis", "redis"),
        ("rediss+sentinel://x/main", "redis", "redis"),
        ("postgresql://x", "psycopg", "postgresql"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, url, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.asyncio", None)
    for name in ("redis", "postgresql"):
        monkeypatch.delitem(sys.modules, f"aiopyramid.broadcast.backends.{name}", raising=False)
    message = rf"needs {library}: pip install 'aiopyramid-core\[{extra}\]'"
    with pytest.raises(ImportError, match=message):
        check_backend(from_values({"url": url}))


@pytest.mark.parametrize(
    "url", ["redis://x/y", "redis://x:port", "redis+sentinel://x", "redis+sentinel://x:y/main"]
)
def test_a_url_that_cannot_be_read_is_refused_by_name(url):
    pytest.importorskip("redis", reason="needs redis")
    with pytest.raises(ValueError, match=r"aiopyramid\.broadcast\.url = .* is not allowed"):
        check_backend(from_values({"url": url}))


def test_a_history_that_cannot_be_kept_is_refused():
    pytest.importorskip("psycopg", reason="needs psycopg")
    settings = from_values({"url": "postgresql://u:secret@x", "history": "a = 1"})
    with pytest.raises(ValueError, match="history is not for postgresql"):
        check_backend(settings)


def test_backends_of_all_brokers_are_made():
    pytest.importorskip("redis", reason="needs redis")
    pytest.importorskip("psycopg", reason="needs psycopg")
    for url in ("redis://x", "postgresql://x"):
        check_backend(from_values({"url": url}))
