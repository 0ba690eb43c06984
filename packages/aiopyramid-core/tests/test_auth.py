import asyncio

import pytest
from pyramid.authentication import AuthTktAuthenticationPolicy, BasicAuthAuthenticationPolicy
from pyramid.authorization import ACLAuthorizationPolicy, Allow
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IAuthenticationPolicy, ISecurityPolicy
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import forget, remember
from zope.interface.verify import verifyObject

from aiopyramid import bridge
from aiopyramid.auth import (
    CoroutineAuthenticationPolicyProxy,
    CoroutineSecurityPolicy,
    authn_policy_factory,
    coroutine_callback_authentication_policy_factory,
    has_coroutines,
)
from aiopyramid.helpers import spawn_greenlet, synchronize, use_executor


class Policy:
    """A security policy with coroutines: the header X-User names the user."""

    async def identity(self, request):
        await asyncio.sleep(0)
        return request.headers.get("X-User")

    async def authenticated_userid(self, request):
        return await self.identity(request)

    async def permits(self, request, context, permission):
        await asyncio.sleep(0)
        return await self.identity(request) == "editor"

    async def remember(self, request, userid, **kwargs):
        await asyncio.sleep(0)
        return [("X-Remember", f"{userid} {kwargs}")]

    async def forget(self, request, **kwargs):
        await asyncio.sleep(0)
        return [("X-Forget", str(kwargs))]


class PlainPolicy:
    def identity(self, request):
        return "plain"

    def authenticated_userid(self, request):
        return "plain"

    def permits(self, request, context, permission):
        return True

    def remember(self, request, userid, **kwargs):
        return []

    def forget(self, request, **kwargs):
        return []


def report(request):
    return {
        "identity": request.identity,
        "userid": request.authenticated_userid,
        "is_authenticated": request.is_authenticated,
        "permitted": bool(request.has_permission("edit")),
        "remember": remember(request, "editor", max_age=5),
        "forget": forget(request),
    }


async def coroutine_view(request):
    await asyncio.sleep(0)
    return report(request)


def generator_view(request):
    yield from asyncio.sleep(0)
    return report(request)


def thread_view(request):
    return report(request)


VIEWS = [coroutine_view, generator_view, thread_view]
EDITOR = {"X-User": "editor"}
READER = {"X-User": "reader"}


# Security policies


@pytest.mark.parametrize("view", VIEWS)
async def test_a_policy_of_coroutines_really_denies(config, fetch, view):
    config.set_security_policy(Policy())
    config.add_view(view, permission="edit", renderer="json")
    app = config.make_wsgi_app()
    assert (await fetch(app, headers=EDITOR)).status_code == 200
    assert (await fetch(app, headers=READER)).status_code == 403
    assert (await fetch(app)).status_code == 403


@pytest.mark.filterwarnings("ignore:coroutine 'Policy.permits' was never awaited:RuntimeWarning")
async def test_without_the_wrapping_it_would_permit_everything(fetch):
    config = Configurator()
    config.set_security_policy(Policy())
    config.add_view(lambda request: Response("let in"), permission="edit")
    assert (await fetch(config.make_wsgi_app(), headers=READER)).text == "let in"


@pytest.mark.parametrize("view", VIEWS)
async def test_a_policy_of_coroutines_answers_a_request_in_views_of_all_kinds(config, fetch, view):
    config.set_security_policy(Policy())
    config.add_view(view, renderer="json")
    app = config.make_wsgi_app()
    assert (await fetch(app, headers=EDITOR)).json == {
        "identity": "editor",
        "userid": "editor",
        "is_authenticated": True,
        "permitted": True,
        "remember": [["X-Remember", "editor {'max_age': 5}"]],
        "forget": [["X-Forget", "{}"]],
    }
    assert (await fetch(app, headers=READER)).json["permitted"] is False
    anonymous = (await fetch(app)).json
    assert anonymous["identity"] is None
    assert anonymous["is_authenticated"] is False


async def test_a_policy_is_wrapped_whichever_statement_comes_first(fetch):
    config = Configurator()
    config.add_view(lambda request: Response(), permission="edit")
    config.set_security_policy(Policy())
    config.include("aiopyramid")
    app = config.make_wsgi_app()
    assert isinstance(config.registry.getUtility(ISecurityPolicy), CoroutineSecurityPolicy)
    assert (await fetch(app, headers=READER)).status_code == 403


async def test_a_policy_that_is_wrapped_by_hand_stays_as_it_is(config, fetch):
    policy = CoroutineSecurityPolicy(Policy())
    config.set_security_policy(policy)
    config.add_view(lambda request: Response(), permission="edit")
    app = config.make_wsgi_app()
    assert config.registry.getUtility(ISecurityPolicy) is policy
    assert (await fetch(app, headers=READER)).status_code == 403


async def test_a_policy_wrapped_by_hand_may_be_set_late(fetch):
    config = Configurator(autocommit=True)
    config.include("aiopyramid")
    config.set_security_policy(CoroutineSecurityPolicy(Policy()))
    config.add_view(lambda request: Response(), permission="edit")
    app = config.make_wsgi_app()
    assert (await fetch(app, headers=READER)).status_code == 403
    assert (await fetch(app, headers=EDITOR)).status_code == 200


