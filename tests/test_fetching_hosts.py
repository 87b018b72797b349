"""`vislib.fetching.hosts`: an answer about one link costs no other link, and who waits holds up
nobody else.
"""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from email.utils import formatdate

import pytest

from tests.test_fetching import allowing, fetch, impatient  # noqa: F401
from tests.web_server import answer, png, web_server
from vislib.fetching import hosts

ODD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
CUT = answer(body=png(1)[:60], length=400, headers={"Connection": "close"})
BAD = {"500": answer(500), "503": answer(503), "cut": CUT, "close": "close", "odd": ODD}


def test_links_that_fail_cost_no_other_link_of_their_host(tmp_path, monkeypatch):
    with ExitStack() as stack:
        script = [lambda path, n, bad=bad: bad if path < "/b" else None for bad in BAD.values()]
        servers = [stack.enter_context(web_server(script=each)) for each in script]
        paths = [f"/a{n}" for n in range(20)] + [f"/b{n}" for n in range(20)]
        urls = [server.url + path for server in servers for path in paths]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(*servers))
        assert all((reason == "ok") == ("/b" in url) for url, reason in found.items())
        assert set(found.values()) == {"ok", "server_error", "disconnected"}
        assert all(server.asked[f"/a{n}"] == 2 for server in servers for n in range(20))
        assert metrics["requests"] == 60 * len(servers)
        _, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(*servers))
        assert metrics["links_asked"] == 0  # none is due


def test_a_host_with_many_bad_links_takes_little_longer(tmp_path, monkeypatch):
    def seconds(folder: str, bad: Callable[[str], bool]) -> float:
        with web_server(
            latency_s=0.03, script=lambda path, n: answer(500) if bad(path) else None
        ) as server:
            urls = [f"{server.url}/{n}" for n in range(120)]
            began = time.monotonic()
            found, _ = fetch(tmp_path / folder, urls, monkeypatch, **allowing(server, retries=2))
            taken = time.monotonic() - began
        assert all((found[url] == "server_error") == bad(f"/{n}") for n, url in enumerate(urls))
        return taken

    monkeypatch.setattr(hosts, "_REST_S", 0.5)  # as it is used
    mixed = seconds("mixed", lambda path: int(path[1:]) * 7 % 10 < 3)
    good = seconds("good", lambda path: False)
    assert mixed < 4 * good + 10.0  # was 50 times as long; a machine may be loaded for one of them


def test_silent_links_are_no_dead_host_while_others_answer(tmp_path, monkeypatch):
    with web_server(script=lambda path, n: "hang" if path < "/b" else None) as server:
        urls = [f"{server.url}/a{n}" for n in range(8)] + [f"{server.url}/b{n}" for n in range(40)]
        found, _ = fetch(
            tmp_path, urls, monkeypatch, **allowing(server, timeout_s=3.0, max_per_host=8)
        )
    assert list(found.values()) == ["timed_out"] * 8 + ["ok"] * 40


@pytest.mark.parametrize("what", ["unreachable", "timed_out"])
def test_a_dead_host_is_left_alone_and_what_was_not_asked_comes_first_in_the_next_run(
    tmp_path, monkeypatch, what
):
    up = [False]
    with web_server(script=lambda path, n: None if up[0] else "hang") as dead, web_server() as live:
        host = (
            dead.host if what == "timed_out" else f"127.0.0.2:{dead.port}"
        )  # the server listens on 127.0.0.1
        urls = [f"http://{host}/{n}" for n in range(300)] + [f"{live.url}/a"]
        settings = {"allow_hosts": [host, live.host], "timeout_s": 2.0, "max_per_host": 16}
        found, metrics = fetch(tmp_path, urls, monkeypatch, **settings)
        reasons = list(found.values())
        assert reasons.pop() == "ok"
        assert dead.connections <= hosts._STRIKES + 16
        assert set(reasons) == {what, "host_failed"}
        assert hosts._STRIKES <= reasons.count(what) < hosts._STRIKES + 16
        detail = metrics["details"][urls[299]]
        assert detail.startswith(f"not asked, links in a row found no host, the last: {what}")
        if what == "timed_out":  # and is there again
            up[0] = True
            dead.at.clear()
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() + 2 * 86_400.0)  # all are due
            again, _ = fetch(tmp_path, urls, monkeypatch, **settings)
            assert set(again.values()) == {"ok"}
            failed = {url.removeprefix(dead.url) for url, reason in found.items() if reason == what}
            assert not failed & {path for _, path in dead.at[:200]}  # these come last


def test_a_name_that_is_gone_is_not_looked_up_for_each_link(tmp_path, monkeypatch):
    looked_up: list[str] = []

    system = socket.getaddrinfo

    def lookup(host: str, *args: object, **more: object) -> list[object]:
        if host != "gone.example":
            return system(host, *args, **more)
        looked_up.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with web_server() as live:
        urls = [f"http://gone.example/{n}" for n in range(50)]
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        for asked in (51, 0):
            found, metrics = fetch(
                tmp_path, [*urls, f"{live.url}/a"], monkeypatch, **allowing(live, max_per_host=1)
            )
            assert list(found.values()) == ["no_address"] * 50 + ["ok"]
            assert metrics["links_asked"] == asked
    assert len(looked_up) == hosts._STRIKES


