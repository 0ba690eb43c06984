"""Refuses names that could not be used."""

import keyword
import re
import sys

PROJECT_NAME = """{{ cookiecutter.project_name }}"""
PACKAGE = """{{ cookiecutter.package }}"""

# What would hide a package that the project needs, a folder of its own or another service.
TAKEN = {
    *("aiopyramid", "greenlet", "gunicorn", "hupper", "jinja2", "markupsafe", "paste", "plaster"),
    *("psycopg", "pyramid", "pyramid_debugtoolbar", "pyramid_jinja2", "pytest", "redis", "uvloop"),
    *("uwsgi", "venusian", "webob", "websockets", "webtest", "zope"),
    *("deploy", "docs", "test", "tests", "venv"),
    *("apache2", "docker", "nginx", "postgresql", "ssh", "systemd", "valkey"),
}


def check() -> str | None:
    """Return what is wrong, if anything is."""
    if not re.fullmatch(r"[^\W_](?:[\w .,-]*\w)?", PROJECT_NAME):
        return (
            f"project_name = {PROJECT_NAME!r}: use letters, digits, spaces and .,-_ alone, "
            "with a letter or a digit at both ends"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", PACKAGE) or keyword.iskeyword(PACKAGE):
        return (
            f"package = {PACKAGE!r}: use lower-case letters, digits and underscores, "
            "with a letter first, and no word of Python's own"
        )
    if PACKAGE in TAKEN or PACKAGE in sys.stdlib_module_names:
        return f"package = {PACKAGE!r}: something that the project needs has this name"
    return None


if error := check():
    sys.exit(f"error: {error}")
