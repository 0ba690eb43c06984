"""Kinto, served whole and as it comes, answers as it does on gunicorn's threads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import PATIENCE, WORKER, Server, UWSGIServer, eventually, reserve_port
from postgres import Database
from servers import READ_BODIES, THREADS

INI = """\
[app:main]
use = egg:kinto
pyramid.includes = {includes}
kinto.userid_hmac_secret = secret
kinto.storage_backend = kinto.core.storage.{backend}
kinto.cache_backend = kinto.core.cache.{backend}
kinto.permission_backend = kinto.core.permission.{backend}
kinto.storage_url = {url}
kinto.cache_url = {url}
kinto.permission_url = {url}
kinto.includes = kinto.plugins.default_bucket kinto.plugins.history
kinto.bucket_create_principals = system.Authenticated
kinto.experimental_collection_schema_validation = true
kinto.paginate_by = 15
multiauth.policies = basicauth

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys =

[logger_root]
level = WARNING
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
"""
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}}
HEADERS = ("allow", "alert", "backoff", "content-type", "etag", "last-modified", "location")
HEADERS += ("next-page", "retry-after", "total-objects", "vary", "x-content-type-options")
RECORDS = "/buckets/b/collections/c/records"
SLEEPING = "wait_event = 'PgSleep'"
END_SLEEP = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {SLEEPING}"
COUNT = (
    "SELECT resource_name, deleted, count(*) FROM objects "
    "WHERE parent_id NOT LIKE '/buckets/contested%' GROUP BY 1, 2 ORDER BY 1, 2"
)
WORKERS = {"gthread": "gthread", "gunicorn": WORKER}


def write_ini(path: Path, database: Database | None, includes: str = "") -> Path:
    """Configure Kinto with a new database, or with none in memory."""
    backend, url = ("postgresql", database.url()) if database else ("memory", "")
    path.write_text(INI.format(backend=backend, url=url, includes=includes))
    if database:
        command = [str(Path(sys.executable).with_name("kinto")), "migrate", "--ini", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert result.returncode == 0, result.stderr
    return path


def start(launch: Callable[..., Server], name: str, ini: Path) -> Server:
    if name == "uwsgi":
        command = [str(UWSGIServer.executable()), "--http-socket", f"127.0.0.1:{reserve_port()}"]
        command += ["--master", "--need-app", "--die-on-term", "--threads", str(THREADS)]
        command += ["--paste", f"config:{ini}", *READ_BODIES]
        server = launch(variant="uwsgi-threads", command=command, wait=False)
    else:
        command = [sys.executable, "-m", "gunicorn", "--paste", str(ini), "-k", WORKERS[name]]
        command += ["-b", "127.0.0.1:0", "--no-control-socket", "--threads", str(THREADS)]
        command += ["--keep-alive", str(int(PATIENCE))]
        server = launch(command=command, wait=False)
    server.up = "/v1/__lbheartbeat__"
    server.wait_until_up()
    return server


class Recorder:
    """Sends requests to Kinto, and keeps what is the same in every run of the answers."""

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self.answers: list[Any] = []
        self.client = server.client(PATIENCE / 2, auth=("alice", "password"))
        self.client.base_url = f"{server.url}/v1"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()

    def masked(self, text: str) -> str:
        text = text.replace(f"127.0.0.1:{self.port}", "HOST")
        text = re.sub(r"\b1\d{12}\b", "1111111111111", text)
        text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID", text)
        text = re.sub(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", "DATE", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)?", "DATE", text)
        text = re.sub(r'"Connection": ?"close",? ?', "", text)  # uWSGI's, in answers of /batch
        return re.sub(r"_token=[\w%=-]+", "_token=TOKEN", text)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.client.request(method, path, **options)

    def send_until_done(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Try again where Kinto asks for it: two writes had one timestamp."""
        for _ in range(50):
            answer = self.send(method, path, **options)
            if answer.status_code != 409:
                break
        return answer

    def record(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.send(method, path, **options)
        self.answers.append([method, path, self.essence(answer)])
        return answer

    def essence(self, answer: httpx.Response) -> list[Any]:
        headers = {name: self.masked(answer.headers.get(name, "-")) for name in HEADERS}
        text = self.masked(answer.text)
        return [answer.status_code, headers, json.loads(text) if text else ""]

    def record_at_once(self, requests: list[tuple[str, str, dict[str, Any]]]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            jobs = [
                pool.submit(self.send_until_done, method, path, json=body)
                for method, path, body in requests
            ]
            for request, job in zip(requests, jobs, strict=True):
                self.answers.append([*request, self.essence(job.result())])


def run(server: Server) -> list[Any]:
    """Do everything to Kinto once, and return what it answered."""
    with Recorder(server) as kinto:
        create_and_fail(kinto)
        write_at_once(kinto)
        write_with_conditions(kinto)
        delete_and_list(kinto)
        return kinto.answers


def create_and_fail(kinto: Recorder) -> None:
    record = kinto.record
    record("GET", "/")
    record("GET", "/__heartbeat__")
    record("PUT", "/buckets/b", auth=("", ""))
    record("GET", "/buckets/b")
    record("PUT", "/buckets/b")
    record("PUT", "/buckets/b", json={"data": {"color": "blue"}})
    record("PUT", "/buckets/b/collections/c", json={"data": {"schema": SCHEMA}})
    record("GET", "/buckets/b", auth=("bob", "password"))
    record("GET", RECORDS, auth=("bob", "password"))
    record("GET", "/buckets/b/collections/unknown/records")
    record("GET", f"{RECORDS}/unknown")
    record("PATCH", f"{RECORDS}/unknown", json={"data": {"number": 1}})
    record("POST", RECORDS, content="no JSON", headers={"Content-Type": "application/json"})
    record("POST", RECORDS, json={"data": {"number": "no integer"}})
    record("POST", RECORDS, json={"data": {"number": 1}}, headers={"Content-Type": "text/plain"})
    record("GET", f"{RECORDS}?_sort=a;b")
    record("TRACE", "/buckets/b")
    record("GET", "/nowhere")


def write_at_once(kinto: Recorder) -> None:
    kinto.record_at_once(
        [("PUT", f"{RECORDS}/r{n}", {"data": {"number": n, "even": n % 2 == 0}}) for n in range(40)]
    )
    kinto.record_at_once([("POST", RECORDS, {"data": {"number": 100}}) for _ in range(16)])
    kinto.record_at_once(
        [("PUT", f"/buckets/b/groups/g{n}", {"data": {"members": ["x"]}}) for n in range(16)]
    )
    page = kinto.record("GET", f"{RECORDS}?_sort=number&_fields=number&lt_number=100")
    follow = page.headers["next-page"].partition("/v1")[2]
    answer = kinto.send("GET", follow)
    kinto.answers.append(["the next page", kinto.essence(answer)])
    kinto.record("GET", f"{RECORDS}?number=100&_fields=number")
    kinto.record("HEAD", f"{RECORDS}?even=true")


def write_with_conditions(kinto: Recorder) -> None:
    path = f"{RECORDS}/r1"
    kinto.record("PUT", path, json={"data": {}}, headers={"If-None-Match": "*"})
    etag = kinto.record("GET", path).headers["etag"]
    kinto.record("GET", path, headers={"If-None-Match": etag})
    kinto.record("PATCH", path, json={"data": {"text": "grüße"}})
    kinto.record("PATCH", path, json={"data": {"number": 2}}, headers={"If-Match": etag})
    # More than one of these may be lucky, as Kinto looks first and writes then.
    path = "/buckets/contested/collections/c/records/r"
    kinto.record("PUT", "/buckets/contested")
    kinto.record("PUT", "/buckets/contested/collections/c")
    etag = kinto.record("PUT", path, json={"data": {"number": 0}}).headers["etag"]
    with ThreadPoolExecutor(THREADS) as pool:
        options = {"headers": {"If-Match": etag}}
        jobs = {
            n: pool.submit(kinto.send, "PATCH", path, json={"data": {"number": n}}, **options)
            for n in range(1000, 1000 + THREADS)
        }
    statuses = {n: job.result().status_code for n, job in jobs.items()}
    assert set(statuses.values()) <= {200, 409, 412}
    written = kinto.send("GET", path).json()["data"]["number"]
    assert statuses[written] == 200
    kinto.record("PATCH", path, json={"data": {"number": 1}})
    kinto.record("PATCH", path, json={"data": {"number": 2}}, headers={"If-Match": etag})
    operations = [{"op": "replace", "path": "/data/number", "value": 3}]
    kinto.record(
        "PATCH",
        path,
        content=json.dumps(operations),
        headers={"Content-Type": "application/json-patch+json"},
    )


def delete_and_list(kinto: Recorder) -> None:
    kinto.record("DELETE", f"{RECORDS}/r0")
    kinto.record("DELETE", f"{RECORDS}/r0")
    kinto.record("DELETE", f"{RECORDS}?even=true&_sort=number")
    requests: list[dict[str, Any]] = [
        {"method": "PUT", "path": f"/v1{RECORDS}/r{n}", "body": {"data": {"number": n}}}
        for n in (2, 4)
    ]
    requests += [{"method": "GET", "path": f"/v1{RECORDS}/nothing"}]
    kinto.record("POST", "/batch", json={"requests": requests})
    kinto.record("PUT", "/buckets/default/collections/mine/records/r", json={"data": {"a": 1}})
    kinto.record("GET", f"{RECORDS}?_sort=number,id&_limit=100&_fields=number,text&lt_number=100")
    kinto.record("HEAD", f"{RECORDS}?_since=0")
    kinto.record("HEAD", "/buckets/b/history")
    kinto.record("DELETE", "/buckets/b/groups?_sort=id")


# As it is, and as one would change it who wants to add coroutine views; as it is, uWSGI would
# run nothing of ours.
OURS = [("gunicorn", ""), ("gunicorn", "aiopyramid"), ("uwsgi", "aiopyramid")]


def test_kinto_answers_as_on_gunicorns_threads(launch, tmp_path, monkeypatch, postgres):
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # Kinto lists what it has in sets

    def result(name: str, includes: str) -> tuple[list[Any], Any]:
        database = postgres.database()
        ini = write_ini(tmp_path / f"{name}-{includes}.ini", database, includes)
        server = start(launch, name, ini)
        answers = run(server)
        server.stop()
        return answers, database.query(COUNT)

    theirs, their_rows = result("gthread", "")
    for name, includes in OURS:
        ours, our_rows = result(name, includes)
        for our, their in zip(ours, theirs, strict=True):
            assert our == their, (name, includes)
        assert our_rows == their_rows, (name, includes)


@pytest.mark.parametrize(("name", "includes"), [("gthread", ""), *OURS])
def test_a_write_that_waits_for_the_database_stops_no_other_request(
    launch, tmp_path, postgres, name: str, includes: str
):
    database = postgres.database()
    server = start(launch, name, write_ini(tmp_path / "kinto.ini", database, includes))
    with Recorder(server) as kinto, ThreadPoolExecutor(2) as pool:
        kinto.send("PUT", "/buckets/b")
        locking = pool.submit(
            database.query, "BEGIN; LOCK TABLE objects IN EXCLUSIVE MODE; SELECT pg_sleep(3600)"
        )
        try:
            eventually(lambda: database.sessions(SLEEPING), "the table is locked")
            writing = pool.submit(kinto.send, "PUT", "/buckets/b", json={"data": {"a": 1}})
            eventually(lambda: database.sessions("wait_event_type = 'Lock'"), "the write waits")
            alive = kinto.send("GET", "/__lbheartbeat__", timeout=PATIENCE / 3)
        finally:
            database.query(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {SLEEPING}"
            )
        assert locking.exception() is not None
        assert (alive.status_code, writing.result().status_code) == (200, 200)
