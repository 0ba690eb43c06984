import pytest
from pyramid.config import Configurator
from pyramid.request import Request

from aiopyramid_gunicorn.mapper import WebsocketMapper


async def view(ws):
    pass


def test_a_view_on_another_server_is_told_which_worker_to_use():
    with Configurator() as config:
        config.add_view(view, mapper=WebsocketMapper)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    request = Request.blank("/", {"SERVER_PROTOCOL": "HTTP/1.1"}, headers=headers)
    response = request.get_response(config.make_wsgi_app())
    assert response.status_int == 501
    assert "use gunicorn -k aiopyramid.gunicorn.worker.AsyncGunicornWorker" in response.text


def test_a_plain_view_is_refused():
    with pytest.raises(Exception, match="must be a coroutine or generator function"):
        WebsocketMapper()(lambda ws: None)
