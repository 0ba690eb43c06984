"""
Puts a front before a server: nginx, or uWSGI's own routers.

Their configurations are those that the documentation shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import VARIANTS
from harness import HERE, Server, eventually, reserve_port

CONFIGS = HERE.parent / "docs" / "examples" / "fronts"

# The front's configuration, and how it differs: "unix" connects it to its
# server by a UNIX socket, "tls" ends TLS in nginx.
FRONTS = {
    "gunicorn": ["proxy_pass", "proxy_pass unix tls"],
    "uwsgi": [
        "http",
        "https",
        "proxy_pass",
        "proxy_pass unix tls",
        "uwsgi_pass tls",
        "uwsgi_pass unix",
    ],
}

# What uWSGI needs behind nginx.
BACKENDS = {"proxy_pass": "http-socket", "uwsgi_pass": "uwsgi-socket"}

NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {options}
    include site.conf;
}}
"""


def fronts_of(*variants: str) -> list[tuple[str, str]]:
    """Pair variants of servers with their fronts."""
    return [(variant, front) for variant in variants for front in FRONTS[VARIANTS[variant][0].name]]


def configuration(name: str, changes: dict[str, str]) -> str:
    """Read one of the documentation's files, and put in what is different here."""
    text = (CONFIGS / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    return text


class Front:
    """
    A server behind a front.

    Attributes:
        server: What runs the application.
        clients: What the clients connect to: nginx, or the same server.
    """

    def __init__(self, variant: str, name: str, folder: Path, tls_files: dict[str, Path]) -> None:
        self.config, *self.traits = name.split()
        kind, self.args = VARIANTS[variant]
        self.folder = folder
        self.server = kind(folder / "server.log")
        self.tls = tls_files if {"https", "tls"} & {self.config, *self.traits} else None
        self.tls_files = tls_files
        self.clients: Server = Nginx(folder / "nginx.log") if self.is_nginx else self.server
        self.clients.tls = self.tls
        self.clients.port = reserve_port()

    @property
    def is_nginx(self) -> bool:
        return self.config.endswith("_pass")

    def launch(
        self,
        *,
        args: list[str] | None = None,
        nginx: str = "",
        changes: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        """
        Start the server and its front.

        Args:
            args: Further arguments for the server.
            nginx: Further configuration for nginx.
            changes: What to replace in the configuration of uWSGI's router.
            options: As for the server.
        """
        self.server.bind = self._bind() if self.is_nginx else self._router(changes or {})
        self.server.launch(args=[*self.args, *(args or [])], **options)
        if self.is_nginx:
            self._launch_nginx(nginx)
        eventually(self._answers, "the front answers")

    def _answers(self) -> bool:
        self.server.check_alive()
        return self.clients.answers()

    def _router(self, changes: dict[str, str]) -> tuple[str, ...]:
        changes = {"myproject:main()": "apps.application:main()", "threads = 16\n": "", **changes}
        if self.tls:
            changes["/etc/ssl/example.com.pem"] = str(self.tls["cert"])
            changes["/etc/ssl/example.com.key"] = str(self.tls["key"])
        changes[" :443" if self.tls else " :8080"] = f" 127.0.0.1:{self.clients.port}"
        ini = self.folder / "uwsgi.ini"
        ini.write_text(configuration(f"{self.config}.ini", changes))
        return "--ini", str(ini)

    def _bind(self) -> tuple[str, ...]:
        gunicorn = self.server.name == "gunicorn"
        option = "--bind" if gunicorn else f"--{BACKENDS[self.config]}"
        if "unix" not in self.traits:
            return option, "127.0.0.1:0"
        return option, f"{'unix:' if gunicorn else ''}{self.folder / 'socket'}"

    def _launch_nginx(self, options: str) -> None:
        if "unix" in self.traits:
            address = f"unix:{self.folder / 'socket'}"
        else:
            address = f"127.0.0.1:{self.server.wait_for_log(self.server.listening).group(1)}"
        changes = {
            "443 ssl": f"127.0.0.1:{self.clients.port}{' ssl' if self.tls else ''}",
            "127.0.0.1:8000": address,
            "/etc/ssl/example.com.pem": str(self.tls_files["cert"]),
            "/etc/ssl/example.com.key": str(self.tls_files["key"]),
        }
        (self.folder / "site.conf").write_text(configuration(f"{self.config}.conf", changes))
        (self.folder / "nginx.conf").write_text(NGINX.format(options=options))
        command = ["nginx", "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]
        self.clients.launch(command=command)

    def stop(self) -> None:
        """Stop both."""
        self.server.stop()
        self.clients.stop()


class Nginx(Server):
    """nginx before a server."""

    name = "nginx"
