"""The addresses of the application."""


def includeme(config):
    """Add the routes and the static files."""
    # Seconds after which a page has the files of a new release.
    age = int(config.registry.settings.get("static.max_age", 60))
    config.add_static_view("static", "{{ cookiecutter.package }}:static", cache_max_age=age)
    config.add_static_view("aiopyramid", "aiopyramid:static", cache_max_age=age)
    config.add_route("home", "/")
    config.add_route("sign_in", "/sign-in")
    config.add_route("sign_out", "/sign-out")
    config.add_route("chat", "/chat")
    config.add_route("members", "/members")
