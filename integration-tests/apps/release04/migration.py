"""
The changes that bring the application in ``original`` from aiopyramid 0.4 to this release.

The original is as it ran on aiopyramid 0.4.1, Python 3.6 and gunicorn 19. Python 3.11 cannot
import it, so its modules have the suffix ``.txt``. Each change follows words of
``docs/howto/migrating.rst``; nothing else is changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ORIGINAL = Path(__file__).parent / "original"
PAGE = Path(__file__).parents[3] / "docs/howto/migrating.rst"


class Change(NamedTuple):
    """Words of the page, and what follows from them."""

    said: str
    file: str
    old: str
    new: str = ""


CHANGES = [
    Change(
        "in tests, replace it by ``asyncio.new_event_loop()``",
        "roombook/tests.py",
        "asyncio.get_event_loop()",
        "asyncio.new_event_loop()",
    ),
    Change(
        "Uninstall ``aiopyramid`` and install ``aiopyramid-gunicorn`` or ``aiopyramid-uwsgi``.",
        "setup.py",
        "'aiopyramid[gunicorn]'",
        "'aiopyramid-gunicorn', 'aiopyramid-uwsgi'",
    ),
    Change(
        "``set_default_executor()`` in ``main()`` does nothing for them.",
        "roombook/__init__.py",
        "    loop.set_default_executor(ThreadPoolExecutor(max_workers=20))\n",
    ),
    Change(
        "Set gunicorn's or uWSGI's ``threads`` in its place.",
        "development.ini",
        "port = 6543\n",
        "port = 6543\nthreads = 20\n",
    ),
    Change(
        "The event loop that ``main()`` sees is not always the one that runs views.",
        "roombook/__init__.py",
        "    loop = asyncio.get_event_loop()\n",
    ),
    Change(
        "Make a :doc:`lifespan <lifespan>` of what is connected or started on it in ``main()``",
        "roombook/__init__.py",
        "    loop.run_until_complete(store.connect())\n",
        "    config.add_lifespan(lifespan)\n",
    ),
    Change(
        "Make a :doc:`lifespan <lifespan>` of what is connected or started on it in ``main()``",
        "roombook/__init__.py",
        "def main(global_config, **settings):\n",
        """\
@contextlib.asynccontextmanager
async def lifespan(registry):
    await registry.store.connect()
    yield
    registry.store.connection.cancel()


def main(global_config, **settings):
""",
    ),
    Change(
        "Make a :doc:`lifespan <lifespan>` of what is connected or started on it in ``main()``",
        "roombook/__init__.py",
        "import asyncio\n",
        "import contextlib\n",
    ),
    Change(
        "WebSockets accept pages of the same origin only, unless ``origins`` says otherwise.",
        "development.ini",
        "auth.secret = sosecret\n",
        "auth.secret = sosecret\naiopyramid.websocket.origins = https://intranet.example.com\n",
    ),
    Change(
        "catch `~aiopyramid.websocket.exceptions.WebsocketClosed` in its place",
        "roombook/websockets.py",
        "from websockets.exceptions import ConnectionClosed\n",
        "from aiopyramid.websocket.exceptions import WebsocketClosed\n",
    ),
    Change(
        "catch `~aiopyramid.websocket.exceptions.WebsocketClosed` in its place",
        "roombook/websockets.py",
        "except ConnectionClosed:\n",
        "except WebsocketClosed:\n",
    ),
    Change(
        "``aiopyramid.traversal``, deprecated since 0.3",
        "roombook/__init__.py",
        "from aiopyramid.traversal import AsyncioTraverser\n",
    ),
    Change(
        "``aiopyramid.traversal``, deprecated since 0.3",
        "roombook/__init__.py",
        "    config.add_traverser(AsyncioTraverser, Archive)\n\n",
    ),
    Change(
        "synchronize ``__getitem__``, or what it calls",
        "roombook/resources.py",
        "    @asyncio.coroutine\n    def __getitem__(self, number):\n",
        "    @synchronize\n    @asyncio.coroutine\n    def __getitem__(self, number):\n",
    ),
    Change(
        "``aiopyramid.helpers.run_in_greenlet``, with the future and the switch around it",
        "roombook/tweens.py",
        "import greenlet\n\nfrom aiopyramid.helpers import run_in_greenlet, synchronize\n",
        "from aiopyramid.helpers import synchronize\n",
    ),
    Change(
        "call the coroutine by `~aiopyramid.helpers.synchronize`",
        "roombook/tweens.py",
        """\
        this = greenlet.getcurrent()
        future = asyncio.Future()
        task = asyncio.ensure_future(run_in_greenlet(this, future, next_number))
        while not future.done():
            this.parent.switch(task)
        request.number = future.result()