def test_a_busy_host_is_given_its_time(tmp_path, monkeypatch):
    """It is left alone as long as it asks, in seconds or as a date; its other links come first
    then, and another host's go on meanwhile.
    """

    def script(path: str, n: int) -> bytes | None:
        asks = {
            "/0": (429, "3"),
            "/1": (503, formatdate(time.time() + 1.99, usegmt=True)),
        }  # dates are whole seconds
        return (
            answer(asks[path][0], headers={"Retry-After": asks[path][1]})
            if path in asks and n == 1
            else None
        )

    with web_server(script=script) as busy, web_server() as idle:
        urls = [f"{busy.url}/{n}" for n in range(5)] + [f"{idle.url}/{n}" for n in range(9)]
        found, _ = fetch(tmp_path, urls, monkeypatch, **allowing(busy, idle, max_per_host=1))
    assert set(found.values()) == {"ok"}
    assert [path for _, path in busy.at] == [f"/{n}" for n in (0, 1, 2, 3, 4, 0, 1)]
    times = [when for when, _ in busy.at]
    assert 3.0 <= times[1] - times[0] < 30.0
    assert 0.9 < times[2] - times[1] < 30.0
    assert idle.at[-1][0] < times[1]


def test_a_rate_limit_loses_nothing(tmp_path, monkeypatch):
    """A server that takes 20 requests a second and says no more than 429."""
    times: list[float] = []

    def script(path: str, n: int) -> bytes | None:
        recent = [t for t in times if time.monotonic() - t < 0.25]
        if len(recent) >= 5:
            return answer(429)
        times.append(time.monotonic())
        return None

    monkeypatch.setattr(hosts, "_SLOWEST_S", 1.0)
    with web_server(script=script) as server:
        found, _ = fetch(
            tmp_path,
            [f"{server.url}/{n}" for n in range(30)],
            monkeypatch,
            **allowing(server, retries=4),
        )
    assert set(found.values()) == {"ok"}


def test_a_slow_host_delays_its_own_links_alone(tmp_path, monkeypatch):
    with (
        web_server(latency_s=0.8) as slow,
        web_server(latency_s=0.01) as fast,
        web_server() as other,
    ):
        urls = [f"{slow.url}/{n}" for n in range(18)] + [
            f"{s.url}/{n}" for n in range(40) for s in (fast, other)
        ]
        found, _ = fetch(
            tmp_path,
            urls,
            monkeypatch,
            **allowing(slow, fast, other, max_in_flight=6, max_per_host=3),
        )
    assert set(found.values()) == {"ok"}
    assert max(s.most_at_once for s in (slow, fast, other)) == 3
    ended = max(fast.at[-1][0], other.at[-1][0])
    assert sum(when < ended for when, _ in slow.at) < 12  # of 18


def test_too_many_requests_for_a_while_lose_nothing(tmp_path, monkeypatch):
    """Without a word of when to come back: the host is asked now and then, and all come in the
    end.
    """
    began = time.monotonic()
    monkeypatch.setattr(hosts, "_PATIENCE_S", 30.0)
    with web_server(
        script=lambda path, n: answer(429) if time.monotonic() - began < 2.0 else None
    ) as server:
        urls = [f"{server.url}/{n}" for n in range(80)]
        found, _ = fetch(tmp_path, urls, monkeypatch, **allowing(server, retries=0))
    assert set(found.values()) == {"ok"}
    assert sum(server.asked.values()) < 80 + 40


def test_a_host_that_never_has_time_is_asked_by_the_next_run(tmp_path, monkeypatch):
    open_now = [False]
    with (
        web_server(script=lambda path, n: None if open_now[0] else answer(429)) as server,
        web_server() as other,
    ):
        urls = [f"{server.url}/{n}" for n in range(200)] + [f"{other.url}/a"]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server, other))
        counts = {
            reason: list(found.values()).count(reason)
            for reason in ("ok", "rate_limited", "host_failed")
        }
        assert counts["ok"] == 1
        assert 3 <= counts["rate_limited"] == 200 - counts["host_failed"] < 100
        assert "nothing but rate_limited: HTTP 429" in metrics["details"][urls[199]]
        open_now[0] = True
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server, other))
        assert metrics["links_asked"] == counts["host_failed"]
        assert list(found.values()).count("ok") == 1 + counts["host_failed"]


def test_throttled_hosts_hold_up_nobody(tmp_path, monkeypatch):
    """Twelve hosts that ask for a second each, four requests at once: the others' links go on
    meanwhile.
    """
    monkeypatch.setattr(hosts, "_PATIENCE_S", 60.0)
    busy, began = answer(429, headers={"Retry-After": "1"}), time.monotonic()
    with ExitStack() as stack:
        script = {"script": lambda path, n: busy if time.monotonic() - began < 4.0 else None}
        throttled = [stack.enter_context(web_server(**script)) for _ in range(12)]
        other = stack.enter_context(web_server(latency_s=0.01))
        urls = [f"{server.url}/{n}" for n in range(6) for server in throttled]
        urls += [f"{other.url}/{n}" for n in range(5)]
        found, _ = fetch(
            tmp_path, urls, monkeypatch, **allowing(*throttled, other, max_in_flight=4)
        )
        assert set(found.values()) == {"ok"}
        last = max(server.at[0][0] for server in throttled)  # the first request to the last of them
        assert last < other.at[0][0] < other.at[-1][0] < began + 4.0
