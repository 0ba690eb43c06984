"""Plain code that waits for coroutines: a tween, traversal and a security policy."""

import asyncio

from pyramid.authorization import ACLHelper, Allow, Authenticated, Deny, Everyone
from pyramid.config import Configurator
from pyramid.request import RequestLocalCache
from pyramid.view import view_config

from aiopyramid.helpers import synchronize


@synchronize
async def load(name):
    await asyncio.sleep(0.01)  # a query to a database, say
    return {"name": name, "owner": "ann"}


def timing_tween_factory(handler, registry):
    @synchronize
    async def write_log(line):
        await asyncio.sleep(0.01)

    def timing_tween(request):
        response = handler(request)
        write_log(f"{request.path} {response.status}")
        return response

    return timing_tween


class Document:
    def __init__(self, data):
        self.data = data

    def __acl__(self):
        editor = load("editors")["owner"]
        return [
            (Allow, self.data["owner"], "view"),
            (Allow, editor, ("view", "edit")),
            (Deny, Everyone, ("view", "edit")),
        ]


class Root:
    def __init__(self, request):
        self.request = request

    def __getitem__(self, name):
        return Document(load(name))


class SecurityPolicy:
    def __init__(self):
        self.identities = RequestLocalCache()

    async def identity(self, request):
        identity = self.identities.get(request)
        if identity is RequestLocalCache.NO_VALUE:
            await asyncio.sleep(0.01)  # asks another server, once in each request
            identity = request.headers.get("X-User")
            self.identities.set(request, identity)
        return identity

    async def authenticated_userid(self, request):
        return request.identity

    def permits(self, request, context, permission):
        principals = [Everyone]
        if request.identity:
            principals += [Authenticated, request.identity]
        return ACLHelper().permits(context, principals, permission)  # __acl__ may wait

    def remember(self, request, userid, **kwargs):
        return []

    def forget(self, request, **kwargs):
        return []


@view_config(context=Document, renderer="json", permission="view")
async def document(context, request):
    return {**context.data, "may edit": bool(request.has_permission("edit"))}


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.set_root_factory(Root)
        config.set_security_policy(SecurityPolicy())
        config.add_tween(f"{__name__}.timing_tween_factory")
        config.scan(__name__)
        return config.make_wsgi_app()
