import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopyramid.websocket.origins import (
    Origin,
    OriginError,
    is_allowed,
    parse_allowed,
    parse_origin,
    parse_trusted,
    split_host,
)

OWN = Origin("https", "example.com", 443)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://example.com", Origin("https", "example.com", 443)),
        ("http://example.com", Origin("http", "example.com", 80)),
        ("https://example.com:443", Origin("https", "example.com", 443)),
        ("HTTPS://EXAMPLE.com", Origin("https", "example.com", 443)),
        ("https://example.com:8443", Origin("https", "example.com", 8443)),
        ("http://[::1]:6543", Origin("http", "::1", 6543)),
        ("http://127.0.0.1", Origin("http", "127.0.0.1", 80)),
        ("chrome-extension://abcdef", Origin("chrome-extension", "abcdef", None)),
    ],
)
def test_an_origin_is_scheme_host_and_port(text, origin):
    assert parse_origin(text) == origin


NO_ORIGINS = [
    "",
    "null",
    "example.com",
    "example.com:443",
    "https://",
    "https://:443",
    "//example.com",
    "https://example.com/",
    "https://example.com/path",
    "https://example.com?query",
    "https://example.com#fragment",
    "https://user@example.com",
    "https://user:password@example.com",
    "https://@example.com",
    "https://example.com:port",
    "https://example.com:70000",
    "https://example.com:-1",
    "https://[::1",
    "https://example.com, https://example.org",
    "https://example.com,example.org",
]


@pytest.mark.parametrize("text", NO_ORIGINS)
def test_what_is_more_or_less_is_no_origin(text):
    with pytest.raises(OriginError):
        parse_origin(text)


@pytest.mark.parametrize("text", ["*", "null"])
def test_special_entries_of_the_option_stand_for_no_origin(text):
    assert parse_allowed(text) is None


@pytest.mark.parametrize("text", ["https://*", "https://a.*", "https://*.*.com", "https://a*.com"])
def test_a_star_may_only_stand_for_the_first_part(text):
    with pytest.raises(OriginError):
        parse_allowed(text)


@pytest.mark.parametrize("text", [None, 5, b"https://example.com"])
def test_an_entry_that_is_no_text_is_refused(text):
    with pytest.raises(OriginError, match="is no text"):
        parse_allowed(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("example.com", ("example.com", None)),
        ("Example.COM:8080", ("example.com", 8080)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", None)),
    ],
)
def test_a_host_header_is_host_and_port(text, host):
    assert split_host(text) == host


@pytest.mark.parametrize(
    "text", ["", ":80", "example.com:http", "user@example.com", "example.com/path", "a.com, b.com"]
)
def test_what_is_no_host_header_is_refused(text):
    with pytest.raises(OriginError):
        split_host(text)


def test_an_entry_of_pyramids_setting_takes_the_requests_scheme():
    assert parse_trusted("example.org", "https") == Origin("https", "example.org", 443)
    assert parse_trusted("example.org", "http") == Origin("http", "example.org", 80)
    assert parse_trusted("example.org:8443", "https") == Origin("https", "example.org", 8443)


# Deciding


@pytest.mark.parametrize(
    "text", ["https://example.com", "https://example.com:443", "HTTPS://Example.Com"]
)
def test_the_own_origin_is_allowed(text):
    assert is_allowed(text, OWN, ())


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com",
        "https://example.com:8443",
        "https://example.org",
        "https://sub.example.com",
        "https://example.com.evil.org",
        "https://evil-example.com",
        "https://evil.org/https://example.com",
        "https://example.com@evil.org",
        "https://user@example.com",
        "https://example.com.",
        "null",
        *NO_ORIGINS,
    ],
)
def test_all_others_are_refused(text):
    assert not is_allowed(text, OWN, ())


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        (
            "https://a.example.org",
            ["https://a.example.org", "https://A.example.org:443"],
            [
                "http://a.example.org",
                "https://a.example.org:444",
                "https://b.a.example.org",
                "https://example.org",
            ],
        ),
        (
            "https://*.example.org",
            ["https://a.example.org", "https://b.a.example.org"],
            [
                "https://example.org",
                "https://evilexample.org",
                "http://a.example.org",
                "https://a.example.org:8443",
                "https://a.example.org.evil.com",
            ],
        ),
        (
            "http://localhost:6543",
            ["http://localhost:6543"],
            ["http://localhost", "https://localhost:6543", "http://127.0.0.1:6543"],
        ),
        ("null", ["null"], ["https://null", "NULL", "", "https://example.org"]),
    ],
)
def test_an_entry_of_the_option_allows_what_it_says_and_no_more(entry, allowed, refused):
    for text in allowed:
        assert is_allowed(text, OWN, (entry,)), text
    for text in refused:
        assert not is_allowed(text, OWN, (entry,)), text
    assert is_allowed("https://example.com", OWN, (entry,)), "the own origin"


