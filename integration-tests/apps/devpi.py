"""devpi-server's application, without its own server."""

from __future__ import annotations

import json
import os

from devpi_server.config import get_pluginmanager, hookimpl, parseoptions
from devpi_server.main import xom_from_config


class WithAiopyramid:
    """A plugin, as one that adds coroutine views would be."""

    @hookimpl
    def devpiserver_pyramid_configure(self, config, pyramid_config):
        pyramid_config.include("aiopyramid")


def main():
    settings = json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"])
    plugins = get_pluginmanager()
    if settings["includes"]:
        plugins.register(WithAiopyramid())
    arguments = ["devpi-server", "--serverdir", settings["folder"], "--offline-mode"]
    xom = xom_from_config(parseoptions(plugins, arguments))
    app = xom.create_app()
    # Their own server runs inside these threads.
    xom.thread_pool.start()
    return app
