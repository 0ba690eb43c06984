"""A news feed, which pages follow by server-sent events."""

from collections import deque

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.sse import EventQueue, EventSourceResponse, ServerSentEvent, last_event_id

PAGE = """<!doctype html>
<title>News</title>
<ul id="news"></ul>
<script>
const source = new EventSource("/events");
source.addEventListener("news", (event) => {
  const item = document.createElement("li");
  item.textContent = event.data;
  document.getElementById("news").append(item);
});
</script>
"""


class Feed:
    """The news of this process, and who listens."""

    def __init__(self):
        self.count = 0
        self.history: deque[ServerSentEvent] = deque(maxlen=1000)
        self.listeners: set[EventQueue] = set()

    def publish(self, text):
        self.count += 1
        event = ServerSentEvent(event="news", id=str(self.count), data=text)
        self.history.append(event)
        for queue in self.listeners:
            queue.put(event)

    async def listen(self, last_id):
        seen = int(last_id) if last_id and last_id.isdecimal() else 0
        queue = EventQueue(max_size=100)
        self.listeners.add(queue)
        try:
            for event in tuple(self.history):
                if int(event.id or 0) > seen:
                    yield event
            async for news in queue:
                yield news
        finally:
            self.listeners.discard(queue)  # the client has left, or the worker ends


@view_config(route_name="page")
def page(request):
    return Response(PAGE)


@view_config(route_name="events")
async def events(request):
    return EventSourceResponse(request.feed.listen(last_event_id(request)), retry=1000)


@view_config(route_name="news", request_method="POST", renderer="json")
async def publish(request):
    request.feed.publish(request.POST["text"])
    return {"listeners": len(request.feed.listeners)}


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        feed = Feed()
        config.add_request_method(lambda request: feed, "feed", property=True)
        config.add_route("page", "/")
        config.add_route("events", "/events")
        config.add_route("news", "/news")
        config.scan(__name__)
        return config.make_wsgi_app()
