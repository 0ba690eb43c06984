from __future__ import annotations

import pytest

from aiopyramid.broadcast.settings import (
    BroadcastSettings,
    from_settings,
    from_values,
    hide_password,
)


def test_without_settings_groups_are_in_memory():
    settings = from_settings({"other": 1})
    assert settings == BroadcastSettings()
    assert settings.scheme == "memory"
    assert settings.history_of("a") == 0


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://localhost",
        "redis://user:pass@host:6379/0?ssl_ca_certs=x",
        "rediss://host",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:1,b:2/main",
        "rediss+sentinel://u:p@a/main/1",
        "postgresql://localhost/db",
        "postgresql:///db?host=/run/postgresql",
        "postgres://localhost/db",
    ],
)
def test_urls(url):
    assert from_values({"url": f" {url} "}).url == url


@pytest.mark.parametrize(
    "url", ["", "redis", "localhost:6379", "http://localhost", "redis://", "redis:host", "amqp://x"]
)
def test_a_wrong_url_is_refused(url):
    with pytest.raises(ValueError, match=r"aiopyramid\.broadcast\.url = .* is not allowed: it mus"):
        from_settings({"aiopyramid.broadcast.url": url})


def test_a_wrong_url_is_shown_without_its_password():
    with pytest.raises(ValueError, match="must be a URL") as caught:
        from_values({"url": "http://ann:secret@host"})
    assert "ann:***@host" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert hide_password("redis://host") == "'redis://host'"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefix", ""),
        ("prefix", 1),
        ("history", "chat"),
        ("history", "chat = 0"),
        ("history", "chat = many"),
        ("history", "= 5"),
        ("history", "a*b = 5"),
        ("history", {"a": True}),
        ("history", 5),
        ("history_age", 0),
        ("history_age", "a day"),
        ("history_age", True),
        ("max_queue", 0),
        ("max_queue", 1.5),
        ("max_queue_size", "x"),
        ("overflow", "drop"),
        ("max_outgoing", -1),
        ("max_outgoing_size", None),
        ("timeout", "inf"),
        ("timeout", [1]),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"aiopyramid.broadcast.{name} = .* is not allowed"):
        from_values({name: value})


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match=r"unknown setting aiopyramid\.broadcast\.urls; the sett"):
        from_settings({"aiopyramid.broadcast.urls": "x"})


def test_good_values():
    settings = from_values(
        {
            "prefix": "shop",
            "history_age": "60",
            "max_queue": "5",
            "max_queue_size": 10,
            "overflow": "drop_oldest",
            "timeout": 0.5,
        }
    )
    assert settings.history_age == 60
    assert settings.max_queue == 5
    assert settings.overflow == "drop_oldest"


def test_the_most_exact_name_tells_how_much_is_kept():
    settings = from_values({"history": "chat:* = 10\n\nchat:news:* = 20\n  chat:news:x = 30\n"})
    groups = ("chat:a", "chat:news:a", "chat:news:x", "chat", "other")
    assert [settings.history_of(group) for group in groups] == [10, 20, 30, 0, 0]
    assert from_values({"history": {"*": 1}}).history_of("any") == 1
