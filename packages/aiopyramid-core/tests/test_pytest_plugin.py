from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib import metadata

import pytest
import webtest
from pyramid.testing import DummyRequest
from pyramid.threadlocal import get_current_registry, get_current_request

APPLICATION = """
    import asyncio, contextlib, os
    from pyramid.config import Configurator
    from pyramid.response import Response
    from aiopyramid.websocket.config import AutoWebsocketMapper

    @contextlib.asynccontextmanager
    async def lifespan(registry):
        registry.loop = asyncio.get_running_loop()
        yield

    async def home(request):
        assert request.registry.loop is asyncio.get_running_loop()
        response = Response(f"{request.host} {request.registry.settings['greeting']}")
        response.set_cookie("name", "value")
        return response

    async def echo(ws):
        await ws.send(ws.request.cookies.get("name", ""))
        async for message in ws:
            await ws.send(message)

    def main(global_config, **settings):
        with Configurator(settings=settings) as config:
            config.include("aiopyramid")
            config.add_lifespan(lifespan)
            config.add_route("home", "/")
            config.add_view(home, route_name="home")
            config.add_route("echo", "/echo")
            config.add_view(echo, route_name="echo", mapper=AutoWebsocketMapper)
            return config.make_wsgi_app()
"""

INI = """
    [app:main]
    paste.app_factory = application:main
    greeting = hello
"""

TESTS = """
    def test_settings(app_settings):
        assert app_settings["greeting"] == "hello"

    def test_plain(testapp, sync_client):
        assert testapp.get("/").text == "example.com hello"
        with sync_client.websocket("/echo") as ws:
            assert ws.receive() == "value"
            ws.send("text")
            assert ws.receive() == "text"

    async def test_coroutine(async_client):
        async with async_client as c:
            await c.get("/")
            async with c.websocket("/echo") as ws:
                assert await ws.receive() == "value"

    def test_plain_again(testapp):
        assert testapp.get("/").text == "example.com hello"

    def test_request(app_request, app):
        assert app_request.host == "example.com"
        assert app_request.route_url("home") == "http://example.com/"
        assert app_request.registry is app.registry

    def test_dummies(dummy_config, dummy_request):
        dummy_config.add_route("other", "/other")
        assert dummy_request.route_url("other") == "http://example.com/other"
"""

# As Pyramid's cookiecutter makes it.
CONFTEST = """
    import os
    import pytest
    import webtest
    from pyramid.paster import get_appsettings
    from pyramid.scripting import prepare
    from pyramid.testing import DummyRequest, testConfig
    from application import main

    def pytest_addoption(parser):
        parser.addoption("--ini", action="store", metavar="INI_FILE")

    @pytest.fixture(scope="session")
    def ini_file(request):
        return os.path.abspath(request.config.option.ini or "other.ini")

    @pytest.fixture(scope="session")
    def app_settings(ini_file):
        return get_appsettings(ini_file)

    @pytest.fixture(scope="session")
    def app(app_settings):
        return main({}, **app_settings)

    @pytest.fixture
    def testapp(app):
        return webtest.TestApp(app, extra_environ={"HTTP_HOST": "example.com"})

    @pytest.fixture
    def app_request(app):
        with prepare(registry=app.registry) as env:
            request = env["request"]
            request.host = "example.com"
            yield request

    @pytest.fixture
    def dummy_request():
        request = DummyRequest()
        request.host = "example.com"
        return request

    @pytest.fixture
    def dummy_config(dummy_request):
        with testConfig(request=dummy_request) as config:
            yield config
"""


@pytest.fixture
def project(tmp_path):
    """Write the files of a project, and return what runs its tests."""

    def run(*args, **files):
        files = {"application.py": APPLICATION, "test_it.py": TESTS, **files}
        files["pytest.ini"] = "[pytest]\nasyncio_mode = auto\n" + files.get("pytest.ini", "")
        for name, content in files.items():
            (tmp_path / name).write_text(textwrap.dedent(content))
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    return run


def test_pytest_finds_the_plugin():
    [entry] = metadata.entry_points(group="pytest11", name="aiopyramid")
    assert entry.value == "aiopyramid.pytest_plugin"


def test_a_project_with_an_ini_file_needs_nothing_else(project):
    result = project(**{"testing.ini": INI})
    assert "6 passed" in result.stdout, result.stdout


def test_the_ini_file_can_have_another_name(project):
    result = project(**{"other.ini": INI, "pytest.ini": "pyramid_ini = other.ini\n"})
    assert "6 passed" in result.stdout, result.stdout


def test_the_fixtures_of_the_cookiecutter_take_their_places(project):
    result = project("--ini", "mine.ini", **{"mine.ini": INI, "conftest.py": CONFTEST})
    assert "6 passed" in result.stdout, result.stdout


def test_without_an_ini_file_the_error_says_what_to_do(project):
    result = project()
    assert "testing.ini does not exist: name an ini file in pytest's configuration" in result.stdout
    assert result.stdout.count("\nERROR ") == 5


def test_nothing_is_loaded_until_a_fixture_is_used(project):
    result = project(
        **{
            "test_it.py": """
                import sys

                def test_nothing():
                    loaded = {name.partition(".")[0] for name in sys.modules}
                    assert "aiopyramid.pytest_plugin" in sys.modules
                    assert not loaded & {"pyramid", "webtest", "websockets", "greenlet"}
                """
        }
    )
    assert "1 passed" in result.stdout, result.stdout


# The fixtures in this process, for an application of this one.


@pytest.fixture(scope="session")
def ini_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "application_of_plugin.py").write_text(textwrap.dedent(APPLICATION))
    path = folder / "some.ini"
    path.write_text(textwrap.dedent(INI).replace("application:", "application_of_plugin:"))
    sys.path.insert(0, str(folder))
    yield str(path)
    sys.path.remove(str(folder))


def test_a_test_app_and_a_plain_client_share_cookies(testapp, sync_client):
    assert isinstance(testapp, webtest.TestApp)
    testapp.get("/")
    with sync_client.websocket("/echo") as ws:
        assert ws.receive() == "value"


async def test_a_client_for_coroutines_is_to_be_opened(async_client):
    async with async_client as c:
        assert (await c.get("/")).text == "example.com hello"


def test_a_request_of_the_application_is_the_current_one(app, app_request):
    assert get_current_request() is app_request
    assert get_current_registry() is app.registry
    assert app_request.host == "example.com"


def test_a_dummy_request_is_the_current_one_of_a_configurator(dummy_config, dummy_request):
    assert isinstance(dummy_request, DummyRequest)
    assert get_current_request() is dummy_request
    assert get_current_registry() is dummy_config.registry


def test_settings_are_those_of_the_ini_file(app_settings):
    assert app_settings["greeting"] == "hello"
