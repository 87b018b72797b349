"""Asking, against a real HTTP server on loopback: what is kept, asked again, given up; signals."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import replace

import pytest

from tests.asking_process import start, wait_for
from tests.engine_ground import Ground, _environment, ask, asking, chat, ground, server  # noqa: F401
from tests.load_server import bill, load_server
from tests.openai_server import MODEL, completion, error
from vislib.engines import Answer
from vislib.runs.errors import InputError


def test_every_answer_is_journalled_once_and_not_asked_again(ground, server):  # noqa: F811
    answers = ask(ground, chat(server), asking(30))
    assert [a.text for a in answers] == [f"Answer to question {i}" for i in range(30)]
    assert {(a.status, a.model, a.tokens_in, a.tokens_out) for a in answers} == {
        ("ok", MODEL, 100, 20)
    }
    assert ground.used == {"tokens_in": 3000, "tokens_cached": 0, "tokens_out": 600, "usd": 0.0}
    again = Ground(ground.folder)
    assert ask(again, chat(server), asking(30)) == answers
    assert len(server.bodies) == 30
    assert not again.used


def test_paid_failures_are_kept_and_not_paid_again(ground, server):  # noqa: F811
    ground.params.max_failure_rate = 1.0
    replies_ = [
        (200, completion("cut o", finish="length", tokens=(100, 1024)), {}),
        (200, completion("", finish="content_filter"), {}),
        error(400, "filtered", "content_filter"),
        error(400, "too long for the model"),
    ]
    server.script = lambda prompt, times: replies_[int(prompt[-1])]
    for _ in range(2):
        answers = ask(ground, chat(server), asking(4))
        assert [a.reason for a in answers] == [
            "length",
            "content_filter",
            "content_filter",
            "refused",
        ]
        assert not any(a.text for a in answers)
    assert set(server.asked.values()) == {1}
    assert ground.used["tokens_out"] == 1044  # a cut answer is paid for
    assert "too long" in answers[3].detail


def test_too_many_failures_stop_the_stage_and_keep_the_rest(ground, server):  # noqa: F811
    ground.params.max_failure_rate = 0.1
    server.script = lambda prompt, times: error(400, "no") if int(prompt.split()[1]) % 2 else None
    with pytest.raises(InputError, match=r"max_failure_rate 0\.1") as caught:
        ask(ground, chat(server, max_in_flight=1), asking(200))
    assert "refused 400 no" in str(caught.value)
    assert len(server.bodies) < 40
    ground.params.max_failure_rate = 0.5
    answers = ask(ground, chat(server), asking(200))
    assert Counter(a.status for a in answers) == {"ok": 100, "failed": 100}
    assert {n for question, n in server.asked.items() if int(question.split()[1]) % 2 == 0} == {1}


TOO_LONG = "This model's maximum context length is 2048 tokens, you requested 3000"
PRICES = {"usd_per_million_input_tokens": 1000.0, "usd_per_million_output_tokens": 2000.0}


def test_the_ceiling_holds_and_raising_it_goes_on(ground, server):  # noqa: F811
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


def test_the_ceiling_counts_attempts_that_may_have_been_billed(ground, server):  # noqa: F811
    server.script = lambda prompt, times: (0, "", {})
    engine = chat(server, max_spend_usd=1.0, max_in_flight=1, **PRICES)
    ground.params.max_failure_rate = 1.0
    with pytest.raises(InputError, match="max_spend_usd"):
        ask(ground, engine, asking(40, max_tokens=100))
    assert len(server.bodies) * 0.2 <= 1.0 + 0.3


def test_it_runs_where_an_event_loop_runs_already(ground, server):  # noqa: F811
    async def cell():
        return ask(ground, chat(server), asking(3))

    assert {a.status for a in asyncio.run(cell())} == {"ok"}


def test_twins_are_asked_once(ground, server):  # noqa: F811
    server.latency_s = 0.02
    twins = [replace(asking(1)[0], id=f"s{i}") for i in range(20)]
    assert {a.text for a in ask(ground, chat(server), twins)} == {"Answer to question 0"}
    assert len(server.bodies) == 1


def test_an_interrupt_keeps_what_was_under_way(ground, server):  # noqa: F811
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


def test_settled_failures_alone_still_stop_the_stage(ground, server):  # noqa: F811
    server.script = lambda prompt, times: error(400, TOO_LONG)
    for _ in range(2):
        with pytest.raises(InputError, match="2 of 2 requests failed"):
            ask(ground, chat(server), asking(2))
    assert len(server.bodies) == 2


def test_a_stage_that_cannot_end_well_any_more_asks_nothing(ground, server):  # noqa: F811
    server.script = lambda prompt, times: error(400, TOO_LONG)
    ground.params.max_failure_rate = 1.0
    ask(ground, chat(server), asking(6))
    ground.params.max_failure_rate = 0.1
    with pytest.raises(InputError, match="6 of 6 requests failed"):
        ask(ground, chat(server), asking(20))
    assert len(server.bodies) == 6


def test_having_nothing_to_say_stops_no_stage(ground):  # noqa: F811
    class Silent:
        name = model = "silent"
        journal = "silent"
        study, basis = (lambda self, requests: None), (lambda self, request: {})

        def answer(self, requests):
            yield from (
                (request, Answer(status="failed", reason="no_evidence")) for request in requests
            )

    assert {a.reason for a in ask(ground, Silent(), asking(60))} == {"no_evidence"}


def test_an_engine_may_be_used_again(ground, server):  # noqa: F811
    engine = chat(server, requests_per_minute=6000)
    for n in (20, 40):
        assert {a.status for a in ask(ground, engine, asking(n))} == {"ok"}


def test_sigterm_finishes_what_is_under_way(tmp_path):
    with load_server(latency_s=0.5) as url:
        process = start(tmp_path, 100, base_url=url, model="m", max_in_flight=8)
        wait_for(process, "begun")
        while not bill(url)["billed"]:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
        billed = bill(url)["billed"]
    assert 8 <= len(billed) < 100
    assert len(Ground(tmp_path).journal("openai")) == len(billed)


def test_a_second_interrupt_is_immediate(tmp_path):
    with load_server(latency_s=60.0) as url:
        process = start(tmp_path, 100, base_url=url, model="m", max_in_flight=8, timeout_s=100.0)
        wait_for(process, "begun")
        while not bill(url)["asked"]:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted")
        assert process.poll() is None  # it waits for what is under way
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
