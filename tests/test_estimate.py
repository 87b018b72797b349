"""What asking will take, held against what it then took on a loopback server."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.openai_server import completion
from tests.test_budget import SETTINGS, Ground, _environment, ask, server  # noqa: F401
from vislib.engines import Request
from vislib.engines.ask import _Asking
from vislib.engines.budget import Budget, Estimate
from vislib.engines.openai import OpenAIChat
from vislib.media.tokenization import count_tokens, load_tokenizer

WORDS = Path(__file__).read_text().split()


def asking(n, sha="t", **settings):
    texts = [f"{sha} {i} " + " ".join(WORDS[i % 50 : 20 + i * 7 % 300]) for i in range(n)]
    return [
        Request(id=f"s{i}", prompt=t, prompt_sha=sha, max_tokens=800, **settings)
        for i, t in enumerate(texts)
    ]


def surveyed(ground, requests, **settings):
    engine = OpenAIChat(SimpleNamespace(**{**vars(ground.params), **settings}))
    survey = _Asking(ground, engine, ground.journal(engine.journal))
    survey.survey(iter(requests))
    return survey.estimate


def test_without_an_answer_a_tokenizer_counts_and_the_guess_is_said(tmp_path):
    requests = asking(600)
    estimate = surveyed(Ground(tmp_path), requests + requests[:100])  # twins are one request
    figures = estimate.figures()
    true = sum(
        count_tokens(load_tokenizer("mistral-common"), [request.prompt for request in requests])
    )
    assert figures["tokens_in"] == pytest.approx(true, rel=0.05)
    assert (figures["requests"], figures["tokens_out"], figures["hours"]) == (600, 600 * 400, 0)
    assert figures["usd"] == pytest.approx((2 * figures["tokens_in"] + 10 * 240_000) / 1e6)
    assert figures["most_usd"] == pytest.approx((2 * figures["tokens_in"] + 10 * 600 * 800) / 1e6)
    for said in (
        "600 requests",
        "240,000 out",
        "no answer yet",
        "prices of 2026-11-21",
        "hours unknown",
        "limit: 20",
    ):
        assert said in estimate.line()


def test_images_count_by_their_pixels_at_the_size_sent_and_the_guess_is_said(tmp_path):
    with_image = {"image_id": "i", "image_size": (2000, 1000), "image_side": 768}
    texts, images = (
        surveyed(Ground(tmp_path), asking(50, **more)).figures()["tokens_in"]
        for more in ({}, with_image)
    )
    assert images - texts == 50 * 394  # 768 x 384
    line = surveyed(Ground(tmp_path), asking(3, **with_image)).line()
    assert "400 out each and a token per 750 px of an image is a guess" in line


def test_after_a_trial_its_answers_tell(tmp_path, server, capsys):  # noqa: F811
    used = {
        "prompt_tokens": 900,
        "completion_tokens": 37,
        "prompt_tokens_details": {"cached_tokens": 600},
    }
    server.script = lambda prompt, times: (200, completion("An answer.") | {"usage": used}, {})
    ground, requests = (
        Ground(tmp_path, usd_per_million_cached_tokens=0.2),
        [*asking(30), *asking(40, "other")],
    )
    server.latency_s = 0.05
    ask(ground, server, requests[:20])
    assert re.search(
        r"^to ask: 20 requests · .*no answer yet", capsys.readouterr().out, re.MULTILINE
    )
    estimate = surveyed(ground, requests)
    figures = estimate.figures()
    assert figures["answers"] == 20
    assert figures["tokens_out"] == 10 * 37 + 40 * 400
    assert figures["tokens_cached"] == 10 * 600
    assert 0.05 * 50 / 8 < figures["hours"] * 3600 < 20 * 0.05 * 50 / 8
    assert "% of it cached" in estimate.line()
    assert "as in 20 answers; no answer yet" in estimate.line()
    ask(ground, server, requests)
    assert surveyed(ground, requests).figures()["requests"] == 0
    elsewhere = surveyed(ground, asking(50))  # 30 answered, of this prompt: 20 to go, and no guess
    assert "guess" not in elsewhere.line()


def test_what_is_estimated_is_what_it_costs(tmp_path, server):  # noqa: F811
    tokenizer = load_tokenizer("mistral-common")
    server.script = lambda prompt, times: (
        200,
        completion(
            "yes", tokens=(count_tokens(tokenizer, [prompt])[0] + 9, 250 + len(prompt) % 300)
        ),
        {},
    )
    ground, requests = Ground(tmp_path), asking(300)
    before = surveyed(ground, requests, base_url=server.url).figures()["usd"]
    ask(ground, server, requests[::15])
    after_trial = ground.used["usd"] + surveyed(ground, requests).figures()["usd"]
    ask(ground, server, requests)
    assert before == pytest.approx(ground.used["usd"], rel=0.15)
    assert after_trial == pytest.approx(ground.used["usd"], rel=0.08)


def test_hours_follow_the_slowest_limit(tmp_path):
    def hours(**limits):
        return surveyed(Ground(tmp_path), asking(600), **limits).figures()["hours"]

    assert hours(requests_per_minute=100) == pytest.approx(0.1)
    assert hours(requests_per_minute=100, base_url="http://a/v1 http://b/v1") == pytest.approx(0.05)
    assert hours(tokens_per_minute=1000, requests_per_minute=10_000) > 4
    for rate, said in ((5, "2.0 h"), (100, "6 min"), (10_000, "1 min")):
        assert (
            surveyed(Ground(tmp_path), asking(600), requests_per_minute=rate)
            .line()
            .endswith(f" · {said}")
        )


def test_batches_cost_their_share_and_take_the_providers_day(tmp_path):
    lines = []
    for name, share, folder in (
        ("openai", 1.0, ""),
        ("openai_batch", 0.5, ""),
        ("openai_batch", 0.5, "out"),
    ):
        params = SimpleNamespace(**SETTINGS, batch_folder=folder)
        engine = SimpleNamespace(
            name=name, params=params, budget=Budget(params, share=share), urls=["u"]
        )
        estimate = Estimate(engine)
        for request in asking(100):
            estimate.add(request)
        lines.append((estimate.figures()["usd"], estimate.line()))
    assert lines[1][0] == pytest.approx(lines[0][0] / 2)
    assert "within the provider's 24 h" in lines[1][1]
    assert lines[2][1].endswith("answered elsewhere")


def test_without_prices_it_says_which_to_set(tmp_path):
    free = {"usd_per_million_input_tokens": 0.0, "usd_per_million_output_tokens": 0.0}
    line = surveyed(Ground(tmp_path, **free), asking(3)).line()
    assert "no prices: set usd_per_million_input_tokens and usd_per_million_output_tokens" in line
    assert "set prices_of" in surveyed(Ground(tmp_path, prices_of=""), asking(3)).line()
