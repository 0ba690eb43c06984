"""
Fixtures for pytest, named as in Pyramid's cookiecutter.

pytest finds them when aiopyramid-core is installed. Nothing is loaded until one is used, and a
fixture of the same name in a project's ``conftest.py`` takes its place: a project that has the
cookiecutter's own keeps them, and gets `sync_client` and `async_client` beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import Client, SyncClient

# Where the requests of tests seem to go.
HOST = "example.com"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting ``pyramid_ini``."""
    parser.addini(
        "pyramid_ini",
        "the ini file that the fixture app loads, from pytest's root directory",
        default="testing.ini",
    )


@pytest.fixture(scope="session")
def ini_file(pytestconfig: pytest.Config) -> str:
    """The path of the ini file for tests: pytest's setting ``pyramid_ini``, or testing.ini."""
    path = Path(pytestconfig.rootpath, pytestconfig.getini("pyramid_ini"))
    if not path.is_file():
        raise pytest.UsageError(
            f"pyramid_ini = {path} does not exist: name an ini file in pytest's configuration, "
            "or define a fixture app that returns the application"
        )
    return str(path)


@pytest.fixture(scope="session")
def app_settings(ini_file: str) -> dict[str, Any]:
    """The settings of the application in the ini file."""
    from pyramid.paster import get_appsettings

    return get_appsettings(ini_file)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def app(ini_file: str) -> Any:
    """The application in the ini file."""
    from pyramid.paster import get_app

    return get_app(ini_file)


@pytest.fixture
def testapp(app: Any) -> Any:
    """A `webtest.TestApp` for the application."""
    from webtest import TestApp

    return TestApp(app, extra_environ={"HTTP_HOST": HOST})


@pytest.fixture
def sync_client(testapp: Any) -> Iterator[SyncClient]:
    """An open `aiopyramid.testing.sync_client`, which shares the cookies of ``testapp``."""
    from .testing import sync_client

    with sync_client(testapp) as client:
        yield client


@pytest.fixture
def async_client(testapp: Any) -> Client:
    """An `aiopyramid.testing.client` like that, to be opened: ``async with async_client as c``."""
    from .testing import client

    return client(testapp)


@pytest.fixture
def app_request(app: Any) -> Iterator[Any]:
    """A real request of the application, which is the current one."""
    from pyramid.scripting import prepare

    with prepare(registry=getattr(app, "registry", None)) as env:
        request = env["request"]
        request.host = HOST
        yield request


@pytest.fixture
def dummy_request() -> Any:
    """A `pyramid.testing.DummyRequest`."""
    from pyramid.testing import DummyRequest

    request = DummyRequest()
    request.host = HOST
    return request


@pytest.fixture
def dummy_config(dummy_request: Any) -> Iterator[Any]:
    """A configurator with the dummy request as the current one (`pyramid.testing.testConfig`)."""
    from pyramid.testing import testConfig

    with testConfig(request=dummy_request) as config:
        yield config
