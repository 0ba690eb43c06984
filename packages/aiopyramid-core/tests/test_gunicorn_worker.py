import importlib
import importlib.machinery
import sys
import types

import pytest

SHIM = "aiopyramid.gunicorn.worker"


@pytest.fixture
def load(monkeypatch):
    """Import the shim anew, among the modules given by name."""

    def load(**modules):
        for name in [name for name in sys.modules if name.split(".")[0] == "aiopyramid_gunicorn"]:
            monkeypatch.delitem(sys.modules, name)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name.replace("__", "."), module)
        monkeypatch.delitem(sys.modules, SHIM, raising=False)
        try:
            return importlib.import_module(SHIM)
        finally:
            sys.modules.pop(SHIM, None)

    return load


def package():
    module = types.ModuleType("aiopyramid_gunicorn")
    module.__path__ = []
    return module


NAMES = ["AsyncGunicornWorker", "LoopGunicornWorker"]


def test_the_old_path_leads_to_the_workers(load):
    worker = types.ModuleType("aiopyramid_gunicorn.worker")
    for name in NAMES:
        setattr(worker, name, type(name, (), {}))
    shim = load(aiopyramid_gunicorn=package(), aiopyramid_gunicorn__worker=worker)
    for name in NAMES:
        assert getattr(shim, name) is getattr(worker, name)
    assert shim.__all__ == NAMES


def test_without_the_server_package_the_error_names_it(load, monkeypatch):
    class Without:
        """A finder that does not find the server package."""

        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            if name == "aiopyramid_gunicorn":
                return None
            return self.finder.find_spec(name, path, target)

    monkeypatch.setattr(sys, "meta_path", [Without(finder) for finder in sys.meta_path])
    with pytest.raises(ImportError, match=r"pip install aiopyramid-gunicorn\)") as caught:
        load()
    assert not isinstance(caught.value, ModuleNotFoundError)
    assert caught.value.name == "aiopyramid_gunicorn"
    assert str(caught.value).startswith(" and ".join(NAMES) + " come with ")
    assert caught.value.__suppress_context__


def test_another_missing_module_is_named_as_it_is(load):
    class Finder:
        """Finds a worker that needs a module that is not there."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "aiopyramid_gunicorn.worker":
                return importlib.machinery.ModuleSpec(name, Finder)
            return None

        @staticmethod
        def create_module(spec):
            return None

        @staticmethod
        def exec_module(module):
            raise ModuleNotFoundError("No module named 'gunicorn'", name="gunicorn")

    sys.meta_path.insert(0, Finder)
    try:
        with pytest.raises(ModuleNotFoundError, match="No module named 'gunicorn'") as caught:
            load(aiopyramid_gunicorn=package())
    finally:
        sys.meta_path.remove(Finder)
    assert caught.value.name == "gunicorn"


def test_a_missing_part_of_the_server_package_is_no_missing_package(load):
    with pytest.raises(ModuleNotFoundError) as caught:
        load(aiopyramid_gunicorn=package())
    assert caught.value.name == "aiopyramid_gunicorn.worker"
