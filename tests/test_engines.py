"""Keys of answers, which engine the parameters open, and the pace that its limits keep."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.engine_ground import SETTINGS, Ground, _environment, ask, asking, chat, ground, server  # noqa: F401
from vislib.engines import Request, limits, open_engine, request_key
from vislib.engines.extractive import Extractive
from vislib.engines.transport import PROVIDER, ChatClient, server_urls
from vislib.runs.errors import InputError


def test_the_key_holds_what_changes_an_answer_and_nothing_else(server, tmp_path):  # noqa: F811
    engine, request = chat(server), replace(asking(1)[0], image_id="i", image_side=64)
    key = request_key(engine, request)
    differing = [
        {"prompt": "other"},
        {"system": "be brief"},
        {"image_id": "j"},
        {"image_side": 65},
        {"temperature": 0.5},
        {"max_tokens": 9},
        {"seed": 3},
    ]
    keys = [request_key(engine, replace(request, **change)) for change in differing]
    keys += [
        request_key(chat(server, **c), request)
        for c in ({"model": "m2"}, {"reasoning_effort": "low"})
    ]
    assert len({key, *keys}) == len(keys) + 1
    assert (
        request_key(engine, replace(request, id="other", image_path=tmp_path, evidence={"x": 1}))
        == key
    )
    elsewhere = chat(base_url="http://other:1/v1", max_in_flight=99, timeout_s=1, max_spend_usd=0)
    assert request_key(elsewhere, request) == key


def test_keys_of_answers_that_are_paid_hold():
    """Whoever changes one of these loses every answer that a journal holds."""
    request = Request(id="s1", prompt="What is it? “é”", prompt_sha="t")
    image = {"image_id": "abc", "image_side": 512, "temperature": 0.7, "max_tokens": 77, "seed": 3}
    named = {"model_revision": "r1", "reasoning_effort": "low"}
    sample = {"alt_text": "a b"}
    evidence = {"task": "caption", "kind": "contextual", "sample": sample, "priors": None}
    evidence |= {"image_path": "/x/y.jpg", "caption": "c"}
    of_server = chat(base_url="http://x/v1", model="m")
    keys = [
        request_key(of_server, request),
        request_key(of_server, replace(request, system="Be brief", **image)),
        request_key(of_server, replace(request, schema={"type": "object"})),
        request_key(chat(base_url="http://x/v1", model="m", **named), request),
        request_key(Extractive(), replace(request, evidence=evidence)),
    ]
    assert keys == [
        "5cf49d356b88c986",
        "acb821bd2da332e3",
        "0713e41536afa926",
        "7b9d07b3aa212519",
        "d147f740ae10eb27",
    ]


def test_a_model_in_a_folder_is_known_by_its_weights(tmp_path):
    for name, weights in (("a", b"1"), ("moved", b"1"), ("tuned", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    keys = [
        request_key(chat(model=str(tmp_path / name), base_url="http://h/v1"), asking(1)[0])
        for name in ("a", "moved", "tuned")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_where_the_servers_are(monkeypatch):
    assert server_urls("") == [PROVIDER]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1")
    assert server_urls("") == ["http://gpu:8000/v1"]
    assert server_urls("http://a/v1  https://b:1/v1") == ["http://a/v1", "https://b:1/v1"]
    for bad in (
        "localhost:8000",
        "ftp://h/v1",
        "http://user:hidden@h/v1",
        "http://[::1",
        "http://h:x/v1",
        "http://h/v1?k=hidden",
    ):
        with pytest.raises(InputError, match="base_url") as caught:
            server_urls(bad)
        assert "hidden" not in str(caught.value)


def test_engines_are_opened_by_parameters():
    prices = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 2.0}
    params = SETTINGS | prices | {"engine": "openai", "base_url": "", "max_spend_usd": 1.0}

    def opened(**change):
        return open_engine(SimpleNamespace(params=SimpleNamespace(**{**params, **change})))

    assert opened().budget.cost(1_000_000, 500_000) == pytest.approx(2.0)
    with pytest.raises(InputError, match="max_spend_usd"):
        opened(usd_per_million_input_tokens=0.0, usd_per_million_output_tokens=0.0)
    with pytest.raises(InputError, match="model is empty"):
        opened(model="")
    with pytest.raises(InputError, match="'parrot'"):
        opened(engine="parrot")
    assert opened(engine="extractive").name == "extractive"


@pytest.fixture
def sent(monkeypatch):
    """When each request was sent; on a busy machine the server reads them later, and several at
    once.
    """
    times, ask_ = [], ChatClient.ask

    async def noted(self, body):
        times.append(time.monotonic())
        return await ask_(self, body)

    monkeypatch.setattr(ChatClient, "ask", noted)
    return times


def test_the_pace_holds_in_every_window(monkeypatch, ground, server, sent):  # noqa: F811
    monkeypatch.setattr(limits, "_MINUTE", 1.0)
    ask(ground, chat(server, requests_per_minute=40, max_in_flight=32), asking(60))
    gaps = [b - a for a, b in zip(sent, sent[40:], strict=False)]
    assert min(gaps) > 0.5  # any 41 requests span the window; some leave late on a busy machine


def test_the_token_pace_counts_what_was_really_used(monkeypatch, ground, server, sent):  # noqa: F811
    monkeypatch.setattr(limits, "_MINUTE", 1.0)
    started = time.monotonic()
    ask(
        ground, chat(server, tokens_per_minute=1200), asking(25, max_tokens=1000)
    )  # used: 120 tokens each
    assert 1.9 < time.monotonic() - started < 60
    for first in sent:
        assert sum(120 for when in sent if first <= when < first + 0.5) <= 1200
