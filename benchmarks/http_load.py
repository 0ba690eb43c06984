"""Puts HTTP requests on a server, with wrk."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import time

from measure import PATIENCE, Sample, Server


def check_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("HTTP is measured with wrk, which is not installed: apt-get install wrk")


def requests(server: Server, seconds: int, *, connections: int = 64) -> Sample:
    """Ask for the page on kept connections, and each time at once again."""
    url = f"http://127.0.0.1:{server.port}{server.peer.path}"
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{PATIENCE}s", url]
    before, start, used = server.cpu(), time.monotonic(), _children()
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds + PATIENCE
    )
    elapsed = time.monotonic() - start
    done = re.search(r"(\d+) requests in", result.stdout)
    if done is None or done[1] == "0" or re.search("Non-2xx|Socket errors", result.stdout):
        raise server.failed(result.stdout)
    return Sample(int(done[1]), server.cpu() - before, _children() - used, elapsed)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
