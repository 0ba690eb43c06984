"""Clients without cookies: a token in a header, or among the subprotocols."""

from pyramid.authorization import ACLHelper, Allow, Authenticated, Everyone
from pyramid.config import Configurator

from aiopyramid.websocket.view import websocket_view_config

USERS = {"c29tZXRoaW5nLXNlY3JldA": "ann"}  # a real application checks signatures, or its database


class Site:
    def __acl__(self):
        return [(Allow, Authenticated, "listen")]


def token_of(request):
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith("token."):
            return name.strip().removeprefix("token.")
    return ""


class SecurityPolicy:
    def identity(self, request):
        return USERS.get(token_of(request))

    authenticated_userid = identity

    def permits(self, request, context, permission):
        user = self.identity(request)
        principals = [Everyone] if user is None else [Everyone, Authenticated, user]
        return ACLHelper().permits(context, principals, permission)


@websocket_view_config(route_name="feed", permission="listen", subprotocols=["feed.v1"])
class Feed:
    def __init__(self, request):
        self.user = request.identity

    async def __call__(self, ws):
        await ws.send(f"hello, {self.user}")


def main(global_config=None, **settings):
    with Configurator(settings=settings, root_factory=lambda request: Site()) as config:
        config.include("aiopyramid")
        config.set_security_policy(SecurityPolicy())
        config.add_route("feed", "/feed")
        config.scan(__name__)
        return config.make_wsgi_app()
