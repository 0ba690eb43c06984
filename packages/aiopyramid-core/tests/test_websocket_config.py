import importlib.machinery
import importlib.util
import sys
import types

import pytest

from aiopyramid.websocket import config

MAPPERS = {
    "WebsocketMapper": "aiopyramid_gunicorn",
    "UWSGIWebsocketMapper": "aiopyramid_uwsgi",
}


@pytest.fixture
def with_packages(monkeypatch):
    """Give a fresh copy of the module, where only some server packages are installed."""

    def with_packages(*installed):
        find_spec = importlib.util.find_spec

        def find(name, package=None):
            if name in MAPPERS.values():
                return importlib.machinery.ModuleSpec(name, None) if name in installed else None
            return find_spec(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find)
        for name, package in MAPPERS.items():
            if package in installed:
                module = types.ModuleType(f"{package}.mapper")
                setattr(module, name, type(name, (), {}))
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
                monkeypatch.setitem(sys.modules, f"{package}.mapper", module)
        spec = importlib.util.spec_from_file_location(config.__name__, config.__file__)
        fresh = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, config.__name__, fresh)
        spec.loader.exec_module(fresh)
        return fresh

    return with_packages


@pytest.mark.parametrize(("mapper", "package"), MAPPERS.items())
def test_the_mapper_of_the_installed_package_is_imported(with_packages, mapper, package):
    module = with_packages(package)
    assert getattr(module, mapper) is getattr(sys.modules[f"{package}.mapper"], mapper)


@pytest.mark.parametrize(("mapper", "package"), MAPPERS.items())
def test_the_mapper_of_a_missing_package_raises_an_error_that_names_it(
    with_packages, mapper, package
):
    module = with_packages()
    distribution = package.replace("_", "-")
    with pytest.raises(ImportError, match=f"{mapper} comes with {distribution}") as caught:
        getattr(module, mapper)
    assert f"(pip install {distribution})" in str(caught.value)
    assert caught.value.name == package


def test_the_from_import_of_a_missing_mapper_gives_the_same_error(with_packages):
    with_packages("aiopyramid_uwsgi")
    with pytest.raises(ImportError, match=r"pip install aiopyramid-gunicorn"):
        exec("from aiopyramid.websocket.config import WebsocketMapper")


@pytest.mark.parametrize(
    ("installed", "names"),
    [
        ((), []),
        (("aiopyramid_gunicorn",), ["WebsocketMapper"]),
        (("aiopyramid_uwsgi",), ["UWSGIWebsocketMapper"]),
        (tuple(MAPPERS.values()), list(MAPPERS)),
    ],
)
def test_a_star_import_gives_the_mappers_that_are_installed(with_packages, installed, names):
    module = with_packages(*installed)
    names = ["AutoWebsocketMapper", *names]
    assert module.__all__ == names
    assert set(names) <= set(dir(module))
    namespace = {}
    exec("from aiopyramid.websocket.config import *", namespace)
    assert sorted(name for name in namespace if name.endswith("Mapper")) == sorted(names)


def test_a_misspelt_name_is_an_attribute_error(with_packages):
    module = with_packages(*MAPPERS.values())
    with pytest.raises(AttributeError, match="has no attribute 'WebSocketMapper'"):
        _ = module.WebSocketMapper
    assert not hasattr(module, "anything")


def test_an_error_inside_of_an_installed_package_passes(with_packages, monkeypatch):
    module = with_packages("aiopyramid_gunicorn")
    monkeypatch.delitem(sys.modules, "aiopyramid_gunicorn.mapper")
    with pytest.raises(ModuleNotFoundError) as caught:
        _ = module.WebsocketMapper
    assert "pip install" not in str(caught.value)
