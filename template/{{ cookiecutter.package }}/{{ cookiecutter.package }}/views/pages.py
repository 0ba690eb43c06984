"""The pages: plain views, each of which runs in the thread of its request."""

import secrets

from pyramid.csrf import new_csrf_token
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.view import notfound_view_config, view_config

from .chat import MAX_NAME, connections_of


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


@view_config(
    route_name="sign_in",
    request_method="GET",
    renderer="{{ cookiecutter.package }}:templates/sign_in.jinja2",
)
def show_sign_in(request):
    """Ask for a name."""
    return {"max_name": MAX_NAME, "error": None}


@view_config(
    route_name="sign_in",
    request_method="POST",
    renderer="{{ cookiecutter.package }}:templates/sign_in.jinja2",
)
def sign_in(request):
    """Take the name."""
    name = " ".join(request.POST.get("name", "").split())
    if not 1 <= len(name) <= MAX_NAME:
        request.response.status_int = 400
        return {"max_name": MAX_NAME, "error": f"A name has 1 to {MAX_NAME} characters."}
    request.session.invalidate()
    request.session["user"] = {"id": secrets.token_hex(8), "name": name}
    new_csrf_token(request)
    return HTTPSeeOther(request.route_path("home"))


@view_config(route_name="sign_out", request_method="POST", permission="chat")
def sign_out(request):
    """Forget the user, and close the user's connections in all workers."""
    group = connections_of(request.identity)
    request.groups.close_connections(group, 4401, "signed out")
    request.session.invalidate()
    return HTTPSeeOther(request.route_path("sign_in"))


@notfound_view_config(
    append_slash=True,
    renderer="{{ cookiecutter.package }}:templates/404.jinja2",
)
def notfound(request):
    """Say that nothing is there."""
    request.response.status_int = 404
    return {}
