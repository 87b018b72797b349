"""`vislib.fetching.links`: what came is never asked for again, what failed when it is due, and
opting out holds.
"""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.test_fetching import allowing, fetch
from tests.test_images import begin
from tests.web_server import Seen, answer, png, web_server
from vislib import images
from vislib.fetching.fetcher import fetch_all
from vislib.fetching.links import Links
from vislib.runs import short_hash, tables
from vislib.runs.journal import Journal

ROOT = Path(__file__).resolve().parents[1]


def noise() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 90).save(stream, "PNG")
    return stream.getvalue()


OPT_OUTS = [
    ("noai", True),
    ("index, NoImageAI", True),
    ("none", True),
    ("all", False),
    ("nofollow,noarchive", False),
    ("otherbot: noai", False),
    ("vislib: noai", True),
    ("otherbot: nofollow, noai", False),
    ("*: noindex", True),
    ("otherbot: noai, vislib: noindex", True),
    ("noindex, otherbot: noai", True),
    ("max-snippet: 5, noai", True),
    ("noai;noimageai", True),
    ('"noai"', True),
    ("noindex nofollow", True),
    ("googlebot: noindex noai", False),
    ("max-image-preview: none", False),
    ("max-snippet: 5 noai", True),
    ("otherbot: index; noai", False),
    ("unavailable_after: Saturday, 25-Jun-10 15:00:00 PST", False),
    ("unavailable_after: Saturday, 25-Jun-10 15:00:00 PST, noai", True),
]


def test_opting_out_is_respected(tmp_path, monkeypatch):
    headers = [[("X-Robots-Tag", "all"), ("x-robots-tag", value)] for value, _ in OPT_OUTS]
    with web_server(
        script=lambda path, n: answer(body=png(1), headers=headers[int(path[1:])])
    ) as server:
        urls = [f"{server.url}/{n}" for n in range(len(OPT_OUTS))]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server))
        assert [reason == "opted_out" for reason in found.values()] == [out for _, out in OPT_OUTS]
        assert metrics["details"][urls[0]] == "X-Robots-Tag: noai"
        refused = sum(out for _, out in OPT_OUTS)
        found, metrics = fetch(
            tmp_path, urls, monkeypatch, **allowing(server, opt_out=["nofollow"])
        )
        assert metrics["links_asked"] == refused  # another rule, another answer
        assert [url for url, reason in found.items() if reason == "opted_out"] == [
            urls[2],
            urls[4],
            urls[14],
        ]
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server))
        assert (
            metrics["links_asked"] == 0
        )  # what came under the other rule still says who opted out
        assert [reason == "opted_out" for reason in found.values()] == [out for _, out in OPT_OUTS]


def test_opting_out_on_the_way_is_respected_and_remembered(tmp_path, monkeypatch):
    moved = answer(302, headers={"Location": "/fine", "X-Robots-Tag": "noai"})
    script = {"/moved": moved, "/gone": answer(404, headers={"X-Robots-Tag": "noindex"})}
    with web_server(script=lambda path, n: script.get(path)) as server:
        urls = [server.url + path for path in script]
        for opt_out, reason in ((["noai"], "opted_out"), ([], "ok"), (["noai"], "opted_out")):
            found, _ = fetch(
                tmp_path,
                [*urls, f"{server.url}/a"],
                monkeypatch,
                **allowing(server, opt_out=opt_out),
            )
            assert list(found.values()) == [reason, "not_found", "ok"]
        assert server.asked["/fine"] == 1


def test_more_patience_asks_again_what_timed_out(tmp_path, monkeypatch):
    hang = [True]
    with (
        web_server(script=lambda path, n: "hang" if hang[0] else None) as server,
        web_server() as quick,
    ):
        for timeout_s, reason in ((2.0, "timed_out"), (2.0, "timed_out"), (20.0, "ok")):
            hang[0] = reason != "ok"
            found, _ = fetch(
                tmp_path,
                [f"{server.url}/a", f"{quick.url}/a"],
                monkeypatch,
                **allowing(server, quick, timeout_s=timeout_s, retries=0),
            )
            assert list(found.values()) == [reason, "ok"]
        assert server.asked["/a"] == 2


