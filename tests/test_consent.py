"""What hosts say of use by machines: robots.txt, TDMRep and Content-Usage, as recorded and as
respected, from a real server.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_fetching import allowing, fetch
from tests.web_server import answer, png, web_server
from vislib.fetching import consent
from vislib.runs import tables

ROBOTS = """
User-agent: GPTBot
Crawl-delay: 9
user-agent:ccbot # both
Disallow: /

Sitemap: https://a.example/map.xml
User-agent: *
Crawl-delay: 3
Disallow: /private
Allow: /private/open*.png$
Disallow:
Content-Usage: /paid train-ai=n
Content-Usage: search=y
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/a.png", True),
        ("/private/a.png", False),
        ("/private/open-1.png", True),
        ("/private/open-1.png?x=1", False),
        ("/Private/a.png", True),
    ],
)
def test_the_longest_rule_of_robots_txt_decides(path: str, allowed: bool) -> None:
    everyone = consent.rules_of(ROBOTS, "*")
    assert consent.allows(everyone, path) == allowed
    assert not consent.allows(consent.rules_of(ROBOTS, "gptbot"), path)
    assert not consent.allows(consent.rules_of(ROBOTS, "ccbot"), path)
    assert consent.allows(everyone[-1:], path)
    assert consent.groups("\ufeff<!doctype html>") == {}


def test_strangers_patterns_take_no_time() -> None:
    slow = "/" + "*a" * 40 + "b"
    assert not consent.fits(slow, "/" + "a" * 4000)
    assert consent.fits("/*.png$", "/a.png.png")
    assert consent.fits("/a[1]?b", "/a[1]?b=c")
    assert not consent.fits("/a[1]", "/a1")
    lines = "User-agent: a\n# x\n\n" * 20_000 + "Disallow: /"
    assert consent.rules_of(lines, "a")[0] == ("disallow", "/")
    assert not consent.rules_of(lines[:-11], "a")


def test_thousands_of_agents_share_their_rules():
    agents = "".join(f"User-agent: agent{n}\n" for n in range(9000))
    text = (agents + "Disallow: /a\n" * 9000) * 2
    found = consent.groups(text)
    assert len(found) == 9000
    lists = {id(rules): rules for given in found.values() for rules in given}
    assert len(lists) == 2
    assert sum(map(len, lists.values())) == len(consent.rules_of(text, "agent7"))


def said(url: str, robots: str = "", tdmrep: str = "", **headers: str) -> dict[str, str]:
    texts = {"robots.txt": robots, "tdmrep.json": tdmrep}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return consent.facts(url, "vislib", lambda at: texts[at.split("/")[-1]], given)


def test_facts_name_agents_reservations_usage_and_licence() -> None:
    url = "http://a.example/paid/b.png?c"
    assert set(said(url).values()) == {""}
    found = said(url, ROBOTS)
    assert found["robots"] == "ccbot gptbot"
    assert found["usage"] == "/paid train-ai=n search=y"
    assert said("http://a.example/b.png", ROBOTS)["usage"] == "search=y"
    rules = [
        {"location": "/paid/*.jpg", "tdm-reservation": 0},
        {"location": "/paid/", "tdm-reservation": 1, "tdm-policy": "https://a.example/p.json"},
        {"location": "/", "tdm-reservation": 0},
    ]
    assert said(url, tdmrep=json.dumps(rules))["tdm"] == "1"
    assert said("http://a.example/b.png", tdmrep=json.dumps(rules))["tdm"] == "0"
    assert said(url, tdmrep=json.dumps(rules), tdm_reservation="0")["tdm"] == "0"
    for broken in ("<html>", "{}", "[1]", '[{"location": 3}]', "null"):
        assert said(url, tdmrep=broken)["tdm"] == ""
    link = '<style.css>; rel=preload, <https://creativecommons.org/licenses/by/4.0/>; rel="license"'
    assert said(url, link=link)["licence"] == "https://creativecommons.org/licenses/by/4.0/"


