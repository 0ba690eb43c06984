"""{{ cookiecutter.project_name }}: a Pyramid application with a chat."""

import os

from pyramid.config import Configurator

NAME = "{{ cookiecutter.project_name }}"

# What differs from machine to machine: the environment wins over the ini file.
ENVIRONMENT = {
    "session.secret": "SESSION_SECRET",
    "aiopyramid.broadcast.url": "REDIS_URL",
}


def main(global_config, **settings):
    """Make the WSGI application."""
    for setting, variable in ENVIRONMENT.items():
        if value := os.environ.get(variable):
            settings[setting] = value
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.include("pyramid_jinja2")
        config.add_request_method(lambda request: NAME, "site_name", property=True)
        config.include(".security")
        config.include(".routes")
        config.scan(".views")
        return config.make_wsgi_app()
