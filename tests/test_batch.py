"""Batch files against a real HTTP server on loopback: the same answers as live, at every kill and
lost reply.
"""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.batch_server import batch_server, plain
from tests.engine_ground import SETTINGS, Ground, ask, asking, chat
from tests.openai_server import KEY, completion, openai_server
from vislib.engines.batch import OpenAIBatch
from vislib.engines.batch_files import BatchFile, BatchServer, state_folder
from vislib.runs.errors import InputError
from vislib.runs.journal import Journal

PRICES = {"usd_per_million_input_tokens": 1e4, "usd_per_million_output_tokens": 1e4}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(
        "vislib.engines.budget._tokens_per_byte", lambda texts: 0.25
    )  # loads a tokenizer each time
    monkeypatch.setattr(OpenAIBatch, "poll_s", (0.01, 0.03))
    monkeypatch.setattr(OpenAIBatch, "max_requests", 4)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.setattr(BatchServer, "grace_s", 0.05)


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path, max_failure_rate=1.0)


@pytest.fixture
def server():
    with batch_server() as held:
        yield held


def batch(ground, server=None, **settings):
    given = {
        "batch_folder": "",
        "batch_price": 0.5,
        "base_url": server.url if server else "",
        **settings,
    }
    params = SimpleNamespace(**SETTINGS | given)
    run = SimpleNamespace(params=params, journal=ground.journal, folder=ground.folder)
    return OpenAIBatch(run)


def texts(answers):
    return [answer.text or answer.reason for answer in answers]


def expected(n):
    return [f"Answer to question {i}" for i in range(n)]


def assert_clean(ground, server):
    """Nothing is left over, and no line was run twice."""
    assert set(server.asked.values()) == {1}
    assert list(state_folder(ground).iterdir()) == []


def test_the_journal_is_that_of_the_live_engine_at_half_the_price(ground, server, tmp_path):
    ground.params.engine = "openai_batch"
    answers = ask(ground, batch(ground, server, **PRICES), asking(10))
    with openai_server() as live_server:
        live = ask(Ground(tmp_path / "live"), chat(live_server, **PRICES), asking(10))
    assert [replace(a, usd=2 * a.usd, seconds=0) for a in answers] == [
        replace(a, seconds=0) for a in live
    ]
    assert (
        sum(a.usd for a in answers)
        == pytest.approx(ground.used["usd"])
        == pytest.approx(10 * 120 * 1e-2 / 2)
    )
    assert server.log.count("POST batches") == 3  # 4 + 4 + 2
    assert_clean(ground, server)


