from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("redis", reason="needs redis")

from aiopyramid.broadcast.backends import Outgoing, Position
from aiopyramid.broadcast.backends.redis_commands import (
    KEEP,
    READ,
    check_url,
    history_command,
    is_sentinel,
    keys_of,
    make_client,
    make_sentinel,
    publish_command,
    sentinels_of,
    split_sentinel_url,
)
from aiopyramid.broadcast.settings import from_values


def test_what_is_kept_is_published_by_a_script():
    assert publish_command(Outgoing("c", b"x"), 60) == ("PUBLISH", "c", b"x")
    command = publish_command(Outgoing("c", b"x", 5), 60.5)
    assert command[:4] == ("EVAL", KEEP, 2, "{c}:history")
    assert command[5:8] == (b"x", 5, 60500)
    assert command[9] == "c"


def test_a_history_is_read_by_a_script():
    assert history_command("c", Position("e", 3), 7) == ("EVAL", READ, 2, *keys_of("c"), "e", 3, 7)
    assert history_command("c", None, 7)[5:] == ("", 0, 7)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis+sentinel://a/main", ([("a", 26379)], "main", {})),
        ("redis+sentinel://a:1,[::1]:2/main/3", ([("a", 1), ("::1", 2)], "main", {"db": 3})),
        (
            "redis+sentinel://u%40:p%3A@a:1/m%20?health_check_interval=5",
            (
                [("a", 1)],
                "m ",
                {"username": "u@", "password": "p:", "health_check_interval": 5},
            ),
        ),
    ],
)
def test_urls_of_sentinels(url, found):
    assert split_sentinel_url(url) == found


@pytest.mark.parametrize("url", ["redis+sentinel://a", "redis+sentinel://a:x/main"])
def test_urls_of_sentinels_that_cannot_be_read(url):
    with pytest.raises(ValueError, match="service|invalid literal"):
        split_sentinel_url(url)


class Factory:
    """Notes how a sentinel is made."""

    def __init__(self, addresses, sentinel_kwargs, **options):
        self.addresses, self.sentinel_kwargs, self.options = addresses, sentinel_kwargs, options

    def master_for(self, service):
        self.service = service
        return self


def test_sentinels_have_a_password_of_their_own():
    url = "rediss+sentinel://u:p@a:1/main?sentinel_password=s&sentinel_username=v"
    settings = from_values({"url": url, "timeout": 3})
    assert is_sentinel(settings)
    made = make_sentinel(Factory, settings, {"retry": "r"})
    assert made.addresses == [("a", 1)]
    assert made.service == "main"
    assert made.options == {"username": "u", "password": "p", "ssl": True, "retry": "r"}
    assert made.sentinel_kwargs == {
        "socket_timeout": 3,
        "ssl": True,
        "retry": "r",
        "username": "v",
        "password": "s",
    }


@pytest.mark.parametrize("url", ["redis://a/x", "rediss://a/1/2"])
def test_what_is_no_database_is_refused(url):
    with pytest.raises(ValueError, match="is not the number of a database"):
        check_url(from_values({"url": url}))


@pytest.mark.parametrize("url", ["redis://a", "redis://a/", "rediss://a/1", "unix:///run/x"])
def test_databases(url):
    check_url(from_values({"url": url}))


def test_a_client_for_plain_code_does_not_try_again():
    client = make_client(from_values({"url": "redis://a/1", "timeout": 3}))
    options = client.connection_pool.connection_kwargs
    assert options["socket_timeout"] == 3
    assert options["retry"]._retries == 0
    assert sentinels_of(client.connection_pool) == []
    client.close()
    client = make_client(from_values({"url": "redis+sentinel://a,b/main"}))
    assert len(sentinels_of(client.connection_pool)) == 2
    client.close()


def test_pools_without_sentinels():
    assert sentinels_of(SimpleNamespace()) == []
