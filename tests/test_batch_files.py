"""What is under way: shared by stages and sets, within the ceiling, stopped and taken up; files
that others answer.
"""

import json
import multiprocessing
import os
import signal
import threading
from contextlib import redirect_stdout
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict

from tests import test_batch as shared
from tests.batch_server import plain
from tests.engine_ground import Ground, ask, asking, chat
from tests.openai_server import completion
from tests.test_batch import PRICES, assert_clean, batch, expected, texts
from vislib.engines import open_engine
from vislib.engines.ask import ask_all
from vislib.engines.batch import OpenAIBatch
from vislib.engines.batch_files import state_folder
from vislib.runs.errors import InputError

_environment, ground, server = shared._environment, shared.ground, shared.server


def test_the_ceiling_holds_for_whole_files_and_the_run_goes_on_when_it_is_raised(ground, server):
    bound = batch(ground, server, **PRICES).budget.bound(
        asking(1, max_tokens=20)[0]
    )  # about 2.8 USD; the answer 0.6
    requests = asking(8, max_tokens=20)
    with pytest.raises(InputError, match="max_spend_usd is"):
        ask(ground, batch(ground, server, **PRICES, max_spend_usd=2.5 * bound), requests)
    first = [b["request_counts"]["total"] for b in server.batches.values()]
    paid = sum(body["usd"] for body in map(ground.journal("openai").get, server.asked))
    assert first[0] == 2  # as many as the ceiling had room for; then what the answers left of it
    assert paid == pytest.approx(0.6 * server.asked.total())
    assert paid <= 2.5 * bound
    assert texts(
        ask(ground, batch(ground, server, **PRICES, max_spend_usd=100.0), requests)
    ) == expected(8)
    assert_clean(ground, server)


