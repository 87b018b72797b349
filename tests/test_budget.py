"""The ceiling, against a real server on loopback that bills as much as it may, and what twins and
failures cost.
"""

import random
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.openai_server import KEY, MODEL, completion, error, openai_server
from vislib.engines import Request
from vislib.engines.ask import ask_all
from vislib.engines.budget import Budget, most_tokens
from vislib.engines.openai import OpenAIChat
from vislib.runs import Run
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.progress import Progress
from vislib.runs.stage import Stage, read_record

PRICES = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}
SETTINGS = {
    "engine": "openai",
    "model": MODEL,
    "base_url": "",
    "max_in_flight": 8,
    "requests_per_minute": 0,
    "tokens_per_minute": 0,
    "timeout_s": 20.0,
    "max_spend_usd": 0.0,
    "usd_per_million_cached_tokens": -1.0,
    "prices_of": "2026-11-21",
    "reasoning_effort": "default",
    "model_revision": "",
    "same_model": False,
    "max_failure_rate": 0.0,
    "max_drop_rate": 1.0,
    "replay": False,
} | PRICES


class Ground:
    """The part of a run that asking uses."""

    def __init__(self, folder: Path, **settings) -> None:
        self.folder, self.params, self.used = (
            folder,
            SimpleNamespace(**SETTINGS | settings),
            Counter(),
        )
        self.metrics = {}

    def journal(self, name):
        return Journal(self.folder / f"{name}.sqlite")

    def progress(self, total, unit):
        self.shown = Progress(total, unit)
        return self.shown

    def usage(self, **amounts):
        self.used.update(amounts)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(OpenAIChat, "backoff_s", 0.01)


@pytest.fixture
def server():
    with openai_server() as scripted:
        yield scripted


def picture(folder, size=(900, 600)):
    Image.effect_noise(size, 90).convert("RGB").save(folder / "a.png")
    return {"image_id": "i", "image_path": folder / "a.png", "image_side": 300, "image_size": size}


def asking(n, **settings):
    chance = random.Random(n)
    texts = [f"question {i} " + "é" * chance.randrange(900) for i in range(n)]
    return [
        Request(id=f"s{i}", prompt=t, prompt_sha="t", max_tokens=50, **settings)
        for i, t in enumerate(texts)
    ]


def ask(ground, server, requests):
    ground.params.base_url = server.url
    ask_all(ground, OpenAIChat(ground.params), lambda: iter(requests))


class Biller:
    """A script that bills every request `share` of all that it may cost, and keeps the sum."""

    def __init__(self, image_tokens=0, share=1.0):
        self.usd, self.image_tokens, self.share, self._lock = (
            0.0,
            image_tokens,
            share,
            threading.Lock(),
        )

    def __call__(self, prompt, times):
        used = (int(self.share * (len(prompt.encode()) + 256 + self.image_tokens)), 50)
        with self._lock:
            self.usd += (2 * used[0] + 10 * used[1]) / 1e6
        return 200, completion("An answer.", tokens=used), {}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("ceiling", [0.0021, 0.01, 0.05])
def test_never_above_the_ceiling_when_all_is_billed_that_may_be(tmp_path, server, images, ceiling):
    server.script = Biller(80 if images else 0)  # 300 x 200 px
    requests = asking(60, **(picture(tmp_path) if images else {}))
    ground = Ground(tmp_path, max_spend_usd=ceiling)
    with pytest.raises(InputError, match="Raise max_spend_usd to go on"):
        ask(ground, server, requests)
    largest = max(Budget(ground.params).bound(request) for request in requests)
    assert ceiling - largest < server.script.usd <= ceiling
    assert ground.used["usd"] == pytest.approx(server.script.usd)
    asked, ground.params.max_spend_usd = len(server.bodies), 1.0
    ask(ground, server, requests)
    assert server.script.usd <= 1.0
    assert len(server.bodies) == 60 > asked


def test_a_server_that_bills_more_than_was_thought_is_found_out_by_its_first_answer(
    tmp_path, server
):
    server.script = Biller(share=3.0)
    ground = Ground(tmp_path, max_spend_usd=0.05)
    with pytest.raises(InputError, match="Raise max_spend_usd"):
        ask(
            ground,
            server,
            [
                Request(id=f"{i}", prompt=f"{i:999}", prompt_sha="t", max_tokens=50)
                for i in range(40)
            ],
        )
    assert 0.04 < server.script.usd <= 0.05


