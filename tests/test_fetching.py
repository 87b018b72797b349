"""`vislib.fetching` against real servers on loopback: every link ends in one row, within bounds,
and is asked once.
"""

import gzip
import os
import resource
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest

from tests.test_images import begin, collect_images
from tests.web_server import Seen, answer, bomb, png, web_server
from vislib.fetching import fetcher, hosts
from vislib.fetching.links import Links
from vislib.media.pixels import Reason
from vislib.runs import InputError, tables

# What hosts say of machines is asked in test_consent: here links alone are counted.
FAST = {"images_root": "", "timeout_s": 3.0, "retries": 1, "policy": "ignore"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fetcher, "_BACKOFF_S", 0.05)
    for name, seconds in {
        "_SLOWEST_S": 0.05,
        "_REST_S": 0.05,
        "_LONG_REST_S": 0.1,
        "_PATIENCE_S": 1.0,
    }.items():
        monkeypatch.setattr(hosts, name, seconds)


def fetch(folder, urls, monkeypatch, **parameters):
    """Stage 03 on these links: what became of each (`ok`, or its reason), and the run's metrics."""
    run = begin(folder, urls, monkeypatch, **FAST | parameters)
    try:
        collect_images(run)
        rows = list(tables.read_rows(run.data / "images"))
        assert [row["image_url"] for row in rows] == list(dict.fromkeys(urls))
        details = {row["id"]: row["detail"] for row in tables.read_rows(run.data / "dropped")}
        run.finish()
    finally:
        run.close()
    assert {row["reason"] for row in rows} <= {"", *get_args(Reason)}
    return {row["image_url"]: row["reason"] or "ok" for row in rows}, run.metrics | {
        "details": details
    }


def allowing(*servers: Seen, **more) -> dict:
    return {"allow_hosts": [server.host for server in servers], **more}


REPLIES = {
    "/fine": (None, "ok"),
    "/gone": (answer(410), "not_found"),
    "/missing": (answer(404), "not_found"),
    "/private": (answer(403), "forbidden"),
    "/law": (answer(451), "forbidden"),
    "/teapot": (answer(418), "http_error"),
    "/nowhere": (answer(302), "http_error"),
    "/broken-server": (answer(500), "server_error"),
    "/busy": (answer(429), "rate_limited"),
    "/page": (answer(body=b"<!DOCTYPE html><title>gone</title>"), "not_an_image"),
    "/nothing": (answer(), "empty"),
    "/cut": (answer(body=png(1)[:60], length=400, headers={"Connection": "close"}), "disconnected"),
    "/reset": ("reset", "disconnected"),
    "/no-http": (b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n", "disconnected"),
    "/hang": ("hang", "timed_out"),
    "/drip": ("drip 0.1", "timed_out"),
    "/large": (answer(length=10**9), "too_many_bytes"),
    "/brotli": (answer(body=b"x", headers={"Content-Encoding": "br"}), "unsupported_format"),
    "/not-gzip": (answer(body=b"plain", headers={"Content-Encoding": "gzip"}), "broken"),
    "/loop": (answer(302, headers={"Location": "/loop"}), "too_many_redirects"),
    "/ftp": (answer(302, headers={"Location": "ftp://a.example/b.png"}), "bad_url"),
    "/credentials": (
        answer(302, headers={"Location": "http://me:word@a.example/b.png"}),
        "bad_url",
    ),
    "/half-gzip": (
        answer(body=gzip.compress(png(3))[:-40], headers={"Content-Encoding": "gzip"}),
        "truncated",
    ),
    "/gzip": (answer(body=gzip.compress(png(3)), headers={"Content-Encoding": "GZIP"}), "ok"),
    "/deflate": (answer(body=zlib.compress(png(3)), headers={"Content-Encoding": "deflate"}), "ok"),
    "/none": (answer(body=png(3), headers={"Content-Encoding": "none"}), "ok"),
    "/utf-8": (answer(body=png(3), headers={"Content-Encoding": "UTF-8"}), "ok"),
    "/two-codes": (
        answer(
            body=gzip.compress(gzip.compress(png(3))), headers={"Content-Encoding": "gzip, gzip"}
        ),
        "unsupported_format",
    ),
    "/port": (answer(302, headers={"Location": "http://8.8.8.8:99999/"}), "bad_url"),
    "/part": (answer(206, body=png(3)[:50]), "truncated"),
    "/whole": (answer(206, body=png(3)), "ok"),
    "/moved": (answer(301, headers={"Location": "fine?x=1"}), "ok"),
}


def test_every_reply_has_its_reason(tmp_path, monkeypatch):
    with web_server(script=lambda path, n: REPLIES[path.split("?")[0]][0]) as server:
        urls = [server.url + path for path in REPLIES] + [
            "ftp://a.example/x",
            "http://",
            "http://u:p@a.example/",
            "x",
            "http://127.0.0.1:65536/",
            "http://127.0.0.1:0/",
        ]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server, max_per_host=8))
    assert {url.removeprefix(server.url): reason for url, reason in found.items()} == {
        path: reason for path, (_, reason) in REPLIES.items()
    } | dict.fromkeys(urls[len(REPLIES) :], "bad_url")
    again = {path for path, (_, reason) in REPLIES.items() if reason in fetcher.TRANSIENT}
    often = {"/loop": 6, "/busy": server.asked["/busy"]}
    assert all(server.asked[path] == often.get(path, 1 + (path in again)) for path in REPLIES)
    assert often["/busy"] > 4
    assert metrics["details"][f"{server.url}/missing"] == "HTTP 404"
    assert metrics["requests"] == sum(server.asked.values())
    assert metrics["links_asked"] == len(urls)


