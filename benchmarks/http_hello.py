"""A small Pyramid view over HTTP: aiopyramid, and Pyramid without it on the same server."""

from __future__ import annotations

import asyncio
import re
from functools import partial

from bench import CONNECTIONS, UWSGI, Server, aiopyramid_gunicorn, compare, gunicorn, uwsgi

REQUESTS = 150  # of each client


async def hello(server: Server, keep_alive: bool) -> float:
    async def client() -> None:
        left = REQUESTS
        while left:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            on_this_connection = left if keep_alive else 1
            for _ in range(on_this_connection):
                writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % server.path.encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.split()[1] == b"200", head
                size = re.search(rb"(?i)content-length: (\d+)", head)
                assert size, head
                await reader.readexactly(int(size[1]))
            left -= on_this_connection
            writer.close()

    before = server.cpu()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return (server.cpu() - before) / (CONNECTIONS * REQUESTS)


if __name__ == "__main__":
    title = f"Pyramid view, {CONNECTIONS} clients"
    app = "application:main()"
    compare(
        f"{title}, kept connections",
        [
            Server("gunicorn gthread, plain view", "/plain", gunicorn("application:without()")),
            Server("aiopyramid, gunicorn, plain view", "/plain", aiopyramid_gunicorn(app)),
            Server("aiopyramid, gunicorn, coroutine view", "/coroutine", aiopyramid_gunicorn(app)),
        ],
        partial(hello, keep_alive=True),
    )
    if UWSGI.exists():
        app = f"--module={app}"
        compare(
            f"{title}, a connection for each request",
            [
                Server(
                    "uWSGI threads, plain view", "/plain", uwsgi("--module=application:without()")
                ),
                Server("aiopyramid, uWSGI threads, plain view", "/plain", uwsgi(app)),
                Server("aiopyramid, uWSGI threads, coroutine view", "/coroutine", uwsgi(app)),
            ],
            partial(hello, keep_alive=False),
        )