def test_before_an_image_was_billed_only_one_is_risked(ground, server, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    requests = [replace(r, image_id=r.id, image_path=tmp_path / "a.png") for r in asking(6)]
    server.answer = lambda body, times: (200, completion("seen", tokens=(5000, 20)))
    ask(ground, batch(ground, server, **PRICES, max_spend_usd=1e6), requests)
    assert [b["request_counts"]["total"] for b in server.batches.values()] == [1, 4, 1]


def interrupted(ground, server, n):
    """A run that is told to stop once its batches are under way."""
    ready = multiprocessing.get_context("fork").Event()
    server.polls, server.hook = (
        10**9,
        lambda step, when: ready.set() or "" if step == "GET batches/id" else "",
    )

    def work():
        with (ground.folder / "said.txt").open("w") as said, redirect_stdout(said):
            ask(ground, batch(ground, server), asking(n))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    assert ready.wait(120)
    os.kill(child.pid, signal.SIGTERM)
    child.join(120)
    server.polls = 1
    return child.exitcode


def test_a_stop_while_polling_is_at_once_and_the_next_run_collects(ground, server):
    assert interrupted(ground, server, 6) == -signal.SIGTERM
    assert "2 batches go on at http://127.0.0.1" in (ground.folder / "said.txt").read_text()
    assert texts(ask(ground, batch(ground, server), asking(6))) == expected(6)
    assert_clean(ground, server)


def test_a_stage_collects_all_that_it_began_even_what_it_does_not_ask_any_more(ground, server):
    interrupted(ground, server, 6)
    with pytest.raises(InputError, match=r"is under way at http.*set base_url to that.*or delete"):
        ask(ground, batch(ground, base_url="http://127.0.0.1:9/v1"), asking(6))
    assert texts(ask(ground, batch(ground, server), asking(1))) == expected(1)
    assert texts(ask(ground, batch(ground, server), asking(6))) == expected(6)
    assert_clean(ground, server)


def test_a_batch_whose_file_is_deleted_is_given_up(ground, server):
    interrupted(ground, server, 2)
    next(state_folder(ground).glob("*.jsonl")).unlink()
    assert texts(ask(ground, batch(ground, server), asking(2))) == expected(2)
    assert set(server.asked.values()) == {2}


def test_the_live_engine_does_not_ask_what_is_under_way_in_a_batch(ground, elsewhere):
    _, run = elsewhere
    with pytest.raises(InputError, match="Have each answered"):
        run()
    with pytest.raises(
        InputError, match=r"2 batch files of this stage are under way, as .*vislib-.*\.jsonl"
    ):
        ask(ground, chat(base_url="http://127.0.0.1:9/v1"), asking(8))


def test_two_stages_at_once_leave_each_others_files_alone(ground, server, tmp_path):
    server.polls = 8
    other = Ground(tmp_path / "set" / "07_qa_generation.partial", max_failure_rate=1.0)
    other.journal = ground.journal
    names = [state_folder(run).name for run in (ground, other)]
    assert names == [f"{tmp_path.parent.name}.{tmp_path.name}", "set.07_qa_generation"]
    runs = [
        threading.Thread(target=ask, args=(run, batch(run, server), asking(9)[part]))
        for run, part in ((ground, slice(4)), (other, slice(4, 9)))
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert texts(ask(ground, batch(ground, server), asking(9))) == expected(9)
    assert_clean(ground, server)
    assert_clean(other, server)


def test_files_keep_to_the_limits(ground, server, monkeypatch):
    monkeypatch.setattr(OpenAIBatch, "max_requests", 100)
    monkeypatch.setattr(OpenAIBatch, "max_bytes", 1000)
    assert texts(ask(ground, batch(ground, server), asking(20))) == expected(20)
    assert 600 < server.largest <= 1000
    assert_clean(ground, server)


def test_checks_of_an_answer_see_the_page_of_its_request(ground, server):
    seen = []
    fault = lambda request, text: (seen.append((request.evidence["sample"], text)), ("", ""))[1]  # noqa: E731
    requests = [replace(r, evidence={"sample": {"context": r.id}}) for r in asking(3)]
    ask_all(ground, batch(ground, server), lambda: iter(requests), fault)
    assert sorted(seen, key=str) == [
        ({"context": f"s{n}"}, text) for n, text in enumerate(expected(3))
    ]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Text(Strict):
    type: Literal["text"]
    text: str


class Url(Strict):
    url: str


class Picture(Strict):
    type: Literal["image_url"]
    image_url: Url


class Message(Strict):
    role: Literal["system", "user"]
    content: str | list[Text | Picture]


class Body(
    Strict
):  # what we use of ChatCompletionRequest, vllm/entrypoints/openai/chat_completion/protocol.py
    model: str
    messages: list[Message]
    max_completion_tokens: int
    temperature: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None


class BatchRequestInput(
    Strict
):  # of vllm/entrypoints/openai/run_batch.py; the provider's: custom_id of <= 64
    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: Body


def run_batch(lines):
    """What `vllm run-batch` makes of a file: BatchRequestOutput, an error as a text."""
    for line in lines:
        asked = BatchRequestInput.model_validate_json(line)
        text = asked.body.messages[-1].content
        text = text if isinstance(text, str) else text[0].text
        status, body = plain({"messages": [{"content": text}]}, 1)
        response = {"status_code": status, "request_id": "vllm-batch-1", "body": body}
        if text == "question 3":
            response = {"status_code": 400, "request_id": "vllm-batch-1", "body": None}
        error = "longer than the model's context" if text == "question 3" else None
        yield json.dumps(
            {"id": "vllm-1", "custom_id": asked.custom_id, "response": response, "error": error}
        )


@pytest.fixture
def elsewhere(ground, tmp_path):
    folder = tmp_path / "elsewhere"
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    requests = asking(6)
    requests[1] = replace(
        requests[1],
        image_id="i",
        image_path=tmp_path / "a.png",
        image_side=10,
        system="brief",
        seed=3,
    )
    return folder, lambda: ask(ground, batch(ground, batch_folder=str(folder)), requests)


def waiting(folder):
    return {
        path: path.read_text().splitlines()
        for path in folder.glob("vislib-*.jsonl")
        if "output" not in path.name
    }


def test_files_for_others_follow_the_schema_and_their_answers_come_in_bit_by_bit(ground, elsewhere):
    folder, run = elsewhere
    with pytest.raises(
        InputError,
        match=r"6 requests wait in 2 files .*vllm run-batch -i .* -o .*\.output\.jsonl --model",
    ):
        run()
    (first, lines), (_, others) = sorted(waiting(folder).items(), key=lambda item: -len(item[1]))
    assert len({json.loads(line)["custom_id"] for line in lines + others}) == 6
    assert max(len(json.loads(line)["custom_id"]) for line in lines + others) <= 64
    answers = list(run_batch(lines))
    stranger = json.dumps({"id": "x", "custom_id": "stranger", "response": None, "error": None})
    first.with_suffix(".output.jsonl").write_text(
        "\n".join([answers[0], stranger, "[]", answers[1][:80], answers[0]]) + "\n"
    )
    with pytest.raises(InputError, match="5 requests wait in"):
        run()
    assert len(ground.journal("openai")) == 1
    left = waiting(folder)
    assert sum(map(len, left.values())) == 5
    for path, file in left.items():
        path.with_suffix(".output.jsonl").write_text("\n".join(run_batch(file)))
    answers = texts(run())
    assert answers == [*expected(3), "refused", *expected(6)[4:]]
    assert waiting(folder) == {}
    ground.params.max_failure_rate = 1.0
    assert texts(run()) == answers  # a refusal is settled for a day


def test_an_old_failure_is_not_taken_for_the_answer_to_a_new_question(ground, elsewhere):
    folder, run = elsewhere
    with pytest.raises(InputError):
        run()
    error = {"response": None, "error": {"code": "request_timeout", "message": "slow"}}
    keys = []
    for path, lines in waiting(folder).items():
        keys += (own := [json.loads(line)["custom_id"] for line in lines])
        path.with_suffix(".output.jsonl").write_text(
            "\n".join(json.dumps({"custom_id": key, **error}) for key in own)
        )
    assert texts(run()) == ["request_timeout"] * 6
    for _ in range(2):
        with pytest.raises(InputError, match="6 requests wait"):
            run()
    failed = "SELECT count(*) FROM failures WHERE key = ?"
    assert ground.journal("openai")._one(failed, keys[0]) == (1,)


def test_open_engine_knows_it_and_refuses_what_it_cannot_do(ground, server):
    engine = batch(ground, server)
    run = SimpleNamespace(params=engine.params, journal=ground.journal, folder=ground.folder)
    engine.params.engine = "openai_batch"
    assert isinstance(open_engine(run), OpenAIBatch)
    engine.params.base_url = f"{server.url} {server.url}"
    with pytest.raises(InputError, match="names 2 servers; engine openai_batch takes one"):
        open_engine(run)
