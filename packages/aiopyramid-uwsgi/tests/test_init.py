from types import SimpleNamespace

from pyramid.config import Configurator


def test_including_it_installs_the_worker_and_isolates_requests(load, monkeypatch):
    calls = []
    package, worker, request = load("worker").__package__, load("worker"), load("request")
    monkeypatch.setattr(worker, "install", lambda: calls.append("installed"))
    monkeypatch.setattr(request, "isolate", lambda event: calls.append(event.app))
    config = Configurator()
    __import__(package).includeme(config)
    assert calls == ["installed"]
    app = config.make_wsgi_app()
    assert calls[1:] == [app]


def test_another_application_of_the_same_registry_is_isolated_too(load, monkeypatch):
    request = load("request")
    config = Configurator()
    app = config.make_wsgi_app()
    monkeypatch.setattr(
        request.worker, "install", lambda: SimpleNamespace(loop=lambda: None, hold_signals=None)
    )
    monkeypatch.setattr(request.uwsgi, "worker_id", lambda: 0)
    request.isolate(SimpleNamespace(app=app))
    assert config.make_wsgi_app().execution_policy is app.execution_policy