@pytest.mark.parametrize("text", ["https://evil.org", "null", "", "nonsense"])
def test_a_star_switches_the_check_off(text):
    assert is_allowed(text, OWN, ("https://a.org", "*"))


def test_one_of_several_entries_is_enough():
    entries = iter(["null", "https://a.org", "https://*.b.org"])
    assert is_allowed("https://x.b.org", OWN, entries)


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        (
            "example.org",
            ["https://example.org", "https://example.org:443"],
            ["http://example.org", "https://a.example.org", "https://example.org:8443"],
        ),
        (
            ".example.org",
            ["https://example.org", "https://a.example.org", "https://b.a.example.org"],
            ["https://evilexample.org", "http://a.example.org", "https://a.example.org:8443"],
        ),
        ("example.org:8443", ["https://example.org:8443"], ["https://example.org"]),
        ("Example.ORG", ["https://example.org"], ["https://example.com.evil"]),
    ],
)
def test_pyramids_setting_counts_too(entry, allowed, refused):
    for text in allowed:
        assert is_allowed(text, OWN, (), (entry,)), text
    for text in refused:
        assert not is_allowed(text, OWN, (), (entry,)), text


@pytest.mark.parametrize("entry", ["https://example.org", "example.org/path", "*", ".", "a:b"])
def test_a_malformed_entry_of_pyramids_setting_matches_nothing(entry):
    # As in Pyramid itself; it is no reason to answer with an error.
    assert not is_allowed("https://evil.org", OWN, (), (entry,))
    assert is_allowed("https://trusted.org", OWN, (), (entry, "trusted.org"))


def test_null_in_pyramids_setting_allows_it_as_in_pyramid():
    assert is_allowed("null", OWN, (), ("null",))


LABEL = st.from_regex(r"\A[a-z]([a-z0-9-]{0,8}[a-z0-9])?\Z")
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@settings(deadline=None)
@given(HOST, st.sampled_from(["http", "https"]), st.integers(1, 65535))
def test_an_origin_is_its_own_and_nobody_elses(host, scheme, port):
    own = parse_origin(f"{scheme}://{host}:{port}")
    assert is_allowed(f"{scheme}://{host}:{port}", own, ())
    assert not is_allowed(f"{scheme}://{host}:{port % 65535 + 1}", own, ())
    assert not is_allowed(f"{scheme}://x{host}:{port}", own, ())
    assert not is_allowed(f"{scheme}://{host}.x:{port}", own, ())


@settings(deadline=None)
@given(HOST, HOST)
def test_a_wildcard_covers_exactly_the_hosts_below(host, other):
    entry = (f"https://*.{host}",)
    assert is_allowed(f"https://{other}.{host}", Origin("https", "own", 443), entry)
    expected = other.endswith(f".{host}")
    assert is_allowed(f"https://{other}", Origin("https", "own", 443), entry) == expected


@settings(deadline=None)
@given(st.text())
def test_no_text_makes_the_check_fail_or_pass_by_accident(text):
    allowed = is_allowed(text, Origin("https", "own.example", 443), ("https://a.example",))
    if allowed:
        assert parse_origin(text).host in ("own.example", "a.example")
