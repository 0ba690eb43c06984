import pytest
from pyramid.config import Configurator
from pyramid.events import ApplicationCreated, NewRequest
from pyramid.interfaces import IApplicationCreated, INewRequest
from pyramid.request import Request
from pyramid.response import Response
from zope.interface import Interface
from zope.interface.registry import Components

from aiopyramid.creation import when_created


@pytest.fixture
def config():
    """A Configurator of an application with a view, which has no subscribers."""
    config = Configurator()
    config.add_view(lambda request: Response("a view"))
    return config


@pytest.fixture
def events():
    return []


def handlers_of(registry):
    return [*registry.registeredHandlers(), *registry.registeredSubscriptionAdapters()]


def get(app):
    assert Request.blank("/").get_response(app).text == "a view"


def test_a_function_is_called_once_with_the_event_when_the_application_is_created(config, events):
    when_created(config, events.append)
    config.commit()
    assert events == []
    app = config.make_wsgi_app()
    (event,) = events
    assert isinstance(event, ApplicationCreated)
    assert event.app is app
    assert event.app.registry is config.registry
    get(app)
    config.registry.notify(event)
    assert len(events) == 1


def test_no_subscriber_is_left_behind(config, events):
    when_created(config, events.append)
    assert config.registry.has_listeners
    app = config.make_wsgi_app()
    assert config.registry.has_listeners is False
    assert handlers_of(config.registry) == []
    get(app)


def test_without_subscribers_requests_look_for_none(config, monkeypatch):
    """What this is for."""
    when_created(config, lambda event: None)
    app = config.make_wsgi_app()
    looked = []
    real = config.registry.subscribers

    def subscribers(*args):
        looked.append(args)
        return real(*args)

    monkeypatch.setattr(config.registry, "subscribers", subscribers)
    get(app)
    assert looked == []
    config.add_subscriber(lambda event: None, NewRequest)
    config.commit()
    get(app)
    assert looked


@pytest.mark.parametrize("kind", [NewRequest, INewRequest, ApplicationCreated, None])
@pytest.mark.parametrize("before", [True, False])
def test_subscribers_of_the_application_stay(config, events, kind, before):
    seen = []

    def subscribe():
        config.add_subscriber(seen.append, kind) if kind else config.add_subscriber(seen.append)

    if before:
        subscribe()
    when_created(config, events.append)
    if not before:
        subscribe()
    app = config.make_wsgi_app()
    assert config.registry.has_listeners is True
    assert len(handlers_of(config.registry)) == 1
    seen_by_then = len(seen)
    assert seen_by_then == (kind in (ApplicationCreated, None))
    get(app)
    if kind is not ApplicationCreated:
        assert len(seen) > seen_by_then
    assert len(events) == 1


class IThing(Interface):
    """What a subscription adapter provides."""


@pytest.mark.parametrize("before", [True, False])
def test_subscription_adapters_of_the_application_stay(config, events, before):
    made = []

    def subscribe():
        config.registry.registerSubscriptionAdapter(made.append, [INewRequest], IThing)

    if before:
        subscribe()
    when_created(config, events.append)
    if not before:
        subscribe()
    app = config.make_wsgi_app()
    assert config.registry.has_listeners is True
    assert len(events) == 1
    get(app)
    list(config.registry.subscribers([NewRequest(None)], IThing))
    assert len(made) == 1


def test_subscribers_that_come_after_the_creation_are_called(config, events):
    when_created(config, events.append)
    app = config.make_wsgi_app()
    seen = []
    config.add_subscriber(seen.append, NewRequest)
    config.commit()
    assert config.registry.has_listeners is True
    get(app)
    assert len(seen) == 1


def test_a_function_may_add_subscribers(config):
    seen = []

    def created(event):
        config.registry.registerHandler(seen.append, [INewRequest])

    when_created(config, created)
    app = config.make_wsgi_app()
    assert config.registry.has_listeners is True
    get(app)
    assert len(seen) == 1


def test_all_functions_are_called_and_none_is_left_behind(config, events):
    for number in range(3):
        when_created(config, lambda event, number=number: events.append(number))
    app = config.make_wsgi_app()
    assert sorted(events) == [0, 1, 2]
    assert config.registry.has_listeners is False
    assert handlers_of(config.registry) == []
    get(app)


def test_a_function_and_subscribers_to_the_creation_are_all_called(config, events):
    for number in (1, 2):
        config.add_subscriber(lambda event, n=number: events.append(n), ApplicationCreated)
        when_created(config, lambda event, n=number: events.append(-n))
    config.make_wsgi_app()
    assert sorted(events) == [-2, -1, 1, 2]
    assert config.registry.has_listeners is True


def test_a_second_application_of_the_same_configurator_works(config, events):
    when_created(config, events.append)
    first = config.make_wsgi_app()
    second = config.make_wsgi_app()
    assert [event.app for event in events] == [first]
    assert config.registry.has_listeners is False
    get(first)
    get(second)


def test_a_function_is_called_again_if_it_is_given_again(config, events):
    when_created(config, events.append)
    first = config.make_wsgi_app()
    when_created(config, events.append)
    second = config.make_wsgi_app()
    assert [event.app for event in events] == [first, second]
    assert handlers_of(config.registry) == []


def test_applications_do_not_share_functions(config, events):
    other = Configurator()
    when_created(config, events.append)
    when_created(other, events.append)
    app = config.make_wsgi_app()
    assert [event.app for event in events] == [app]
    assert other.registry.has_listeners
    other.make_wsgi_app()
    assert len(events) == 2


def test_an_error_of_a_function_is_raised_and_leaves_nothing_behind(config):
    def created(event):
        raise ValueError("of a function")

    when_created(config, created)
    with pytest.raises(ValueError, match="of a function"):
        config.make_wsgi_app()
    assert handlers_of(config.registry) == []
    assert config.registry.has_listeners is False
    get(config.make_wsgi_app())


def test_including_aiopyramid_leaves_no_subscriber_behind(config):
    config.include("aiopyramid")
    app = config.make_wsgi_app()
    assert config.registry.has_listeners is False
    assert not any(config.registry.subscribers([ApplicationCreated(app)], None))
    assert not list(config.registry.adapters.subscriptions([IApplicationCreated], None))


def test_another_kind_of_registry_keeps_looking_for_subscribers(events):
    """Only Pyramid's own notices those that come later; others always look."""
    registry = Components("not Pyramid's")
    config = Configurator(registry=registry)
    config.setup_registry()
    config.add_view(lambda request: Response("a view"))
    when_created(config, events.append)
    app = config.make_wsgi_app()
    assert len(events) == 1
    seen = []
    registry.registerHandler(seen.append, [INewRequest])
    get(app)
    assert len(seen) == 1
