import pytest
from pyramid.config import Configurator
from pyramid.request import Request

from aiopyramid_uwsgi.mapper import UWSGIWebsocketMapper


async def view(ws):
    pass


def test_a_view_on_another_server_is_told_what_to_use():
    with Configurator() as config:
        config.add_view(view, mapper=UWSGIWebsocketMapper)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    request = Request.blank("/", {"SERVER_PROTOCOL": "HTTP/1.1"}, headers=headers)
    response = request.get_response(config.make_wsgi_app())
    assert response.status_int == 501
    assert "use uWSGI, and config.include('aiopyramid')" in response.text


def test_a_plain_view_is_refused():
    with pytest.raises(Exception, match="must be a coroutine or generator function"):
        UWSGIWebsocketMapper()(lambda ws: None)
