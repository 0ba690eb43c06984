import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from aiopyramid.websocket.options import OPTIONS, PREFIX, WebsocketOptions, from_settings

SIZES = ["max_message_size", "max_queue", "max_queue_size", "write_limit", "max_connections"]
TIMES = [
    "ping_interval",
    "ping_timeout",
    "close_timeout",
    "send_timeout",
    "disconnect_grace",
    "rate_burst",
    "max_age",
]
RATES = ["max_message_rate", "max_byte_rate"]
OTHERS = [
    "origins",
    "compression",
    "subprotocols",
    "rate_policy",
    "max_age_jitter",
    "admission",
    "codec",
    "invalid_message",
]


def read(name, value):
    """Read one option in both of its forms, which must agree."""
    from_view = getattr(WebsocketOptions().with_values({name: value}), name)
    assert getattr(from_settings({PREFIX + name: value}), name) == from_view
    return from_view


def test_the_defaults_are_those_of_the_contract():
    options = WebsocketOptions()
    assert options.origins == ()
    assert options.max_message_size == 1024 * 1024
    assert options.compression == "none"
    assert options.ping_interval == options.ping_timeout == 20
    assert from_settings({}) == options


def test_the_names_are_those_of_the_contract():
    assert set(OPTIONS) == {*SIZES, *TIMES, *RATES, *OTHERS}


def test_the_defaults_are_values_that_are_allowed():
    options = WebsocketOptions()
    assert options.with_values(dataclasses.asdict(options)) == options


def test_other_settings_are_ignored():
    settings = {"pyramid.reload_templates": True, "websocket.max_queue": "no", PREFIX[:-1]: "no"}
    assert from_settings(settings) == WebsocketOptions()


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WebsocketOptions().max_queue = 1


def test_a_views_values_beat_settings_and_settings_beat_defaults():
    settings = from_settings({PREFIX + "max_queue": "4", PREFIX + "ping_interval": "30"})
    options = settings.with_values({"max_queue": 5})
    assert (options.max_queue, options.ping_interval, options.ping_timeout) == (5, 30.0, 20.0)
    assert settings.max_queue == 4


# Whole numbers


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [5, "5", " 5 ", "05"])
def test_sizes_are_whole_numbers(name, value):
    result = read(name, value)
    assert result == 5
    assert type(result) is int


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    "value", ["", "many", "1.5", 1.5, 5.0, "1e3", "-1", -1, True, None, [], b"5", "9" * 5000]
)
def test_sizes_that_are_no_whole_numbers_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} = .* is not allowed: it must be a whole"):
        read(name, value)


@pytest.mark.parametrize(
    ("name", "least"),
    [("max_message_size", 1), ("max_queue", 1), ("write_limit", 0), ("max_connections", 1)],
)
def test_sizes_have_a_least_value(name, least):
    assert read(name, least) == least
    with pytest.raises(ConfigurationError, match=f"at least {least}"):
        read(name, least - 1)


# Seconds


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("value", "seconds"), [(3, 3), ("3", 3), (0.25, 0.25), ("0.25", 0.25)])
def test_times_are_seconds_with_fractions(name, value, seconds):
    result = read(name, value)
    assert result == seconds
    assert type(result) is float


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(
    "value", ["", "soon", "5s", -1, "-0.1", "nan", "inf", float("nan"), 1e99, True, None, [5]]
)
def test_times_that_are_no_seconds_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} = .* is not allowed: it must be a num"):
        read(name, value)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0, "0", 0.0])
def test_two_times_may_not_be_zero(name, value):
    if name in ("close_timeout", "rate_burst"):
        with pytest.raises(ConfigurationError, match="above 0$"):
            read(name, value)
    else:
        assert read(name, value) == 0


# Rates


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(("value", "rate"), [(0, 0), ("0.5", 0.5), (1e6, 1e6)])
def test_rates_are_numbers_a_second(name, value, rate):
    assert read(name, value) == rate


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", ["", "fast", -1, "nan", "inf", True, None])
def test_what_is_no_rate_is_refused(name, value):
    with pytest.raises(ConfigurationError, match=f"{name} = .* must be a number of .* a second"):
        read(name, value)


@pytest.mark.parametrize("value", [-0.1, 1.1, "much", None])
def test_the_jitter_is_a_part(value):
    assert read("max_age_jitter", "0.5") == 0.5
    with pytest.raises(ConfigurationError, match="it must be a number from 0 to 1"):
        read("max_age_jitter", value)


# Objects


def test_objects_may_be_named():
    from aiopyramid.websocket.codecs import JSONCodec, describe

    assert read("codec", "aiopyramid.websocket.codecs.JSONCodec") is JSONCodec
    assert read("codec", JSONCodec) is JSONCodec
    assert read("admission", "aiopyramid.websocket.codecs.describe") is describe
    for nothing in (None, ""):
        assert read("codec", nothing) is None


