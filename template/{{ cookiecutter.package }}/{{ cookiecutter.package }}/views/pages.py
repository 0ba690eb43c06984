"""The pages: plain views, each of which runs in the thread of its request."""

import secrets
import unicodedata

from pyramid.csrf import new_csrf_token
from pyramid.exceptions import BadCSRFToken
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.view import (
    exception_view_config,
    forbidden_view_config,
    notfound_view_config,
    view_config,
)

from .chat import connections_of

MAX_NAME = 30  # characters
JOINER = "\N{ZERO WIDTH JOINER}"  # within emoji


@view_config(
    route_name="home",
    request_method="GET",
    renderer="{{ cookiecutter.package }}:templates/chat.jinja2",
)
def home(request):
    """Show the chat, to those who have signed in."""
    if request.identity is None:
        return HTTPSeeOther(request.route_path("sign_in"))
    return {"name": request.identity["name"]}


def ask_for_name(request, name="", error=None):
    """Make what the sign-in page shows."""
    if error is not None:
        request.response.status_int = 400
    return {"name": name, "error": error}


@view_config(
    route_name="sign_in",
    request_method="GET",
    renderer="{{ cookiecutter.package }}:templates/sign_in.jinja2",
)
def show_sign_in(request):
    """Ask for a name."""
    return ask_for_name(request)


@view_config(
    route_name="sign_in",
    request_method="POST",
    renderer="{{ cookiecutter.package }}:templates/sign_in.jinja2",
)
def sign_in(request):
    """Take the name."""
    name = " ".join(request.POST.get("name", "").split())
    if not is_name(name):
        return ask_for_name(
            request, name, f"A name has 1 to {MAX_NAME} characters that can be seen."
        )
    leave(request)
    request.session["user"] = {"id": secrets.token_hex(8), "name": name}
    new_csrf_token(request)
    return HTTPSeeOther(request.route_path("home"))


def is_name(name):
    """Tell whether others can read a name, without marks that turn the line around."""
    seen = name.replace(JOINER, "")
    is_visible = any(unicodedata.category(character)[0] in "LNPS" for character in seen)
    return len(name) <= MAX_NAME and seen.isprintable() and is_visible


@view_config(route_name="sign_out", request_method="POST", permission="chat")
def sign_out(request):
    """Forget the user."""
    leave(request)
    return HTTPSeeOther(request.route_path("sign_in"))


def leave(request):
    """Begin a new session, and close the connections of the old one in all workers."""
    if request.identity is not None:
        request.groups.close_connections(connections_of(request.identity), 4401, "signed out")
    request.session.invalidate()


@forbidden_view_config(route_name="sign_out")
def has_signed_out(request):
    """Send on who has signed out already, in another tab."""
    return HTTPSeeOther(request.route_path("sign_in"))


@exception_view_config(
    BadCSRFToken,
    renderer="{{ cookiecutter.package }}:templates/sign_in.jinja2",
)
def old_form(context, request):
    """Ask again, where a form was of another session."""
    return ask_for_name(request, error="That page was too old. Please try again.")


@notfound_view_config(
    append_slash=True,
    renderer="{{ cookiecutter.package }}:templates/404.jinja2",
)
def notfound(request):
    """Say that nothing is there."""
    request.response.status_int = 404
    return {}