""",
        "        request.number = synchronize(next_number)()\n",
    ),
]

# ``@asyncio.coroutine`` is removed from all that have it, as the page says, in one of two styles:
#
# "async def": they all become ``async def`` with ``await``, "the better replacement";
# "generators": only those do that must.
STYLES = ["async def", "generators"]
MUST = {
    "helper coroutines of your own that are none of these": [
        "store.py: connect, carry_out, execute, round_trip, rooms, room, groups, year, book",
        "websockets.py: answer",
    ],
    "views that tests or other code call themselves": ["views.py: home"],
    "coroutines without a ``yield from``": [
        "views.py: forbidden",
        "websockets.py: on_open, on_close",
    ],
}

# What the servers' own sections need.
THREADS = Change(
    "Replace them by ``threads``",
    "development.ini",
    "plugins =\n    asyncio = 50 ;number of workers\n    greenlet\n",
    "threads = 50\n",
)

# Where the tests run; the page has nothing to say about it.
HERE = [
    Change("", "development.ini", "host = 0.0.0.0\nport = 6543\n", "host = 127.0.0.1\nport = 0\n"),
    Change("", "development.ini", "http-socket = 0.0.0.0:6543\n", "http-socket = 127.0.0.1:0\n"),
    Change("", "development.ini", "[loggers]\n", "control_socket_disable = true\n\n[loggers]\n"),
]


def migrate(folder: Path, style: str, more: list[Change]) -> None:
    """Write the migrated application into a folder."""
    for source in ORIGINAL.rglob("*.*"):
        name = str(source.relative_to(ORIGINAL)).removesuffix(".txt")
        text = source.read_text()
        for change in [*CHANGES, *more]:
            if change.file == name:
                assert text.count(change.old) == 1, change
                text = text.replace(change.old, change.new)
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(undecorated(text, target.name, style))


def undecorated(text: str, file: str, style: str) -> str:
    """Remove ``@asyncio.coroutine``, and write ``async def`` and ``await``."""
    musts = [entry.split(": ") for entries in MUST.values() for entry in entries]
    must = {name for module, names in musts if module == file for name in names.split(", ")}
    lines = []
    decorated = False
    inside: int | None = None  # the indentation of a coroutine
    for line in text.splitlines(keepends=True):
        indentation = len(line) - len(line.lstrip())
        if line.strip() == "@asyncio.coroutine":
            decorated = True
            continue
        if line.strip() and inside is not None and indentation <= inside:
            inside = None
        definition = re.match(r" *def (\w+)", line)
        if definition and decorated:
            decorated = False
            if style == "async def" or definition[1] in must:
                line = line.replace("def ", "async def ", 1)
                inside = indentation
        lines.append(line if inside is None else line.replace("yield from ", "await "))
    return "".join(lines)


def words(text: str) -> str:
    """Give a text without its line breaks, to compare what it says."""
    return " ".join(text.split())


def sayings() -> list[str]:
    """Give all that the page must say for these changes."""
    return [change.said for change in [*CHANGES, THREADS]] + list(MUST)