@pytest.mark.parametrize("value", ["no.such.module", "json", "json.nothing", 5, "a b", ".codecs"])
def test_what_is_no_codec_is_refused(value):
    with pytest.raises(ConfigurationError, match="codec = .* is not allowed.* must be an obj"):
        read("codec", value)


def test_a_name_that_cannot_be_imported_tells_why():
    with pytest.raises(ConfigurationError, match=r"codec = 'no\.such' .*No module named 'no'"):
        read("codec", "no.such")


# Choices and lists


@pytest.mark.parametrize("value", ["none", "deflate"])
def test_compression_is_one_of_two(value):
    assert read("compression", value) == value


@pytest.mark.parametrize("value", ["", "gzip", "Deflate", None, True, ["none"], []])
def test_other_compressions_are_refused(value):
    with pytest.raises(ConfigurationError, match="none or deflate"):
        read("compression", value)


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.example.com", ("https://a.example.com",)),
        ("https://a.example.com\n  https://*.example.org:8443 null", None),
        (["https://a.example.com", "https://*.example.org:8443", "null"], None),
        (("https://[::1]:6543",), ("https://[::1]:6543",)),
        ([], ()),
    ],
)
def test_origins_are_a_list(value, origins):
    if origins is None:
        origins = ("https://a.example.com", "https://*.example.org:8443", "null")
    assert read("origins", value) == origins


@pytest.mark.parametrize(
    "value",
    [
        "example.com",
        "https://",
        "//example.com",
        "https://example.com/",
        "https://example.com/path",
        "https://example.com?query",
        "https://user@example.com",
        "https://example.com:port",
        "https://example.com:99999",
        "https://a.*.example.com",
        "https://*",
        "https://example.com *.example.com",
        "https://a.example.com, https://b.example.com",
        "https://*.",
        "https://exa$mple.com",
        [b"https://example.com"],
        b"https://example.com",
        [None],
        None,
        5,
    ],
)
def test_what_is_no_list_of_origins_is_refused(value):
    with pytest.raises(ConfigurationError, match="origins = .* is not allowed") as caught:
        read("origins", value)
    assert "it must be a list of origins" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("chat.v2 chat.v1", ("chat.v2", "chat.v1")),
        ("chat.v2\nchat.v1", ("chat.v2", "chat.v1")),
        (["soap"], ("soap",)),
        ("!#$%&'*+-.^_`|~09azAZ", ("!#$%&'*+-.^_`|~09azAZ",)),
        ("", ()),
    ],
)
def test_subprotocols_are_a_list_of_tokens_in_order(value, names):
    assert read("subprotocols", value) == names


@pytest.mark.parametrize(
    "value",
    ["a,b", ["two words"], [""], ["ünïcode"], "a/b", "a=b", 'a"b', "(a)", "a\x7fb", [1], 1, None],
)
def test_what_is_no_list_of_tokens_is_refused(value):
    with pytest.raises(ConfigurationError, match="it must be a list of subprotocol names"):
        read("subprotocols", value)


# Messages


def test_a_bad_setting_is_named_in_full():
    with pytest.raises(ConfigurationError) as caught:
        from_settings({"aiopyramid.websocket.max_queue": "many"})
    assert str(caught.value) == (
        "aiopyramid.websocket.max_queue = 'many' is not allowed: "
        "it must be a whole number of at least 1"
    )


def test_a_bad_origin_is_told_why():
    with pytest.raises(ConfigurationError, match=r"\(no scheme and host\): it must be"):
        from_settings({PREFIX + "origins": "example.com"})


def test_an_unknown_setting_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(ConfigurationError, match="unknown setting aiopyramid.websocket.max_size"):
        from_settings({PREFIX + "max_size": 1})
    with pytest.raises(ConfigurationError, match="max_message_size, compression"):
        WebsocketOptions().with_values({"max_size": 1})


def test_a_bad_setting_stops_the_start_of_an_application():
    config = Configurator(settings={PREFIX + "ping_interval": "often"})
    config.include("aiopyramid")
    with pytest.raises(ConfigurationError, match=r"aiopyramid\.websocket\.ping_interval = 'often'"):
        config.make_wsgi_app()


ANYTHING = st.one_of(
    st.text(),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.text()),
    st.binary(),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(OPTIONS)), ANYTHING)
def test_any_value_is_either_read_or_refused(name, value):
    try:
        options = WebsocketOptions().with_values({name: value})
    except ConfigurationError:
        return
    again = options.with_values({name: getattr(options, name)})
    assert again == options
