import pytest

from aiopyramid.helpers import synchronize

from . import main
from .views import total


@pytest.fixture(scope="session")
def app():
    return main({}, **{"auth.secret": "seekrit"})


def test_home(testapp):
    assert testapp.get("/").json["rooms"] == ["attic", "cellar"]


def test_booking_twice(sync_client):
    sync_client.post("/login", {"name": "john"})
    sync_client.post("/attic/book", {"day": "friday"})
    sync_client.post("/login", {"name": "mary"})
    sync_client.post("/attic/book", {"day": "friday"}, status=409)


def test_total():
    assert synchronize(total)(["attic", "cellar"]) == 30
