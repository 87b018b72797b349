"""The engine `openai`, against a real HTTP server on loopback: messages, faults, several
servers.
"""

import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from tests.engine_ground import Ground, _environment, ask, asking, chat, ground, server  # noqa: F401
from tests.load_server import BODIES, ODD, SETTLED, bill, load_server
from tests.openai_server import KEY, MODEL, completion, error, openai_server
from vislib.engines.replies import RETRIED
from vislib.runs.errors import InputError


def test_images_go_as_scaled_data_uris_and_stay_out_of_the_journal(ground, server, tmp_path):  # noqa: F811
    Image.effect_noise((400, 200), 90).convert("RGB").save(tmp_path / "a.png")
    request = replace(
        asking(1)[0], image_id="i1", image_path=tmp_path / "a.png", image_side=100, seed=7
    )
    (answer,) = ask(ground, chat(server), [request])
    assert answer.status == "ok"
    assert server.images == [(100, 50)]
    kept = b"".join(path.read_bytes() for path in ground.folder.glob("openai.sqlite*"))
    assert b"Answer to question 0" in kept
    for part in (
        b"base64",
        b"data:image",
        server.url.encode(),
        b"127.0.0.1",
        KEY.encode(),
        b"a.png",
    ):
        assert part not in kept
    assert {k: v for k, v in server.bodies[0].items() if k != "messages"} == {
        "model": MODEL,
        "max_completion_tokens": 1024,
        "temperature": 0.0,
        "seed": 7,
    }


def test_an_unreadable_image_fails_alone(ground, server, tmp_path):  # noqa: F811
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    ground.params.max_failure_rate = 0.5
    bad = replace(asking(1)[0], image_id="i", image_path=tmp_path / "broken.png")
    first, second = ask(ground, chat(server), [bad, asking(2)[1]])
    assert (first.reason, second.status, len(server.bodies)) == ("image_unreadable", "ok", 1)


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
def test_a_passing_fault_is_tried_again(ground, server, fault):  # noqa: F811
    server.script = lambda prompt, times: FAULTS[fault] if times < 3 else None
    assert {a.status for a in ask(ground, chat(server), asking(3))} == {"ok"}
    assert set(server.asked.values()) == {3}


@pytest.fixture(scope="module")
def faulty():
    with load_server() as url:
        yield url


BROKEN = ("error", "overloaded", "reset", "hang", "cut", "cut_chunk", "drip")


@pytest.mark.parametrize("fault", [*BROKEN, *BODIES, *SETTLED, *ODD])
def test_no_fault_is_without_end_or_reason(faulty, fault):
    engine = chat(base_url=faulty, model="m", timeout_s=0.3 if fault in ("drip", "hang") else 5.0)
    began, request = time.monotonic(), replace(asking(1)[0], prompt=f"{fault}: why?")
    ((_, answer),) = engine.answer(iter([request]))
    asked = bill(faulty)["asked"][request.prompt]
    assert time.monotonic() - began < 55
    if fault in ODD:
        assert (answer.status, answer.tokens_in, asked) == ("ok", 0, 1)
    elif fault in SETTLED:
        tries = (
            2 if fault == "length" else 1
        )  # cut far below its bound: perhaps for the name of the bound
        assert (answer.reason, asked) == (
            "length" if fault == "length" else "content_filter",
            tries,
        )
        assert answer.tokens_in == 100 * tries
    else:
        assert (answer.reason in RETRIED, asked) == (True, 6)
        assert answer.tokens_in == (
            600 if '"prompt_tokens"' in BODIES.get(fault, "") else 0
        )  # each attempt is billed


def test_a_lasting_fault_fails_with_its_reason_and_is_asked_again_in_the_next_run(ground, server):  # noqa: F811
    ground.params.max_failure_rate = 0.5
    fault = error(500, "bad picture data:image/png;base64,AAAA==")
    server.script = lambda prompt, times: fault if prompt[-1] == "0" else None
    answers = ask(ground, chat(server), asking(4))
    assert [(a.status, a.reason) for a in answers] == [("failed", "server_error")] + [
        ("ok", "")
    ] * 3
    assert "500 " in answers[0].detail
    assert "AAAA" not in answers[0].detail
    assert server.asked["question 0"] == 6
    server.script = None
    assert {a.status for a in ask(ground, chat(server), asking(4))} == {"ok"}
    assert server.asked["question 1"] == 1


def test_retry_after_is_waited_for(ground, server):  # noqa: F811
    server.script = lambda prompt, times: (
        error(429, "slow", headers={"Retry-After": "0.6"}) if times == 1 else None
    )
    ask(ground, chat(server), asking(1))
    assert server.times[1] - server.times[0] >= 0.6


