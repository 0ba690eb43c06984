"""
Who is who, and who may do what.

Whoever gives a name may chat: there are no passwords. Replace `sign_in` in ``views/pages.py`` when
there are some. What is here can stay.
"""

from pyramid.exceptions import ConfigurationError
from pyramid.security import Allowed, Denied
from pyramid.session import SignedCookieSessionFactory

MIN_SECRET = 32  # characters
DAY = 24 * 60 * 60  # seconds


class SecurityPolicy:
    """Knows users by their session: ``{"id": ..., "name": ...}``."""

    def identity(self, request):
        """Return the user, or None."""
        return request.session.get("user")

    def authenticated_userid(self, request):
        """Return the user's id, or None."""
        user = self.identity(request)
        return user["id"] if user else None

    def permits(self, request, context, permission):
        """Allow everything to those who have signed in."""
        if self.identity(request) is None:
            return Denied("nobody has signed in")
        return Allowed("somebody has signed in")


def make_session_factory(secret):
    """Make a factory of sessions in signed cookies, which are secure where the page is."""
    options = {"timeout": 30 * DAY, "reissue_time": DAY, "httponly": True, "samesite": "Lax"}
    plain = SignedCookieSessionFactory(secret, **options)
    secure = SignedCookieSessionFactory(secret, secure=True, **options)

    def session_factory(request):
        return (secure if request.scheme == "https" else plain)(request)

    return session_factory


def includeme(config):
    """Set the sessions and the security policy; require CSRF tokens in forms."""
    secret = config.registry.settings.get("session.secret")
    if not secret or len(secret) < MIN_SECRET:
        found = f"has {len(secret)} characters" if secret else "is missing"
        raise ConfigurationError(
            f"the setting session.secret {found}: set SESSION_SECRET in the environment to a "
            f"random text of {MIN_SECRET} characters or more, the same in all processes"
        )
    config.set_session_factory(make_session_factory(secret))
    config.set_security_policy(SecurityPolicy())
    config.set_default_csrf_options(require_csrf=True)