def test_no_proxy_stands_before_a_server_of_this_machine(ground, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    assert texts(ask(ground, batch(ground, server), asking(3))) == expected(3)


def test_what_a_trial_with_the_live_engine_answered_is_not_asked_again(ground, server):
    with openai_server() as live:
        ask(ground, chat(live), asking(3))
    one = {"same_model": True}  # at two addresses
    assert texts(ask(ground, batch(ground, server, **one), asking(5))) == expected(5)
    assert server.asked.total() == 2
    again = len(server.log)
    assert texts(ask(ground, batch(ground, server, **one), asking(5))) == expected(5)
    assert server.log[again:] == ["GET models"]  # whose answers they are


def test_a_line_is_the_request_that_the_live_engine_sends(ground, server, tmp_path):
    Image.effect_noise((400, 200), 90).convert("RGB").save(tmp_path / "a.png")
    request = replace(
        asking(1)[0],
        system="brief",
        image_id="i1",
        image_path=tmp_path / "a.png",
        image_side=100,
        seed=7,
    )
    bodies = []
    server.answer = lambda body, times: (
        bodies.append(body),
        plain({"messages": [{"content": "x"}]}, 1),
    )[1]
    with openai_server() as live:
        ask(Ground(tmp_path / "live"), chat(live), [request])
        (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
        broken = replace(asking(2)[1], image_id="i2", image_path=tmp_path / "broken.png")
        answers = ask(ground, batch(ground, server), [request, broken])
        assert bodies == live.bodies
    assert texts(answers) == ["Answer to x", "image_unreadable"]


STEPS = [
    (step, when)
    for step in (
        "POST files",
        "POST batches",
        "GET batches/id",
        "GET files/id/content",
    )
    for when in ("before", "after")
]
# of 9 answers in files of 4, 4 and 1, the last always ends a file, and the first, fourth or fifth
# may
CALLS = [(Journal, "put", n) for n in (1, 2, 4, 5, 9)]
CALLS += [(BatchFile, "note", n) for n in (1, 2, 3, 4)]
CALLS += [(Path, "replace", n) for n in (1, 2)] + [(Path, "unlink", n) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(("step", "when", "calls"), [*((*step, 2) for step in STEPS), *CALLS])
def test_killed_between_any_two_steps_it_goes_on_and_pays_nothing_twice(
    ground, server, monkeypatch, step, when, calls
):
    reached = multiprocessing.get_context("fork").Event()
    done = []

    def hook(now, moment):
        if (now, moment) == (step, when) and server.log.count(step) == 2 and not done:
            done.append(1)
            reached.set()
            return "hang"
        return ""

    def run():
        if isinstance(step, type):
            made, method = [], getattr(step, when)
            monkeypatch.setattr(
                step, when, lambda *given, **named: hang(made, method(*given, **named))
            )
        ask(ground, batch(ground, server), asking(9))

    def hang(made, result):
        made.append(result)
        if len(made) == calls:
            reached.set()
            time.sleep(600)
        return result

    server.hook = hook
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    assert reached.wait(120)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert texts(ask(ground, batch(ground, server), asking(10))) == expected(
        10
    )  # one more: it also clears up
    assert_clean(ground, server)


@pytest.mark.parametrize("fault", ["drop", "500", "429"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_reply_or_an_error_is_no_reason_to_begin_twice(ground, server, fault, when):
    failed = set()

    def hook(step, moment):
        if moment != when or step in failed:
            return ""
        failed.add(step)
        return fault

    server.hook = hook
    assert texts(ask(ground, batch(ground, server), asking(5))) == expected(5)
    assert failed >= {
        "POST files",
        "POST batches",
        "GET batches/id",
        "GET files/id/content",
        "GET batches",
    }
    assert_clean(ground, server)


def test_an_outage_while_batches_run_is_waited_out(ground, server):
    left = ["500"] * 20 + [""] * 100
    server.hook = lambda step, when: left.pop(0) if step == "GET batches/id" else ""
    assert texts(ask(ground, batch(ground, server), asking(3))) == expected(3)
    assert_clean(ground, server)


@pytest.mark.parametrize("said", [None, ()])
@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_what_a_batch_did_not_run_is_asked_once_more_and_what_it_ran_is_kept(
    ground, server, status, said
):
    server.status = status
    server.answer = lambda body, times: (
        plain(body, times) if times > 1 or "0" in str(body["messages"]) else said
    )
    assert texts(ask(ground, batch(ground, server), asking(6))) == expected(6)
    assert sorted(server.asked.values()) == [1, 2, 2, 2, 2, 2]
    server.answer = lambda body, times: said
    answers = ask(ground, batch(ground, server), asking(8))
    assert texts(answers) == [*expected(6), f"batch_{status}", f"batch_{status}"]
    assert sorted(server.asked.values()) == [1, *[2] * 7]


def failing(body, times):
    number = int(body["messages"][-1]["content"].split()[-1])
    error = (
        {"message": "no", "code": "content_policy_violation"}
        if number == 2
        else {"message": "too long"}
    )
    said = {
        0: (200, completion("cut", finish="length")),
        1: (200, completion(None, finish="content_filter")),
        2: (400, {"error": error}),
        3: (400, {"error": error}),
        4: (500, {"error": error}),
        5: (200, {"choices": 7}),
        6: (200, "<html>"),
    }
    return said.get(number) or plain(body, times)


def test_failed_lines_have_the_reasons_of_the_live_engine(ground, server):
    server.answer = failing
    answers = ask(ground, batch(ground, server), asking(8))
    reasons = [
        "length",
        "content_filter",
        "content_filter",
        "refused",
        "server_error",
        "no_choices",
        "not_json",
    ]
    assert texts(answers) == [*reasons, "Answer to question 7"]
    assert server.asked.total() == 9  # the 500 once more
    assert ground.used["tokens_in"] == 300  # those that were answered, usable or not


def test_an_account_that_is_used_up_ends_the_run_and_keeps_what_was_answered(ground, server):
    quota = {"error": {"message": "quota", "code": "insufficient_quota"}}
    server.answer = lambda body, times: (
        (429, quota) if times == 1 and "3" in str(body["messages"]) else plain(body, 1)
    )
    with pytest.raises(InputError, match="add credit"):
        ask(ground, batch(ground, server), asking(4))
    assert len(ground.journal("openai")) == 3
    assert texts(ask(ground, batch(ground, server), asking(4))) == expected(4)
    assert sorted(server.asked.values()) == [1, 1, 1, 2]


@pytest.mark.parametrize("endpoints", [(), ("files",)])
def test_a_server_without_batch_files_is_named_and_left_without_a_trace(ground, server, endpoints):
    server.endpoints = endpoints
    with pytest.raises(InputError, match=r"404. A server without batch files needs engine openai"):
        ask(ground, batch(ground, server), asking(2))
    with pytest.raises(InputError, match="no connection"):
        ask(ground, batch(ground, base_url="http://127.0.0.1:9/v1"), asking(2))
    with batch_server() as other:
        assert texts(ask(ground, batch(ground, other), asking(2))) == expected(2)
        assert_clean(ground, other)


def test_a_batch_that_fails_validation_ends_the_run_with_its_reason(ground, server):
    server.status = "failed"
    with pytest.raises(InputError, match="line 1: invalid_json_line it is"):
        ask(ground, batch(ground, server), asking(2))
    server.status = "completed"
    assert texts(ask(ground, batch(ground, server), asking(2))) == expected(2)
    assert_clean(ground, server)


@pytest.mark.parametrize("most", [1, 4, 9])
def test_a_full_queue_is_waited_for_and_files_are_made_to_fit_it(ground, server, most):
    server.most_tokens = most
    assert texts(ask(ground, batch(ground, server), asking(14))) == expected(14)
    assert_clean(ground, server)
