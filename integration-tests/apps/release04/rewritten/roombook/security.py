from pyramid.authentication import AuthTktCookieHelper
from pyramid.authorization import ACLHelper, Authenticated, Everyone

from aiopyramid.helpers import spawn_greenlet


class SecurityPolicy:
    def __init__(self, secret):
        self.cookie = AuthTktCookieHelper(secret, hashalg="sha512")

    async def identity(self, request):
        """Return whom the cookie claims, and who that is if the store knows the user."""
        ticket = self.cookie.identify(request)
        claimed = ticket and ticket["userid"]
        groups = await request.registry.store.groups(claimed)
        if groups is None:
            return {"claimed": claimed, "userid": None, "principals": [Everyone]}
        principals = [Everyone, Authenticated, claimed, *(f"group:{name}" for name in groups)]
        return {"claimed": claimed, "userid": claimed, "principals": principals}

    def authenticated_userid(self, request):
        return request.identity["userid"]

    async def permits(self, request, context, permission):
        principals = request.identity["principals"]
        return await spawn_greenlet(ACLHelper().permits, context, principals, permission)

    def remember(self, request, userid, **kwargs):
        return self.cookie.remember(request, userid, **kwargs)

    def forget(self, request, **kwargs):
        return self.cookie.forget(request, **kwargs)