def test_a_server_that_has_answered_means_one_request_with_its_403_or_404(ground, server):  # noqa: F811
    ground.params.max_failure_rate = 0.5
    odd = {
        "question 3": error(403, "this input is moderated"),
        "question 4": error(404, "no route"),
    }
    server.script = lambda prompt, times: odd.get(prompt) if times == 1 else None
    engine = chat(server, max_in_flight=1)
    assert [a.reason for a in ask(ground, engine, asking(6))] == ["", "", "", "refused", "", ""]
    assert server.asked["question 4"] == 2


def test_a_400_about_something_else_leaves_the_schema_on(ground, server):  # noqa: F811
    ground.params.max_failure_rate = 0.5
    other = error(400, "the image has unexpected extra bytes")
    server.script = lambda prompt, times: other if prompt == "question 2" else None
    ask(ground, chat(server, max_in_flight=1), asking(4, schema={"type": "object"}))
    assert all("response_format" in body for body in server.bodies)


@pytest.mark.parametrize(
    ("settings", "reply", "said"),
    [
        ({"model": "gpt-unknown"}, None, ["gpt-unknown", "404", "Set model"]),
        ({}, error(401, "Incorrect API key"), ["401", "OPENAI_API_KEY"]),
        ({}, error(429, "You exceeded your quota", "insufficient_quota"), ["used up", "credit"]),
        (
            {},
            error(400, "temperature is not supported", "unsupported_value"),
            [MODEL, "emperature -1"],
        ),
    ],
)
def test_what_no_request_would_survive_stops_with_one_message(
    ground,  # noqa: F811
    server,  # noqa: F811
    settings,
    reply,
    said,
):
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


def test_a_wrong_key_is_not_repeated_in_any_artefact(ground, server, monkeypatch):  # noqa: F811
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
    with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
        ask(ground, chat(server), asking(3))  # this server repeats it in its reply
    assert "sk-wrong" not in str(caught.value)
    assert b"sk-wrong" not in b"".join(p.read_bytes() for p in ground.folder.glob("*"))


def test_a_server_that_is_down_stops_with_one_message(ground):  # noqa: F811
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/v1: no connection.*base_url"):
        ask(ground, chat(base_url="http://127.0.0.1:9/v1"), asking(10))


def test_the_provider_needs_a_key(ground, monkeypatch):  # noqa: F811
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        ask(ground, chat(base_url=""), asking(1))


def test_no_more_requests_exist_than_may_be_in_flight(ground, server):  # noqa: F811
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


def test_what_waits_is_given_up_when_the_run_stops(server):  # noqa: F811
    server.script = lambda prompt, times: error(429, "slow", headers={"Retry-After": "60"})
    engine, began = chat(server), time.monotonic()
    threading.Timer(0.5, engine.stop.set).start()
    assert list(engine.answer(iter(asking(20)))) == []
    assert time.monotonic() - began < 55


def test_several_servers_share_the_work_and_one_may_be_down(ground, server):  # noqa: F811
    server.latency_s = 0.02
    with openai_server(latency_s=0.02) as second:
        ask(
            ground,
            chat(server, base_url=f"{server.url} {second.url} http://127.0.0.1:9/v1"),
            asking(60),
        )
        counts = [len(server.bodies), len(second.bodies)]
    assert sum(counts) == 60
    assert min(counts) > 0  # how evenly is for test_limits, in a time of its own


SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}


@pytest.mark.parametrize(
    "refusal",
    [
        error(
            400,
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this"
            " model.",
        ),
        error(400, "Unrecognized request argument supplied: response_format"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"]}]}, {}),
    ],
)
def test_a_server_without_schemas_is_asked_without_and_others_with(ground, server, refusal):  # noqa: F811
    def script(prompt, times):
        last = next(
            body for body in reversed(server.bodies) if body["messages"][0]["content"] == prompt
        )
        return refusal if "response_format" in last else None

    server.script, server.latency_s = script, 0.02
    with openai_server(latency_s=0.02) as other:
        requests = asking(40, schema=SCHEMA)
        engine = chat(server, base_url=f"{server.url} {other.url}", max_in_flight=6)
        assert {a.status for a in ask(ground, engine, requests)} == {"ok"}
        told = {
            "type": "json_schema",
            "json_schema": {"name": "rounds", "strict": True, "schema": SCHEMA},
        }
        assert all(body["response_format"] == told for body in other.bodies)
    assert (
        1 <= sum("response_format" in body for body in server.bodies) <= 3
    )  # those sent before it was known
    assert len(server.bodies) > 5
