from types import SimpleNamespace

from pyramid.events import ApplicationCreated


def test_including_it_installs_the_worker_and_isolates_requests(load, monkeypatch):
    calls = []
    package, worker, request = load("worker").__package__, load("worker"), load("request")
    monkeypatch.setattr(worker, "install", lambda: calls.append("installed"))
    config = SimpleNamespace(add_subscriber=lambda *args: calls.append(args))
    __import__(package).includeme(config)
    assert calls == ["installed", (request.isolate, ApplicationCreated)]