def test_twins_are_paid_asked_and_counted_once(tmp_path, server):
    server.script = Biller()
    ground, requests = Ground(tmp_path, max_spend_usd=0.5), asking(20)
    twins = requests + requests[::-1] + asking(40)
    ask(ground, server, twins)
    assert (ground.shown.done, ground.shown.total, len(server.bodies)) == (60, 60, 60)
    again = Ground(
        tmp_path, max_spend_usd=server.script.usd + 0.005
    )  # counted twice, it would be spent already
    ask(again, server, twins + asking(41)[:1])
    assert (again.shown.done, again.shown.total, len(server.bodies)) == (1, 1, 61)


def test_what_is_cached_or_written_or_in_batches_has_its_price():
    params = SimpleNamespace(
        **SETTINGS | {"usd_per_million_cached_tokens": 0.2, "model": "gpt-6-sol"}
    )
    budget = Budget(params)
    assert budget.cost(1_000_000, 100_000) == pytest.approx(3.0)
    assert budget.cost(1_000_000, 0, 600_000) == pytest.approx(0.92)
    assert budget.cost(1_000_000, 0, 0, 1_000_000) == pytest.approx(
        2.5
    )  # this provider charges writes to its cache
    assert Budget(params, share=0.5).cost(1_000_000, 100_000, 600_000) == pytest.approx(0.96)
    (request,) = asking(1)
    bound = (2.5 * most_tokens(request) + 10 * 50) / 1e6
    assert budget.bound(request) == pytest.approx(bound)
    assert Budget(params, share=0.5).bound(request) == pytest.approx(bound / 2)


@pytest.mark.parametrize(
    ("size", "side", "tokens"),
    [((900, 600), 300, 80), ((900, 600), 0, 720), ((90, 60), 300, 8), ((0, 0), 300, 1500)],
)
def test_an_image_counts_by_the_pixels_that_are_sent(tmp_path, size, side, tokens):
    (request,) = asking(1, **picture(tmp_path) | {"image_size": size, "image_side": side})
    assert most_tokens(request) - most_tokens(asking(1)[0]) == tokens


@pytest.mark.parametrize("day", ["21.11.2026", "2026-13-01", "now"])
def test_a_malformed_date_of_prices_is_refused(day):
    with pytest.raises(InputError, match=r"prices_of is .*write the day .* as 2026-11-21"):
        Budget(SimpleNamespace(**SETTINGS | {"prices_of": day}))


def test_the_record_of_a_failed_attempt_tells_what_it_paid(tmp_path, server, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path))
    fields = {"run_dir": "runs/paid", "variant": "", "seed": 0}
    stage = Stage(
        notebook="06_captioning", schema={}, values=SETTINGS | fields | {"base_url": server.url}
    )
    run = Run(stage, stage.open_partial("key", {"hashes": {}, "inputs": {}}), [])
    broken = error(400, "no")
    server.script = lambda prompt, times: (
        broken if "question 7 " in prompt else (200, completion("An answer."), {})
    )
    with pytest.raises(InputError, match="1 of"):
        ask_all(run, OpenAIChat(run.params), lambda: iter(asking(20)))
    stage.fail("InputError: stopped")
    record = read_record(stage.partial)
    assert (record["status"], record["reason"], record["key"]) == (
        "failed",
        "InputError: stopped",
        "key",
    )
    paid = len(run.journal("openai"))
    assert record["usage"] == {
        "tokens_in": 100 * paid,
        "tokens_cached": 0,
        "tokens_out": 20 * paid,
        "usd": pytest.approx(paid * 400e-6),
    }


@pytest.mark.parametrize("silent", [True, False])
def test_the_ceiling_holds_across_runs_when_nobody_tells_the_cost(tmp_path, server, silent):
    """Replies without usage, or connections that end after the request was sent: the bound counts,
    also later.
    """
    told = {**completion("An answer."), "usage": None}
    server.script = lambda prompt, times: (200, told, {}) if silent else (0, "", {})
    for _ in range(3):
        with pytest.raises(InputError, match=r"max_spend_usd is 0\.01|requests failed"):
            ask(Ground(tmp_path, max_spend_usd=0.01, max_failure_rate=1.0), server, asking(60))
    bounds = [Budget(SimpleNamespace(**SETTINGS)).bound(request) for request in asking(60)]
    assert len(server.bodies) * min(bounds) <= 0.01


def test_a_ceiling_needs_both_prices(tmp_path):
    with pytest.raises(InputError, match="prices are 2 and 0; set both"):
        OpenAIChat(Ground(tmp_path, max_spend_usd=1.0, usd_per_million_output_tokens=0.0).params)


@pytest.mark.parametrize("key", ["schlüssel-0123456789", "key-0123456789\r"])
def test_a_key_that_cannot_be_one_is_named(tmp_path, server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY holds"):
        ask(Ground(tmp_path), server, asking(2))
