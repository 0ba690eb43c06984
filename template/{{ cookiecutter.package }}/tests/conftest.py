"""
Fixtures beside those of aiopyramid.

``testapp``, ``sync_client`` and ``async_client`` are fixtures of aiopyramid. The settings are in
``testing.ini``.
"""

import pytest
from pyramid.paster import get_app


@pytest.fixture
def app(ini_file):
    """An application for each test, in which nobody has said anything yet."""
    return get_app(ini_file)


@pytest.fixture
def sign_in():
    """A function that signs somebody in."""

    def sign_in(client, name="Ann"):
        form = client.get("/sign-in").form
        form["name"] = name
        return form.submit(status=303).follow(status=200)

    return sign_in


@pytest.fixture
def signed_in(testapp, sign_in):
    """A ``testapp`` of somebody who has signed in; ``sync_client`` has the same cookies."""
    sign_in(testapp)
    return testapp
