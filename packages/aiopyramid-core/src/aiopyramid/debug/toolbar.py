"""A panel for pyramid_debugtoolbar: the WebSockets that are open in this process."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pyramid_debugtoolbar.panels import DebugPanel
from pyramid_debugtoolbar.toolbar import IPanelMap

from ..websocket.connection import WebsocketConnection
from ..websocket.events import WebsocketOpened
from ..websocket.session import Session
from ..websocket.sessions import sessions

if TYPE_CHECKING:
    from pyramid.config import Configurator

HEADINGS = (
    "Path",
    "Client",
    "Subprotocol",
    "Open since",
    "Messages in",
    "Messages out",
    "Bytes in",
    "Bytes out",
    "View",
)


def includeme(config: Configurator) -> None:
    """Add the panel to the toolbar's own application (setting ``debugtoolbar.includes``)."""
    add_panel(config.registry)


def add_panel(registry: Any) -> None:
    """
    Add the panel to a toolbar.

    Args:
        registry: The registry of the toolbar's own application.
    """
    panels = registry.getUtility(IPanelMap)
    if (WebsocketPanel.name, True) not in panels:
        panels[WebsocketPanel.name, True] = WebsocketPanel
        registry.parent_registry.registerHandler(_note_opened, [WebsocketOpened])


_opened: WeakKeyDictionary[WebsocketConnection, float] = WeakKeyDictionary()


def _note_opened(event: WebsocketOpened) -> None:
    _opened[event.ws] = time.time()


class WebsocketPanel(DebugPanel):  # type: ignore[misc]
    """Lists the WebSockets that are open when the panel is shown."""

    name = "websockets"
    title = nav_title = "WebSockets"
    has_content = True

    def render_content(self, request: Any) -> str:
        """Return the panel's HTML."""
        found = sorted(sessions.open.copy(), key=lambda session: _opened.get(session.ws, 0.0))
        rows = "".join(_row("td", describe(session)) for session in found)
        return (
            f"<p>{len(found)} open in process {os.getpid()}</p>"
            '<table class="table table-striped table-condensed">'
            f"<thead>{_row('th', HEADINGS)}</thead><tbody>{rows}</tbody></table>"
        )


def describe(session: Session) -> tuple[object, ...]:
    """Return the facts about an open WebSocket, in the order of the headings."""
    ws, protocol = session.ws, session.ws.protocol
    opened = _opened.get(ws)
    return (
        ws.request.path,
        ws.request.remote_addr,
        ws.subprotocol or "",
        "" if opened is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(opened)),
        protocol.queue.received,
        protocol.messages_sent,
        protocol.bytes_received,
        protocol.writer.bytes_sent,
        view_name(session.view),
    )


def view_name(view: Any) -> str:
    """Return the name of a function, or of an instance's class."""
    while isinstance(view, functools.partial):
        view = view.func
    named = view if hasattr(view, "__qualname__") else type(view)
    return f"{named.__module__}.{named.__qualname__}"


def _row(tag: str, cells: Iterable[object]) -> str:
    # Clients choose paths and subprotocols, and some of them addresses.
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
