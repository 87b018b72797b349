"""Engines and their journal, against a real HTTP server on loopback."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.openai_server import KEY, MODEL, completion, error, openai_server
from vislib.engines import Answer, Request, answer_of, ask_all, limits, open_engine, replies, request_key
from vislib.engines.openai_chat import PROVIDER, OpenAIChat, server_urls
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal
from vislib.runs.progress import Progress


class Ground:
    """The part of a run that engines use: parameters, journal, usage."""

    def __init__(self, folder: Path, max_failure_rate: float = 0.0) -> None:
        self.folder, self.used = folder, Counter()
        self.params = SimpleNamespace(max_failure_rate=max_failure_rate)

    def journal(self, name):
        return Journal(self.folder / f"{name}.sqlite")

    def progress(self, total, unit):
        return Progress(total, unit)

    def usage(self, **amounts):
        self.used.update(amounts)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(OpenAIChat, "backoff_s", 0.01)


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path)


@pytest.fixture
def server():
    with openai_server() as scripted:
        yield scripted


SETTINGS = {
    "model": MODEL, "max_in_flight": 8, "requests_per_minute": 0, "tokens_per_minute": 0, "timeout_s": 20.0,
    "max_spend_usd": 0.0, "usd_per_million_input_tokens": 0.0, "usd_per_million_output_tokens": 0.0,
    "reasoning_effort": "default",
}  # fmt: skip


def chat(server=None, **settings):
    url = {"base_url": server.url} if server else {}
    return OpenAIChat(SimpleNamespace(**SETTINGS | url | settings))


def asking(n, **settings):
    return [Request(id=f"s{i}", prompt=f"question {i}", prompt_sha="t", **settings) for i in range(n)]


def ask(ground, engine, requests):
    ask_all(ground, engine, lambda: iter(requests))
    journal = ground.journal(engine.name)
    return [answer_of(journal, engine, request) for request in requests]


def test_every_answer_is_journalled_once_and_not_asked_again(ground, server):
    answers = ask(ground, chat(server), asking(30))
    assert [a.text for a in answers] == [f"Answer to question {i}" for i in range(30)]
    assert {(a.status, a.model, a.tokens_in, a.tokens_out) for a in answers} == {("ok", MODEL, 100, 20)}
    assert ground.used == {"tokens_in": 3000, "tokens_out": 600, "usd": 0.0}
    again = Ground(ground.folder)
    assert ask(again, chat(server), asking(30)) == answers
    assert len(server.bodies) == 30
    assert not again.used


def test_images_go_as_scaled_data_uris_and_stay_out_of_the_journal(ground, server, tmp_path):
    Image.effect_noise((400, 200), 90).convert("RGB").save(tmp_path / "a.png")
    request = replace(asking(1)[0], image_id="i1", image_path=tmp_path / "a.png", image_side=100, seed=7)
    (answer,) = ask(ground, chat(server), [request])
    assert answer.status == "ok"
    assert server.images == [(100, 50)]
    kept = b"".join(path.read_bytes() for path in ground.folder.glob("openai.sqlite*"))
    assert b"Answer to question 0" in kept
    for part in (b"base64", b"data:image", server.url.encode(), b"127.0.0.1", KEY.encode(), b"a.png"):
        assert part not in kept
    assert {k: v for k, v in server.bodies[0].items() if k != "messages"} == {
        "model": MODEL, "max_completion_tokens": 1024, "temperature": 0.0, "seed": 7
    }  # fmt: skip


def test_an_unreadable_image_fails_alone(ground, server, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    ground.params.max_failure_rate = 0.5
    bad = replace(asking(1)[0], image_id="i", image_path=tmp_path / "broken.png")
    first, second = ask(ground, chat(server), [bad, asking(2)[1]])
    assert (first.reason, second.status, len(server.bodies)) == ("image_unreadable", "ok", 1)


def test_the_key_holds_what_changes_an_answer_and_nothing_else(server, tmp_path):
    engine, request = chat(server), replace(asking(1)[0], image_id="i", image_side=64)
    key = request_key(engine, request)
    differing = [
        {"prompt": "other"}, {"system": "be brief"}, {"image_id": "j"}, {"image_side": 65}, {"temperature": 0.5},
        {"max_tokens": 9}, {"seed": 3},
    ]  # fmt: skip
    keys = [request_key(engine, replace(request, **change)) for change in differing]
    keys += [request_key(chat(server, **c), request) for c in ({"model": "m2"}, {"reasoning_effort": "low"})]
    assert len({key, *keys}) == len(keys) + 1
    assert request_key(engine, replace(request, id="other", image_path=tmp_path, evidence={"x": 1})) == key
    elsewhere = chat(base_url="http://other:1/v1", max_in_flight=99, timeout_s=1, max_spend_usd=0)
    assert request_key(elsewhere, request) == key


def test_a_model_in_a_folder_is_known_by_its_weights(tmp_path):
    for name, weights in (("a", b"1"), ("moved", b"1"), ("tuned", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    keys = [
        request_key(chat(model=str(tmp_path / name), base_url="http://h/v1"), asking(1)[0])
        for name in ("a", "moved", "tuned")
    ]
    assert keys[0] == keys[1] != keys[2]


FAULTS = {
    "429": error(429, "slow down"),
    "500": error(500, "oops"),
    "503": error(503, "overloaded", headers={"Retry-After": "0"}),
    "not json": (200, "<html>gateway</html>", {}),
    "html": (200, "<html>gateway</html>", {"Content-Type": "text/html"}),
    "hang up": (0, "", {}),
    "no choices": (200, {**completion("x"), "choices": []}, {}),
    "null choices": (200, {**completion("x"), "choices": None}, {}),
    "no content": (200, completion(None), {}),
    "blank": (200, completion("  \n"), {}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_tried_again(ground, server, fault):
    server.script = lambda prompt, times: FAULTS[fault] if times < 3 else None
    assert {a.status for a in ask(ground, chat(server), asking(3))} == {"ok"}
    assert set(server.asked.values()) == {3}


def test_a_lasting_fault_fails_with_its_reason_and_is_asked_again_in_the_next_run(ground, server):
    ground.params.max_failure_rate = 0.5
    fault = error(500, "bad picture data:image/png;base64,AAAA==")
    server.script = lambda prompt, times: fault if prompt[-1] == "0" else None
    answers = ask(ground, chat(server), asking(4))
    assert [(a.status, a.reason) for a in answers] == [("failed", "server_error")] + [("ok", "")] * 3
    assert "500 " in answers[0].detail
    assert "AAAA" not in answers[0].detail
    assert server.asked["question 0"] == 6
    server.script = None
    assert {a.status for a in ask(ground, chat(server), asking(4))} == {"ok"}
    assert server.asked["question 1"] == 1


def test_paid_failures_are_kept_and_not_paid_again(ground, server):
    ground.params.max_failure_rate = 1.0
    replies_ = [
        (200, completion("cut o", finish="length"), {}),
        (200, completion("", finish="content_filter"), {}),
        error(400, "filtered", "content_filter"),
        error(400, "too long for the model"),
    ]
    server.script = lambda prompt, times: replies_[int(prompt[-1])]
    for _ in range(2):
        answers = ask(ground, chat(server), asking(4))
        assert [a.reason for a in answers] == ["length", "content_filter", "content_filter", "refused"]
        assert not any(a.text for a in answers)
    assert set(server.asked.values()) == {1}
    assert ground.used["tokens_out"] == 40  # a cut answer is paid for
    assert "too long" in answers[3].detail


def test_retry_after_is_waited_for(ground, server):
    server.script = lambda prompt, times: error(429, "slow", headers={"Retry-After": "0.6"}) if times == 1 else None
    ask(ground, chat(server), asking(1))
    assert server.times[1] - server.times[0] >= 0.6


def test_retry_after_may_be_a_date_and_has_a_bound():
    def wait(value):
        return replies._retry_after(SimpleNamespace(response=SimpleNamespace(headers={"retry-after": value})))

    assert wait("Wed, 21 Oct 2015 07:28:00 GMT") is None
    assert wait("Fri, 31 Dec 2100 23:59:59 GMT") == 600
    assert wait("soon") is None
    assert wait("1e9") == 600


@pytest.mark.parametrize(
    ("settings", "reply", "said"),
    [
        ({"model": "gpt-unknown"}, None, ["gpt-unknown", "404", "Set model"]),
        ({}, error(401, "Incorrect API key"), ["401", "OPENAI_API_KEY"]),
        ({}, error(429, "You exceeded your quota", "insufficient_quota"), ["used up", "credit"]),
        ({}, error(400, "temperature is not supported", "unsupported_value"), [MODEL, "emperature -1"]),
    ],
)
def test_what_no_request_would_survive_stops_with_one_message(ground, server, settings, reply, said):
    server.script = lambda prompt, times: reply if int(prompt.split()[1]) >= 5 else None
    requests = asking(20)
    ask(ground, chat(server), requests[:5])
    before = len(server.bodies)
    with pytest.raises(InputError) as caught:
        ask(ground, chat(server, **settings), requests)
    for text in (server.url, *said):
        assert text in str(caught.value)
    assert len(server.bodies) - before <= 8  # what was under way, and no more
    server.script = None
    assert {a.status for a in ask(ground, chat(server), requests)} == {"ok"}
    assert max(server.asked[f"question {i}"] for i in range(5)) == 1


def test_a_wrong_key_is_not_repeated_in_any_artefact(ground, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        ask(ground, chat(server), asking(3))  # this server repeats it in its reply
    assert "sk-wrong" not in str(caught.value)
    assert b"sk-wrong" not in b"".join(p.read_bytes() for p in ground.folder.glob("*"))


def test_a_server_that_is_down_stops_with_one_message(ground):
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/v1: no connection.*base_url"):
        ask(ground, chat(base_url="http://127.0.0.1:9/v1"), asking(10))


def test_the_provider_needs_a_key(ground, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        ask(ground, chat(base_url=""), asking(1))


def test_where_the_servers_are(monkeypatch):
    assert server_urls("") == [PROVIDER]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1")
    assert server_urls("") == ["http://gpu:8000/v1"]
    assert server_urls("http://a/v1  https://b:1/v1") == ["http://a/v1", "https://b:1/v1"]
    for bad in ("localhost:8000", "ftp://h/v1", "http://user:hidden@h/v1"):
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


def test_too_many_failures_stop_the_stage_and_keep_the_rest(ground, server):
    ground.params.max_failure_rate = 0.1
    server.script = lambda prompt, times: error(400, "no") if int(prompt.split()[1]) % 2 else None
    with pytest.raises(InputError, match=r"max_failure_rate 0\.1") as caught:
        ask(ground, chat(server, max_in_flight=1), asking(200))
    assert "refused 400 no" in str(caught.value)
    assert len(server.bodies) < 40
    ground.params.max_failure_rate = 0.5
    answers = ask(ground, chat(server), asking(200))
    assert Counter(a.status for a in answers) == {"ok": 100, "failed": 100}
    assert set(server.asked.values()) == {1}


PRICES = {"usd_per_million_input_tokens": 1000.0, "usd_per_million_output_tokens": 2000.0}


def test_the_ceiling_holds_and_raising_it_goes_on(ground, server):
    def priced(ceiling):
        return chat(server, max_spend_usd=ceiling, **PRICES)

    requests = asking(40, max_tokens=20)  # 100 and 20 tokens: 0.14 USD each
    with pytest.raises(InputError, match="Raise max_spend_usd"):
        ask(ground, priced(2.0), requests)
    assert 0 < len(server.bodies) * 0.14 <= 2.0
    assert ground.used["usd"] == pytest.approx(len(server.bodies) * 0.14)
    done = len(server.bodies)
    with pytest.raises(InputError, match="Raise max_spend_usd"):  # what the journal holds counts
        ask(ground, priced(2.0), requests)
    assert len(server.bodies) == done
    assert {a.status for a in ask(ground, priced(100.0), requests)} == {"ok"}
    assert set(server.asked.values()) == {1}


def test_the_ceiling_counts_attempts_that_may_have_been_billed(ground, server):
    server.script = lambda prompt, times: (0, "", {})
    engine = chat(server, max_spend_usd=1.0, max_in_flight=1, **PRICES)
    ground.params.max_failure_rate = 1.0
    with pytest.raises(InputError, match="max_spend_usd"):
        ask(ground, engine, asking(40, max_tokens=100))
    assert len(server.bodies) * 0.2 <= 1.0 + 0.3


def test_the_pace_holds_in_every_window(monkeypatch, ground, server):
    monkeypatch.setattr(limits, "_MINUTE", 1.0)
    ask(ground, chat(server, requests_per_minute=40, max_in_flight=32), asking(60))
    gaps = [b - a for a, b in zip(server.times, server.times[40:], strict=False)]
    assert min(gaps) > 0.95  # any 41 requests span the window


def test_the_token_pace_counts_what_was_really_used(monkeypatch, ground, server):
    monkeypatch.setattr(limits, "_MINUTE", 1.0)
    started = time.monotonic()
    ask(ground, chat(server, tokens_per_minute=1200), asking(25, max_tokens=1000))  # used: 120 tokens each
    assert 1.9 < time.monotonic() - started < 6
    for first in server.times:
        assert sum(120 for when in server.times if first <= when < first + 0.95) <= 1200


def test_no_more_requests_exist_than_may_be_in_flight(ground, server):
    server.latency_s = 0.02
    drawn = answered = lag = 0

    def requests():
        nonlocal drawn
        for request in asking(100):
            drawn += 1
            yield request

    for _ in chat(server, max_in_flight=5).answer(requests()):
        answered += 1
        lag = max(lag, drawn - answered)
    assert answered == 100
    assert lag <= 5
    assert 2 <= server.most_at_once <= 5


def test_several_servers_share_the_work_and_one_may_be_down(ground, server):
    server.latency_s = 0.02
    with openai_server(latency_s=0.02) as second:
        ask(ground, chat(server, base_url=f"{server.url} {second.url} http://127.0.0.1:9/v1"), asking(60))
        counts = sorted([len(server.bodies), len(second.bodies)])
    assert sum(counts) == 60
    assert counts[0] >= 20


def test_it_runs_where_an_event_loop_runs_already(ground, server):
    async def cell():
        return ask(ground, chat(server), asking(3))

    assert {a.status for a in asyncio.run(cell())} == {"ok"}


def test_twins_are_asked_once(ground, server):
    server.latency_s = 0.02
    twins = [replace(asking(1)[0], id=f"s{i}") for i in range(20)]
    assert {a.text for a in ask(ground, chat(server), twins)} == {"Answer to question 0"}
    assert len(server.bodies) == 1


def test_an_interrupt_keeps_what_was_under_way(ground, server):
    server.latency_s = 0.05

    def interrupt(prompt, times):
        if len(server.bodies) >= 20 and not interrupted:
            interrupted.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    interrupted: list[int] = []
    server.script = interrupt
    with pytest.raises(KeyboardInterrupt):
        ask(ground, chat(server, max_in_flight=4), asking(100))
    asked = len(server.bodies)
    assert asked < 40
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(ground.journal("openai")) == asked
    ask(ground, chat(server), asking(100))
    assert set(server.asked.values()) == {1}


def test_settled_failures_alone_still_stop_the_stage(ground, server):
    server.script = lambda prompt, times: error(400, "no")
    for _ in range(2):
        with pytest.raises(InputError, match="2 of 2 requests failed"):
            ask(ground, chat(server), asking(2))
    assert len(server.bodies) == 2


def test_having_nothing_to_say_stops_no_stage(ground):
    class Silent:
        name = model = "silent"
        study, basis = (lambda self, requests: None), (lambda self, request: {})

        def answer(self, requests, *, spent=0.0):
            yield from ((request, Answer(status="failed", reason="no_evidence")) for request in requests)

    assert {a.reason for a in ask(ground, Silent(), asking(60))} == {"no_evidence"}


def test_an_engine_may_be_used_again(ground, server):
    engine = chat(server, requests_per_minute=6000)
    for n in (20, 40):
        assert {a.status for a in ask(ground, engine, asking(n))} == {"ok"}
