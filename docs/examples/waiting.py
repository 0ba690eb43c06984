"""Plain code that waits for coroutines: a tween, traversal and a security policy."""

import asyncio

from pyramid.authorization import Allow, Authenticated, Deny, Everyone
from pyramid.config import Configurator
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
        return [(Allow, self.data["owner"], "view"), (Deny, Everyone, "view")]


class Root:
    def __init__(self, request):
        self.request = request

    def __getitem__(self, name):
        return Document(load(name))


class SecurityPolicy:
    async def identity(self, request):
        await asyncio.sleep(0.01)
        return request.headers.get("X-User")

    async def authenticated_userid(self, request):
        return request.identity

    async def permits(self, request, context, permission):
        from pyramid.authorization import ACLHelper

        principals = [Everyone]
        if request.identity:
            principals += [Authenticated, request.identity]
        return ACLHelper().permits(context, principals, permission)

    async def remember(self, request, userid, **kwargs):
        return []

    async def forget(self, request, **kwargs):
        return []


@view_config(context=Document, renderer="json", permission="view")
async def document(context, request):
    return context.data


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.set_root_factory(Root)
        config.set_security_policy(SecurityPolicy())
        config.add_tween(f"{__name__}.timing_tween_factory")
        config.scan(__name__)
        return config.make_wsgi_app()