def test_requests_say_who_asks_and_carry_nothing_else(tmp_path, monkeypatch):
    with web_server(
        script=lambda path, n: answer(body=png(1), headers={"Set-Cookie": "id=7"})
    ) as server:
        agent = "gather/2 (me@lab.example)"
        fetch(
            tmp_path,
            [f"{server.url}/é a.png?q=ü#top", f"{server.url}/b"],
            monkeypatch,
            **allowing(server, user_agent=agent, max_per_host=1),
        )
    first, second = (head.split("\r\n") for head in server.heads)
    assert first[0] == "GET /%C3%A9%20a.png?q=%C3%BC HTTP/1.1"
    said = {f"Host: {server.host}", f"User-Agent: {agent}"}
    assert said | {"Accept-Encoding: identity", "Connection: close"} <= set(second)
    assert {line.split(":")[0] for line in second[1:] if line} == {
        "Host",
        "User-Agent",
        "Accept",
        "Accept-Encoding",
        "Connection",
    }


def test_bombs_and_endless_bodies_cost_little(tmp_path, monkeypatch):
    squeezed = answer(body=bomb(1000), headers={"Content-Encoding": "gzip"})
    replies = {"/endless": "endless", "/bomb": squeezed}
    with web_server(script=lambda path, n: replies.get(path)) as server:
        fetch(
            tmp_path / "before", [f"{server.url}/a"], monkeypatch, **allowing(server)
        )  # all is imported
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        urls = [f"{server.url}{path}" for path in (*replies, "/a")]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server, timeout_s=20.0))
    assert list(found.values()) == ["too_many_bytes", "too_many_bytes", "ok"]
    assert time.monotonic() - began < 30
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ) / 1024 < 100  # MiB: twice max_bytes, and room
    assert max(server.sent, 2 * metrics["bytes"]) < 60_000_000


def test_no_more_at_once_than_allowed_redirects_included(tmp_path, monkeypatch):
    with web_server(latency_s=0.05) as target, ExitStack() as stack:
        leads = {"script": lambda path, n: answer(302, headers={"Location": f"{target.url}{path}"})}
        servers = [stack.enter_context(web_server(**leads)) for _ in range(5)]
        urls = [f"{server.url}/{server.port}/{n}" for server in servers for n in range(4)]
        found, _ = fetch(tmp_path, urls, monkeypatch, **allowing(target, *servers, max_per_host=2))
        assert set(found.values()) == {"ok"}
        assert target.most_at_once == 2
        urls = [f"{target.url}/{n}" for n in range(12)]
        fetch(
            tmp_path / "all", urls, monkeypatch, **allowing(target, max_in_flight=3, max_per_host=9)
        )
        assert target.most_at_once == 3


