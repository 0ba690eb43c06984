from __future__ import annotations

import sys
from types import ModuleType

from pyramid.config import Configurator
from pyramid.interfaces import IViewMapperFactory
from pyramid.threadlocal import manager

from aiopyramid.config import CoroutineOrExecutorMapper
from aiopyramid.threadlocal import ContextLocalManager


def test_the_include_sets_an_application_up():
    config = Configurator(autocommit=True)
    config.include("aiopyramid")
    assert config.registry.getUtility(IViewMapperFactory) is CoroutineOrExecutorMapper
    assert isinstance(manager, ContextLocalManager)


def test_under_uwsgi_its_package_is_included(monkeypatch):
    included = []

    def includeme(config):
        included.append(config)

    package = ModuleType("aiopyramid_uwsgi")
    package.includeme = includeme
    monkeypatch.setitem(sys.modules, "uwsgi", ModuleType("uwsgi"))
    monkeypatch.setitem(sys.modules, "aiopyramid_uwsgi", package)
    with Configurator() as config:
        config.include("aiopyramid")
    assert len(included) == 1
