"""The addresses of the application."""


def includeme(config):
    """Add the routes and the static files."""
    config.add_static_view("static", "{{ cookiecutter.package }}:static", cache_max_age=3600)
    config.add_static_view("aiopyramid", "aiopyramid:static", cache_max_age=3600)
    config.add_route("home", "/")
    config.add_route("sign_in", "/sign-in")
    config.add_route("sign_out", "/sign-out")
    config.add_route("chat", "/chat")
    config.add_route("members", "/members")
