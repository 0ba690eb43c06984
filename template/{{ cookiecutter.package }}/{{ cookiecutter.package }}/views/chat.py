"""The chat: a WebSocket view and a coroutine view, both on the event loop."""

import json
import time

from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.view import view_config

from aiopyramid.broadcast import after
from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.forms import TAGGED
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

# The groups. The first one has a history; see the setting aiopyramid.broadcast.history.
SAID, PRESENT = "said", "present"

MAX_TEXT = 1000  # characters


def connections_of(user):
    """Return the name of the group of a user's connections."""
    return f"user:{user['id']}"


@websocket_view_config(
    route_name="chat", permission="chat", max_message_size=8 * MAX_TEXT, max_message_rate=5
)
class Chat(WebsocketConnectionView):
    """The connection of one page."""

    def __init__(self, context, request):
        super().__init__(context, request)
        self.user = request.identity  # the request ends with the handshake
        self.groups = request.groups

    async def on_open(self):
        """Join the groups: the page gets what it has missed, or the last messages if it is new."""
        where = after(self.request, SAID)
        info = {"name": self.user["name"]}
        # Not tagged: a connection that may have missed that its user has signed out is closed, and
        # asked who it is when it comes again.
        await self.groups.join(connections_of(self.user), self.ws)
        await self.groups.join(PRESENT, self.ws, form=TAGGED, info=info)
        await self.groups.join(SAID, self.ws, form=TAGGED, last=50, after=where)
        self.groups.publish(PRESENT, "somebody came")

    async def on_message(self, message):
        """Tell all what one says."""
        try:
            text = json.loads(message)["text"].strip()
        except (ValueError, TypeError, KeyError, AttributeError):
            await self.ws.close(1008, 'a message is {"text": "..."}')
            return
        if text:
            said = {"name": self.user["name"], "text": text[:MAX_TEXT], "time": time.time()}
            try:
                await self.groups.publish_json(SAID, said)
            except BroadcastError:
                await self.ws.send_json({"not_sent": text})

    async def on_close(self):
        """Tell the others; the connection has left its groups by itself."""
        self.groups.publish(PRESENT, "somebody left")


@view_config(route_name="members", request_method="GET", permission="chat", renderer="json")
async def members(request):
    """Return the names of all who are there, in all workers."""
    try:
        present = await request.groups.members(PRESENT)
    except BroadcastError:
        raise HTTPServiceUnavailable("nobody knows at the moment") from None
    return sorted({info["name"] for info in present}, key=str.casefold)