def test_without_a_network_nothing_is_held_against_the_links(tmp_path, monkeypatch):
    monkeypatch.setattr(fetcher, "_SILENT_LINKS", 3)
    with web_server() as server:
        nobody = [
            f"127.0.0.{n}:{server.port}" for n in range(2, 12)
        ]  # the server listens on 127.0.0.1 alone
        urls = [f"http://{host}/{n}" for n in range(5) for host in nobody]
        with pytest.raises(
            InputError, match=r"no host could be reached.*127\.0\.0\.\d+.*unreachable.*Proxies"
        ):
            fetch(tmp_path, urls, monkeypatch, allow_hosts=nobody)
        with pytest.raises(InputError, match="no host could be reached"):  # nor when there are few
            fetch(tmp_path / "few", urls[:1], monkeypatch, allow_hosts=nobody)
        links = Links.of(
            tmp_path / "runs/journal/images.sqlite", begin(tmp_path, urls, monkeypatch).params
        )
        assert all(links.due(url, 30.0) for url in urls)
        # one that answers makes the others dead
        found, _ = fetch(
            tmp_path / "one",
            [*urls[:2], f"{server.url}/a"],
            monkeypatch,
            allow_hosts=[*nobody, server.host],
        )
    assert list(found.values()) == ["unreachable", "unreachable", "ok"]


def test_one_host_that_answers_late_shows_that_the_network_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(fetcher, "_SILENT_LINKS", 3)
    with web_server(latency_s=0.5) as slow:
        nobody = [f"127.0.0.{n}:{slow.port}" for n in range(2, 22)]
        urls = [f"{slow.url}/a", *(f"http://{host}/x" for host in nobody)]
        found, _ = fetch(tmp_path, urls, monkeypatch, allow_hosts=[*nobody, slow.host], retries=0)
    assert list(found.values()) == ["ok", *["unreachable"] * 20]


@pytest.mark.skipif(
    not os.environ.get("VISLIB_WEBDOCS"), reason="VISLIB_WEBDOCS names no folder of web documents"
)
def test_real_pages_over_http_are_those_of_the_mirror(tmp_path, monkeypatch):
    mirror = Path(os.environ["VISLIB_WEBDOCS"]) / "images"
    files = [
        p
        for p in sorted(mirror.rglob("*"))
        if p.suffix in {".png", ".jpg", ".jpeg", ".gif", ".webp"}
    ][::25]
    paths = {f"/{p.relative_to(mirror)}": p.read_bytes() for p in files}

    def script(path: str, n: int) -> bytes | str:
        if path.startswith("/to/"):
            return answer(302, headers={"Location": path.removeprefix("/to")})
        if sum(map(ord, path)) % 7 == 0 and n == 1:
            return answer(503, headers={"Retry-After": "0"})
        return (
            answer(body=paths[path])
            if path in paths
            else {"/hang": "hang", "/drip": "drip 0.1"}[path]
        )

    with web_server(latency_s=0.02, script=script) as server:
        urls = [f"{server.url}{'/to' * (n % 3 == 0)}{path}" for n, path in enumerate(paths)]
        found, _ = fetch(
            tmp_path / "web",
            [*urls, f"{server.url}/hang", f"{server.url}/drip"],
            monkeypatch,
            **allowing(server, max_per_host=16),
        )
    assert [url for url, reason in found.items() if reason != "ok"] == [
        f"{server.url}/hang",
        f"{server.url}/drip",
    ]
    fetch(
        tmp_path / "mirror",
        [url.replace("/to/", "/") for url in urls],
        monkeypatch,
        images_root=str(mirror),
    )
    stores = [tmp_path / name / "runs/demo/03_images/data/files" for name in ("web", "mirror")]
    web, local = ({p.name: p.read_bytes() for p in store.glob("*/*")} for store in stores)
    assert web == local
    assert len(web) > 15