async def test_a_policy_set_at_once_before_the_include_is_wrapped(fetch):
    config = Configurator(autocommit=True)
    config.set_security_policy(Policy())
    config.include("aiopyramid")
    config.add_view(lambda request: Response(), permission="edit")
    assert (await fetch(config.make_wsgi_app(), headers=READER)).status_code == 403


async def test_a_policy_that_is_set_at_once_is_wrapped(fetch):
    config = Configurator(autocommit=True)
    config.include("aiopyramid")
    config.set_security_policy(Policy())
    config.add_view(lambda request: Response(), permission="edit")
    app = config.make_wsgi_app()
    assert (await fetch(app, headers=READER)).status_code == 403
    assert (await fetch(app, headers=EDITOR)).status_code == 200


async def test_a_policy_that_is_set_after_a_commit_is_wrapped(config, fetch):
    def allowed(request):
        return Response(str(bool(request.has_permission("edit"))))

    config.add_view(allowed)
    config.commit()
    config.set_security_policy(Policy())
    app = config.make_wsgi_app()
    assert (await fetch(app, headers=READER)).text == "False"
    assert (await fetch(app, headers=EDITOR)).text == "True"


async def test_a_plain_policy_is_not_wrapped(config, fetch):
    policy = PlainPolicy()
    config.set_security_policy(policy)
    config.add_view(lambda request: Response(request.identity), permission="edit")
    app = config.make_wsgi_app()
    assert config.registry.getUtility(ISecurityPolicy) is policy
    assert (await fetch(app)).text == "plain"


async def test_a_policy_of_synchronized_coroutines_works_unwrapped(config, fetch):
    class Synchronized(PlainPolicy):
        @synchronize
        async def permits(self, request, context, permission):
            await asyncio.sleep(0)
            return False

    config.set_security_policy(Synchronized())
    config.add_view(lambda request: Response(), permission="edit")
    assert (await fetch(config.make_wsgi_app())).status_code == 403


@pytest.mark.parametrize("name", ["identity", "authenticated_userid", "permits", "remember"])
def test_one_coroutine_is_enough_to_need_the_wrapping(name):
    policy = PlainPolicy()
    assert not has_coroutines(policy)
    setattr(policy, name, getattr(Policy(), name))
    assert has_coroutines(policy)
    assert not has_coroutines(CoroutineSecurityPolicy(policy))


async def test_generators_and_plain_methods_of_a_policy_work_side_by_side(config, fetch):
    class Mixed(PlainPolicy):
        def permits(self, request, context, permission):
            yield from asyncio.sleep(0)
            identity = yield from Policy().identity(request)
            return identity == "editor"

    config.set_security_policy(Mixed())
    config.add_view(lambda request: Response(request.identity), permission="edit")
    app = config.make_wsgi_app()
    assert (await fetch(app, headers=READER)).status_code == 403
    assert (await fetch(app, headers=EDITOR)).text == "plain"


@pytest.mark.parametrize("view", VIEWS)
async def test_plain_code_that_a_policy_calls_can_wait(config, fetch, view):
    class Reading(Policy):
        async def identity(self, request):
            await asyncio.sleep(0)
            return bridge.await_(asyncio.sleep(0, "reader"))  # as request.body does

    config.set_security_policy(Reading())
    config.add_view(view, renderer="json")
    assert (await fetch(config.make_wsgi_app())).json["identity"] == "reader"


async def test_an_exception_of_a_policy_comes_out(config, fetch):
    class Broken(Policy):
        async def permits(self, request, context, permission):
            raise KeyError("broken")

    config.set_security_policy(Broken())
    config.add_view(lambda request: Response(), permission="edit")
    with pytest.raises(KeyError, match="broken"):
        await fetch(config.make_wsgi_app())


async def test_other_attributes_of_a_policy_can_be_used():
    class Extended(Policy):
        secret = "secret"

        def plain(self):
            return "plain"

        async def coroutine(self):
            await asyncio.sleep(0)
            return "coroutine"

    policy = CoroutineSecurityPolicy(Extended())
    assert policy.secret == "secret"
    assert policy.plain() == "plain"
    assert await spawn_greenlet(lambda: policy.coroutine()) == "coroutine"
    with pytest.raises(AttributeError, match="missing"):
        _ = policy.missing
    assert verifyObject(ISecurityPolicy, policy)


# Legacy authentication policies


async def find_groups(userid, request):
    await asyncio.sleep(0)
    return {"editor": ["group:editors"], "reader": []}.get(userid)


class LegacyPolicy:
    """An authentication policy with a callback, as people write them."""

    def __init__(self, prefix="", callback=None):
        self.prefix = prefix
        self.callback = callback

    def unauthenticated_userid(self, request):
        return request.headers.get("X-User")

    def authenticated_userid(self, request):
        userid = self.unauthenticated_userid(request)
        return userid if self.callback(userid, request) is not None else None

    def effective_principals(self, request):
        userid = self.unauthenticated_userid(request)
        return [userid, *(self.callback(userid, request) or ())]

    def remember(self, request, userid, **kwargs):
        return [("X-Remember", f"{self.prefix}{userid} {kwargs}")]

    def forget(self, request):
        return [("X-Forget", self.prefix)]


