"""A news feed, which pages follow by server-sent events."""

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.broadcast.messages import Resync
from aiopyramid.sse import EventSourceResponse, ServerSentEvent, last_event_id

PAGE = """<!doctype html>
<title>News</title>
<ul id="news"></ul>
<script>
const source = new EventSource("/events");
const show = (text) => {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("news").append(item);
};
source.addEventListener("news", (event) => show(event.data));
source.addEventListener("gap", () => show("(some news are missing here)"));
</script>
"""


async def follow(groups, last_id):
    """Yield what a page has missed, or the last news if it is new, and then all that come."""
    async with await groups.listen("news", last=10, after=last_id) as listener:
        async for item in listener:
            if isinstance(item, Resync):
                yield ServerSentEvent(event="gap", data=item.reason)
            else:
                yield ServerSentEvent(event="news", id=item.id, data=item.data)


@view_config(route_name="page")
def page(request):
    return Response(PAGE)


@view_config(route_name="events")
async def events(request):
    return EventSourceResponse(follow(request.groups, last_event_id(request)), retry=1000)


@view_config(route_name="news", request_method="POST", renderer="json")
async def publish(request):
    request.groups.publish("news", request.POST["text"])
    return {"listeners": await request.groups.count("news")}


def main(global_config=None, **settings):
    settings = {"aiopyramid.broadcast.history": "news = 1000", **settings}
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("page", "/")
        config.add_route("events", "/events")
        config.add_route("news", "/news")
        config.scan(__name__)
        return config.make_wsgi_app()
