from __future__ import annotations

import functools
import os
import re

import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from testing_app import echo
from webtest import TestApp

from aiopyramid.testing import sync_client

REASON = "comes with the tests' own environment, not with the lowest versions"
pytest.importorskip("pyramid_debugtoolbar", reason=f"pyramid_debugtoolbar {REASON}")

from aiopyramid.debug import toolbar  # noqa: E402 - it imports pyramid_debugtoolbar

PAGE = "<html><body>a page</body></html>"


class View:
    """A WebSocket view that is a class."""

    def __init__(self, request):
        self.request = request

    async def __call__(self, ws):
        await echo(ws)


def plain(request):
    return Response(PAGE)


async def coroutine(request):
    return Response(PAGE)


@pytest.fixture
def make_app():
    def make_app(*includes, **settings):
        with Configurator(settings=settings) as config:
            for name in includes:
                config.include(name)
            for view in plain, coroutine:
                config.add_route(view.__name__, f"/{view.__name__}")
                config.add_view(view, route_name=view.__name__)
            config.add_route("ws", "/ws/{name}")
            config.add_websocket_view(View, route_name="ws", subprotocols=["chat"])
            return config.make_wsgi_app()

    return make_app


@pytest.fixture
def client(make_app):
    """A client of an application with the toolbar, which is for local addresses."""
    with open_client(make_app("aiopyramid", "pyramid_debugtoolbar")) as client:
        yield client


def open_client(app):
    return sync_client(TestApp(app, extra_environ={"REMOTE_ADDR": "127.0.0.1"}))


def report(client, page):
    """Give what the toolbar says about a page."""
    return client.get(re.search(r"/_debug_toolbar/[0-9a-f]+", page.text).group()).text


def panel(client):
    """Give the number of WebSockets and a row of cells for each, of the panel's HTML."""
    html = report(client, client.get("/plain"))
    html = re.search(r'id="pDebugPanel-websockets-content".*?</table>', html, re.DOTALL).group()
    number = re.search(rf"(\d+) open in process {os.getpid()}", html).group(1)
    body = html.partition("<tbody>")[2]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return int(number), cells


@pytest.mark.parametrize("path", ["/plain", "/coroutine"])
def test_the_toolbar_shows_pages_of_all_views(client, path):
    page = client.get(path)
    assert "a page" in page.text
    assert 'id="pDebug"' in page.text
    assert 'id="pDebugPanel-websockets"' in report(client, page)


def test_without_websockets_the_panel_is_empty(client):
    assert panel(client) == (0, [])


def test_open_websockets_are_listed_and_closed_ones_are_not(client):
    with client.websocket("/ws/one", subprotocols=["chat"]) as ws:
        ws.send("a text")
        assert ws.receive() == "a text"
        with client.websocket("/ws/other", extra_environ={"REMOTE_ADDR": "::1"}):
            number, (one, other) = panel(client)
    assert number == 2
    since = one.pop(3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", since)
    # A header of 2 bytes, and a mask of 4 bytes from the client.
    assert one[:-1] == ["/ws/one", "127.0.0.1", "chat", "1", "1", "12", "8"]
    assert one[-1].startswith("aiopyramid.testing.")  # the client looks at the view
    assert other[:3] == ["/ws/other", "::1", ""]
    assert panel(client) == (0, [])


def test_what_clients_choose_is_escaped(client, make_app):
    # Some servers take the address from a header, which the toolbar itself does not bear.
    environ = {"REMOTE_ADDR": "<script>alert('x')</script>"}
    with (
        open_client(make_app("aiopyramid")) as other,
        other.websocket("/ws/<script>&'", extra_environ=environ),
    ):
        _, (cells,) = panel(client)
    assert cells[1] == "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;"
    assert "<" not in cells[0]
    assert "&amp;" in cells[0]


def test_the_answer_to_a_handshake_is_left_alone(make_app):
    headers = []
    for includes in ["aiopyramid"], ["aiopyramid", "pyramid_debugtoolbar"]:
        with open_client(make_app(*includes)) as client, client.websocket("/ws/one") as ws:
            assert ws.response.status_int == 101
            headers.append(set(ws.response.headers) - {"Date"})
    assert headers[0] == headers[1]


def test_the_application_may_leave_the_panel_out(make_app):
    panels = "pyramid_debugtoolbar.panels.versions.VersionDebugPanel"
    settings = {"debugtoolbar.global_panels": panels}
    with open_client(make_app("aiopyramid", "pyramid_debugtoolbar", **settings)) as client:
        assert "pDebugPanel-websockets" not in report(client, client.get("/plain"))
    settings["debugtoolbar.global_panels"] += "\nwebsockets"
    with open_client(make_app("aiopyramid", "pyramid_debugtoolbar", **settings)) as client:
        assert panel(client) == (0, [])


def test_a_websocket_that_opened_before_the_toolbar_has_no_time(client, monkeypatch):
    with client.websocket("/ws/one"):
        monkeypatch.setattr(toolbar, "_opened", {})
        _, (cells,) = panel(client)
    assert cells[3] == ""


@pytest.mark.parametrize(
    ("view", "name"),
    [
        (echo, "testing_app.echo"),
        (functools.partial(echo), "testing_app.echo"),
        (View(None), f"{__name__}.View"),
        (View(None).__call__, f"{__name__}.View.__call__"),
    ],
)
def test_a_view_has_a_name(view, name):
    assert toolbar.view_name(view) == name