def make_request(user):
    return Request.blank("/", headers={"X-User": user})


def test_the_factory_has_a_short_and_a_long_name():
    assert authn_policy_factory is coroutine_callback_authentication_policy_factory
    policy = authn_policy_factory(LegacyPolicy, find_groups)
    assert isinstance(policy, CoroutineAuthenticationPolicyProxy)
    assert verifyObject(IAuthenticationPolicy, policy)


async def test_a_legacy_policy_gives_plain_code_its_results():
    policy = authn_policy_factory(LegacyPolicy, find_groups, "p:")
    editor, stranger = make_request("editor"), make_request("stranger")

    def plain():
        return [
            policy.unauthenticated_userid(stranger),
            policy.authenticated_userid(stranger),
            policy.authenticated_userid(editor),
            policy.effective_principals(editor),
            policy.remember(editor, "editor", max_age=5),
            policy.forget(editor),
        ]

    expected = [
        "stranger",
        None,
        "editor",
        ["editor", "group:editors"],
        [("X-Remember", "p:editor {'max_age': 5}")],
        [("X-Forget", "p:")],
    ]
    assert await spawn_greenlet(plain) == expected
    assert await use_executor(plain)() == expected


async def test_a_legacy_policy_gives_a_coroutine_something_to_await():
    policy = authn_policy_factory(LegacyPolicy, find_groups, prefix="p:")
    editor, stranger = make_request("editor"), make_request("stranger")
    assert await policy.unauthenticated_userid(stranger) == "stranger"
    assert await policy.authenticated_userid(stranger) is None
    assert await policy.authenticated_userid(editor) == "editor"
    assert await policy.effective_principals(editor) == ["editor", "group:editors"]
    assert await policy.remember(editor, "editor", max_age=5) == [
        ("X-Remember", "p:editor {'max_age': 5}")
    ]
    assert await policy.forget(editor) == [("X-Forget", "p:")]


async def test_a_callback_under_another_name_is_synchronized_by_hand():
    async def check(username, password, request):
        await asyncio.sleep(0)
        return ["group:editors"] if password == "secret" else None

    policy = authn_policy_factory(BasicAuthAuthenticationPolicy, check=synchronize(check))
    request = Request.blank("/")
    request.authorization = ("Basic", "ZWRpdG9yOnNlY3JldA==")
    assert await policy.authenticated_userid(request) == "editor"
    request = Request.blank("/")
    request.authorization = ("Basic", "ZWRpdG9yOndyb25n")
    assert await policy.authenticated_userid(request) is None


def test_the_callback_must_be_a_coroutine_function():
    with pytest.raises(ConfigurationError, match="is not a coroutine function"):
        authn_policy_factory(LegacyPolicy, lambda userid, request: [])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_legacy_policy_protects_views_and_logs_in(config, fetch):
    async def login(request):
        headers = request.registry.getUtility(IAuthenticationPolicy).remember(request, "editor")
        return Response(headers=await headers)

    class Root:
        __acl__ = [(Allow, "group:editors", "edit")]  # noqa: RUF012

        def __init__(self, request):
            pass

    config.set_root_factory(Root)
    config.set_authentication_policy(
        authn_policy_factory(
            AuthTktAuthenticationPolicy, find_groups, secret="secret", hashalg="sha512"
        )
    )
    config.set_authorization_policy(ACLAuthorizationPolicy())
    config.add_view(login, name="login")
    config.add_view(lambda request: Response(request.authenticated_userid), permission="edit")
    app = config.make_wsgi_app()
    assert (await fetch(app)).status_code == 403
    cookie = (await fetch(app, "/login")).headers["Set-Cookie"].split(";")[0]
    response = await fetch(app, headers={"Cookie": cookie})
    assert response.text == "editor"
    assert (await fetch(app, headers={"Cookie": "auth_tkt=forged"})).status_code == 403


async def test_plain_methods_of_a_policy_with_coroutines_may_wait_in_coroutine_views():
    from aiopyramid.testing import client

    @synchronize
    async def load():
        await asyncio.sleep(0)
        return "loaded"

    class Policy:
        async def identity(self, request):
            return load.__name__

        def permits(self, request, context, permission):
            return load() == "loaded" and permission == "edit"

        authenticated_userid = remember = forget = identity

    async def view(request):
        return [bool(request.has_permission(name)) for name in ("edit", "own")]

    def plain(request):
        return [bool(request.has_permission(name)) for name in ("edit", "own")]

    with Configurator() as config:
        config.include("aiopyramid")
        config.set_security_policy(Policy())
        for name, function in (("coroutine", view), ("plain", plain)):
            config.add_view(function, name=name, renderer="json")
    async with client(config.make_wsgi_app()) as c:
        for name in ("coroutine", "plain"):
            assert (await c.get(f"/{name}")).json == [True, False]