def test_a_link_is_asked_again_when_it_is_due(tmp_path, monkeypatch):
    script = {
        "/gone": answer(404),
        "/down": answer(500),
        "/large": answer(body=noise()),
        "/fine": None,
    }
    days, now = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + days[0] * 86_400.0)
    with web_server(script=lambda path, n: script[path]) as server:
        urls = [server.url + path for path in script]
        run = begin(
            tmp_path,
            urls,
            monkeypatch,
            **allowing(server, images_root="", retries=0, policy="ignore"),
        )
        shards = run.sql(images.addresses(), into="links", samples=run.table("samples"))
        usual = dict(vars(run.params))

        def asked(after: float, **parameters: object) -> set[str]:
            days[0] = after
            server.asked.clear()
            vars(run.params).update(usual | parameters)
            assert fetch_all(run, Links.of(run.journal_path("images"), run.params), shards) == len(
                server.asked
            )
            return set(server.asked)

        assert asked(0.0, max_bytes=500) == set(script)
        assert asked(0.5, max_bytes=500) == set()
        assert asked(0.5) == {"/large"}  # it was too large by the other rule
        assert asked(1.1) == {"/down"}
        assert asked(2.0) == set()
        assert asked(30.1) == {"/down", "/gone"}
        assert asked(30.1, user_agent="other/1") == set()
        assert asked(30.1, retry_days=0.0) == {"/down", "/gone"}
        (tmp_path / "runs/journal/images" / short_hash(png(5))[:2] / short_hash(png(5))).unlink()
        script["/fine"] = answer(body=png(77))  # comes back another one
        assert asked(30.2) == {"/fine"}
        assert asked(30.2) == set()
        assert Links.of(run.journal_path("images"), run.params)(urls[3]).read_bytes() == png(77)
        run.close()


def test_bytes_are_shared_between_sets_and_runs(tmp_path, monkeypatch):
    with web_server() as server:
        urls = [f"{server.url}/{n}" for n in range(5)]
        fetch(tmp_path, urls, monkeypatch, **allowing(server))
        data = tmp_path / "runs/demo/03_images/data"
        (file,) = data.glob("files/*/*")  # five links, one picture
        stored = tmp_path / f"runs/journal/images/{file.stem[:2]}/{file.stem}"
        assert stored.samefile(file)
        assert stored.read_bytes() == file.read_bytes()
        assert sum(server.asked.values()) == 5


STAGE = """
import os, pathlib, sys, pytest
from tests.test_images import begin, collect_images
run = begin(pathlib.Path(sys.argv[1]), sys.argv[3:], pytest.MonkeyPatch(), images_root="", policy="ignore", max_in_flight=4,
            max_per_host=4, allow_hosts=[sys.argv[2]], run_dir="runs/" + os.environ["SET"])
collect_images(run)
run.finish()
"""  # noqa: E501


def stage(folder: Path, server: Seen, urls: list[str], name: str = "demo") -> subprocess.Popen:
    command = [sys.executable, "-c", STAGE, str(folder), server.host, *urls]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SET": name},
    )


def test_a_run_that_is_ended_goes_on_where_it_was(tmp_path):
    """Interrupted, it journals what is in flight; killed, it asks at most that again."""
    with web_server(latency_s=0.15) as server:
        urls = [f"{server.url}/{n}" for n in range(240)]
        for number, after in ((signal.SIGINT, 7), (signal.SIGKILL, 15)):
            ended = stage(tmp_path, server, urls)
            while sum(server.asked.values()) < after:
                time.sleep(0.01)
            ended.send_signal(number)
            _, said = ended.communicate(timeout=300)
            assert sum(server.asked.values()) < len(urls) - 8, (
                "the signal came, and the stage went on"
            )
            if number == signal.SIGINT:
                assert "KeyboardInterrupt" in said
                assert len(Journal(tmp_path / "runs/journal/images.sqlite")) == sum(
                    server.asked.values()
                )
        server.latency_s = 0
        last = stage(tmp_path, server, urls)
        assert last.wait(timeout=300) == 0, last.stderr.read()
        assert sum(server.asked.values()) <= len(urls) + 4
    ledger = tables.read_rows(tmp_path / "runs/demo/03_images/data/images")
    assert [row["status"] for row in ledger] == ["ok"] * 240


def test_two_sets_at_once_ask_each_link_once(tmp_path):
    """The second waits for the first and says so; then all is known."""
    with web_server(latency_s=3) as server:  # longer than a process takes to start
        urls = [f"{server.url}/{n}" for n in range(24)]
        first = stage(tmp_path, server, urls)
        while not server.asked:
            time.sleep(0.01)
        shutil.copytree(tmp_path / "runs/demo/02_filtering", tmp_path / "runs/other/02_filtering")
        second = stage(tmp_path, server, urls, "other")
        waits = any(
            f"journal/images: in use by process {first.pid}; waiting" in line
            for line in second.stderr
        )
        server.latency_s = 0
        said = [run.communicate(timeout=300)[1] for run in (first, second)]
    assert waits
    assert [first.returncode, second.returncode] == [0, 0], said
    assert sum(server.asked.values()) == len(urls)


def test_a_disk_that_is_full_ends_the_run_and_is_held_against_no_link(tmp_path, monkeypatch):
    def full(self: Links, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with web_server() as server:
        urls = [f"{server.url}/{n}" for n in range(8)]
        with monkeypatch.context() as patch:
            patch.setattr(Links, "keep", full)
            with pytest.raises(OSError, match="No space left"):
                fetch(tmp_path, urls, patch, **allowing(server))
            time.sleep(0.5)  # what is in flight ends by itself
        found, metrics = fetch(tmp_path, urls, monkeypatch, **allowing(server))
    assert set(found.values()) == {"ok"}
    assert metrics["links_asked"] == len(urls)
