import itertools

from pyramid.config import Configurator

from .resources import Archive, Building
from .security import SecurityPolicy
from .store import carry_out_orders, connection


def main(global_config, **settings):
    """Return the WSGI application."""
    with Configurator(settings=settings, root_factory=Building) as config:
        config.include("aiopyramid")

        config.add_lifespan(connection)
        config.add_background_task(carry_out_orders)
        config.registry.audit = []
        config.registry.numbers = itertools.count(1)
        config.registry.watchers = set()
        config.registry.farewells = []

        config.set_security_policy(SecurityPolicy(settings["auth.secret"]))

        config.add_tween("roombook.tweens.number_tween_factory")
        config.add_tween("roombook.tweens.audit_tween_factory")

        config.add_route("home", "/")
        config.add_route("search", "/search")
        config.add_route("plan", "/plan")
        config.add_route("prices", "/prices")
        config.add_route("printout", "/printout")
        config.add_route("blocking", "/blocking")
        config.add_route("settings", "/settings")
        config.add_route("occupancy", "/occupancy")
        config.add_route("login", "/login")
        config.add_route("logout", "/logout")
        config.add_route("whoami", "/whoami")
        config.add_route("state", "/state")
        config.add_route("ask", "/ask")
        config.add_route("farewell", "/farewell")
        config.add_route("watch", "/watch*traverse")
        config.add_route("archive", "/archive*traverse", factory=Archive)
        config.scan()
        return config.make_wsgi_app()