@pytest.mark.parametrize(
    ("facts", "refused"),
    [
        ({"robots": "gptbot"}, "robots: gptbot"),
        ({"tdm": "1"}, "tdm: 1"),
        ({"tdm": "0", "usage": "search=n, train-ai=y"}, ""),
        ({"usage": "search=y, train-ai = n"}, "usage: search=y, train-ai = n"),
        ({"usage": "/a train-ai=n"}, "usage: /a train-ai=n"),
        ({"x_robots": "noai", "licence": "https://x"}, ""),
    ],
)
def test_what_refuses_training(facts: dict[str, str], refused: str) -> None:
    assert consent.refusal(said("http://a.example/b.png") | facts) == refused


PAGES: dict[str, bytes] = {
    "/robots.txt": answer(
        body=b"User-agent: *\nDisallow: /shut\n", headers={"X-Robots-Tag": "noindex"}
    ),
    "/.well-known/tdmrep.json": answer(
        body=b'[{"location": "/held*", "tdm-reservation": 1, "tdm-policy": "/p"}]'
    ),
    "/paid.png": answer(body=png(3), headers={"Content-Usage": "train-ai=n"}),
    "/free.png": answer(
        body=png(4),
        headers={"Link": "<https://creativecommons.org/publicdomain/zero/1.0/>; rel=license"},
    ),
    "/noai.png": answer(body=png(5), headers={"X-Robots-Tag": "noai"}),
    "/moved.png": answer(302, headers={"Location": "/free.png", "tdm-reservation": "1"}),
}
NAMES = ("shut.png", "held.png", "paid.png", "free.png", "noai.png", "moved.png", "plain.png")


def collect(folder: Path, monkeypatch: Any, **parameters: Any) -> tuple[dict[str, str], Any, Any]:
    """What became of each link, what stands in `consent`, and what the server was asked."""
    with web_server(script=lambda path, n: PAGES.get(path)) as server:
        urls = [f"{server.url}/{name}" for name in NAMES]
        found, _ = fetch(
            folder, [*urls, "no address"], monkeypatch, **allowing(server), **parameters
        )
        del found["no address"]
    written = tables.read_rows(folder / "runs/demo/03_images/data/consent")
    facts = {row.pop("image_url").split("/")[-1]: row for row in written}
    said = {name: {k: v for k, v in row.items() if v} for name, row in facts.items()}
    return {url.split("/")[-1]: reason for url, reason in found.items()}, said, server.asked


def test_recording_notes_what_is_said_and_keeps_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, facts, asked = collect(tmp_path, monkeypatch, policy="record")
    assert found == dict.fromkeys(NAMES, "ok") | {"noai.png": "opted_out"}
    assert facts == {
        "shut.png": {"robots": "vislib ccbot gptbot google-extended"},
        "held.png": {"tdm": "1"},
        "paid.png": {"usage": "train-ai=n"},
        "free.png": {"licence": "https://creativecommons.org/publicdomain/zero/1.0/"},
        "moved.png": {"tdm": "1"}
        | {"licence": "https://creativecommons.org/publicdomain/zero/1.0/"},
    }
    assert (asked["/robots.txt"], asked["/.well-known/tdmrep.json"]) == (1, 1)


def test_respecting_asks_for_no_picture_that_its_host_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, facts, asked = collect(tmp_path, monkeypatch, policy="respect")
    kept = {"free.png", "plain.png"}
    assert {name for name, reason in found.items() if reason == "ok"} == kept
    assert {found[name] for name in set(NAMES) - kept} == {"opted_out"}
    assert not asked["/shut.png"] + asked["/held.png"]
    assert set(facts) == {"free.png"}
    dropped = tables.read_rows(tmp_path / "runs/demo/03_images/data/dropped")
    details = {row["id"].split("/")[-1]: row["detail"] for row in dropped}
    assert details["held.png"] == "tdm: 1"
    assert details["paid.png"] == "usage: train-ai=n"


def test_ignoring_asks_hosts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, facts, asked = collect(tmp_path, monkeypatch, policy="ignore")
    assert found == dict.fromkeys(NAMES, "ok") | {"noai.png": "opted_out"}
    assert facts == {}
    assert not asked["/robots.txt"]
