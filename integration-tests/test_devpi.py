"""devpi-server, whose transactions belong to threads, answers as on gunicorn's own."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import PATIENCE, Server
from servers import READ_BODIES, serve

JSON = {"Accept": "application/json"}
PACKAGES = [f"package{n}" for n in range(8)]


def use(server: Server) -> list[Any]:
    """Make an index, fill it from several clients, and return what devpi answered."""
    answers: list[Any] = []
    with server.client() as client, ThreadPoolExecutor(len(PACKAGES)) as pool:

        def record(method: str, path: str, **options: Any) -> Any:
            answer = client.request(method, path, **options)
            text = re.sub(rf":{server.port}\b", ":PORT", answer.text)
            text = re.sub(r"#sha256=\w+|\b\d{4}(, \d+){5}|\d{4}-\d\d-\d\dT[\d:]+Z", "", text)
            answers.append([method, path, answer.status_code, answer.headers["content-type"], text])
            return answer

        def log_in(user: str) -> None:
            login = {"user": user, "password": "secret"}
            token = client.post("/+login", json=login).json()["result"]["password"]
            client.headers["X-Devpi-Auth"] = base64.b64encode(f"{user}:{token}".encode()).decode()

        def upload(name: str) -> int:
            form = {":action": "file_upload", "name": name, "version": "1.0"}
            files = {"content": (f"{name}-1.0.tar.gz", name.encode() * 1000)}
            return client.post("/jo/dev/", data=form, files=files).status_code

        record("POST", "/+login", json={"user": "root", "password": "wrong"})
        log_in("root")
        record("PUT", "/jo", json={"password": "secret"})
        record("PUT", "/jo", json={"password": "secret"})
        log_in("jo")
        record("PUT", "/jo/dev", json={"type": "stage", "bases": [], "volatile": False})
        answers.append(list(pool.map(upload, PACKAGES)))
        answers.append(upload(PACKAGES[0]))  # which an index that is not volatile refuses
        record("GET", "/jo/dev/+simple/")
        record("GET", "/jo/dev/nothing", headers=JSON)
        record("GET", "/nobody", headers=JSON)
        for name in PACKAGES:
            page = record("GET", f"/jo/dev/+simple/{name}/").text
            link = re.search(rf"\+f/[^\"#]+/{name}-1\.0\.tar\.gz", page)
            assert link is not None, page
            answers.append(client.get(f"/jo/dev/{link.group()}").text)
        statuses = pool.map(lambda _: client.get("/jo/dev", headers=JSON).status_code, range(64))
        answers.append(sorted(statuses))
    return answers


def test_devpi_answers_as_on_gunicorns_threads(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # devpi lists what it has in sets

    def result(name: str, includes: str) -> list[Any]:
        folder = tmp_path / f"{name}-{includes}"
        command = [str(Path(sys.executable).with_name("devpi-init")), "--serverdir", str(folder)]
        command += ["--no-root-pypi", "--root-passwd", "secret"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        server = serve(
            launch,
            name,
            app="apps.devpi:main()",
            # It starts threads of its own, which do not live on in a fork.
            args=["--lazy-apps", *READ_BODIES] if name == "uwsgi" else [],
            settings={"folder": str(folder), "includes": includes},
            wait=False,
        )
        server.up = "/+api"
        server.wait_until_up()
        answers = use(server)
        server.stop()
        return answers

    theirs = result("gthread", "")
    # As it is, and as one would change it who wants to add coroutine views.
    for name, includes in (("gunicorn", ""), ("gunicorn", "aiopyramid"), ("uwsgi", "aiopyramid")):
        ours = result(name, includes)
        for our, their in zip(ours, theirs, strict=True):
            assert our == their, (name, includes)
    assert [200] * len(PACKAGES) in theirs
    assert [200] * 64 in theirs
