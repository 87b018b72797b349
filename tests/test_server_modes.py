"""What servers send, each as one public report tells it: kept, dropped with its reason, asked
again, or the end.
"""

import json

import pytest

from tests.engine_ground import Ground, _environment, ask, asking, chat, ground, server  # noqa: F401
from tests.openai_server import completion, error
from vislib.engines import openai
from vislib.runs.errors import InputError
from vislib.runs.locking import FORCE_VARIABLE

TEXT = "A grey bridge crosses a river, and two people walk over it."
HALF = TEXT[:30]


def message(content, finish="stop", *, choice=None, **more):
    body = completion(content, finish=finish)
    body["choices"][0]["message"] |= more
    body["choices"][0] |= choice or {}
    return 200, body, {}


def whole(body):
    return 200, body, {}


FILTERED = "The response was filtered due to the prompt triggering the policy."
INNER = {"innererror": {"code": "ResponsibleAIPolicyViolation"}}
TOLD = {"error": {"message": "Provider returned error", "code": 502}}

GOOD = {
    "plain": message(TEXT),
    "no finish": message(TEXT, None),
    "eos": message(TEXT, "eos_token"),
    "STOP": message(TEXT, "STOP"),
    "end_turn": message(TEXT, "end_turn"),
    "tools and a text": message(TEXT, "tool_calls", tool_calls=[{"id": "1"}]),
    "think": message(f"<think>\nA draft. <Human> maybe?\n</think>\n\n{TEXT}"),
    "think, closed alone": message(f"The user wants a caption.\n</think>\n\n{TEXT}"),
    "kimi": message(f"◁think▷I look.◁/think▷{TEXT}"),
    "magistral": message(f"[THINK]I look.[/THINK]{TEXT}"),
    "glm": message(f"<think>I look.</think><answer>{TEXT}</answer>"),
    "harmony": message(
        "<|channel|>analysis<|message|>I"
        f" look.<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}"
    ),
    "reasoning beside": message(TEXT, reasoning_content="hm " * 50, reasoning="hm"),
    "parts": message([{"type": "text", "text": TEXT}]),
    "thinking parts": message(
        [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": TEXT}]
    ),
    "reasoning parts": message(
        [{"type": "reasoning", "text": "hm. "}, {"type": "text", "text": TEXT}]
    ),
    "null error": whole({**completion(TEXT), "error": None}),
    "no usage": whole({name: value for name, value in completion(TEXT).items() if name != "usage"}),
    "null usage": whole({**completion(TEXT), "usage": None}),
    "kept alive": (200, "\n\n\n   " + json.dumps(completion(TEXT)), {}),
}

# What is no answer: its reason, how often it is asked within a run, whether a rerun asks again.
BAD = {
    "error": (message(HALF, "error"), "server_error", 6, True),
    "error beside": (message(HALF, "error", choice=TOLD), "server_error", 6, True),
    "error beside stop": (message(HALF, choice=TOLD), "server_error", 6, True),
    "error above": (whole({**completion(HALF), **TOLD}), "server_error", 6, True),
    "abort": (message(HALF, "abort"), "server_error", 6, True),
    "model_length": (message(HALF, "model_length"), "length", 2, False),
    "MAX_TOKENS": (message(HALF, "MAX_TOKENS"), "length", 2, False),
    "repetition": (message(HALF, "repetition_truncation"), "unfinished", 1, True),
    "an end of tomorrow": (message(HALF, "new_limit"), "unfinished", 1, True),
    "SAFETY": (message(HALF, "SAFETY"), "content_filter", 1, False),
    "recitation": (message(HALF, "recitation"), "content_filter", 1, False),
    "filter with words": (message(HALF, "content_filter: hate"), "content_filter", 1, False),
    "azure, in a 200": (message(HALF, "content_filter"), "content_filter", 1, False),
    "azure": (error(400, FILTERED, "content_filter"), "content_filter", 1, False),
    "azure, inner code": (
        (400, {"error": {"message": "no", "code": "400", **INNER}}, {}),
        "content_filter",
        1,
        False,
    ),
    "litellm": (
        error(400, "litellm.ContentPolicyViolationError: filtered", "400"),
        "content_filter",
        1,
        False,
    ),
    "flagged": (error(403, "your input was flagged by moderation"), "content_filter", 1, False),
    "reasoning alone": (message(None, reasoning_content=TEXT), "no_text", 1, True),
    "thoughts alone": (message(f"<think>{TEXT}"), "no_text", 1, True),
    "tools alone": (message(None, "tool_calls", tool_calls=[{"id": "1"}]), "no_text", 1, True),
    "too long": (
        error(400, "This model's maximum context length is 2048 tokens.", "400"),
        "refused",
        1,
        False,
    ),
    "no images": (
        error(400, "At most 0 image(s) may be provided in one request."),
        "refused",
        1,
        True,
    ),
    "body says 400": (
        whole({"error": {"message": "At most 0 image(s)", "code": 400}}),
        "refused",
        1,
        True,
    ),
    "html": (200, "<!doctype html><title>Web UI</title>", {}),
    "stream": (200, 'data: {"choices": [{"delta": {"content": "A"}}]}\n\ndata: [DONE]\n\n', {}),
}
BAD["html"], BAD["stream"] = ((BAD[name], "not_json", 6, True) for name in ("html", "stream"))


@pytest.mark.parametrize("mode", GOOD)
def test_an_answer_is_the_text_alone(ground, server, mode):  # noqa: F811
    server.script = lambda prompt, times: GOOD[mode]
    (answer,) = ask(ground, chat(server), asking(1))
    assert (answer.status, answer.text, server.asked.total()) == ("ok", TEXT, 1)


@pytest.mark.parametrize("mode", BAD)
def test_what_is_no_answer_has_its_reason_and_is_kept_no_longer_than_it_holds(ground, server, mode):  # noqa: F811
    reply, reason, tries, again = BAD[mode]
    ground.params.max_failure_rate = 1.0
    server.script = lambda prompt, times: reply
    (answer,) = ask(ground, chat(server), asking(1))
    assert (answer.status, answer.reason, answer.text, server.asked.total()) == (
        "failed",
        reason,
        "",
        tries,
    )
    assert len(ground.journal("openai")) == 0
    server.script = lambda prompt, times: GOOD["plain"]
    (answer,) = ask(ground, chat(server), asking(1))
    assert answer.status == ("ok" if again else "failed")


def test_forced_all_failures_are_asked_again(ground, server, monkeypatch):  # noqa: F811
    ground.params.max_failure_rate = 1.0
    server.script = lambda prompt, times: BAD["azure"][0]
    ask(ground, chat(server), asking(2))
    server.script = None
    assert {a.reason for a in ask(ground, chat(server), asking(2))} == {"content_filter"}
    monkeypatch.setenv(FORCE_VARIABLE, "1")
    assert {a.status for a in ask(ground, chat(server), asking(2))} == {"ok"}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            whole({"error": {"message": "No auth credentials found", "code": 401}}),
            "401.*OPENAI_API_KEY is refused",
        ),
        (
            whole({"error": {"message": "Provider returned error", "code": 429}}),
            "nothing but refusals",
        ),
        (
            whole({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
            "nothing but refusals",
        ),
        (whole({"error": {"message": "no credit", "code": "insufficient_quota"}}), "used up"),
        (
            whole({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
            "404.*ends in /v1",
        ),
        (
            error(400, "'temperature' does not support 0.0 with this model.", "unsupported_value"),
            "temperature -1",
        ),
        (
            error(
                400,
                "litellm.UnsupportedParamsError: no temperature=0.0. Only 1 is supported.",
                "400",
            ),
            "temperature -1",
        ),
        ((422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}, {}), "seed 0"),
    ],
)
def test_what_no_request_would_survive_stops_the_run(ground, server, monkeypatch, reply, said):  # noqa: F811
    monkeypatch.setattr(openai, "_TRIES", {True: 4, False: 4})
    server.script = lambda prompt, times: reply
    with pytest.raises(InputError, match=f"(?s){said}"):
        ask(ground, chat(server, max_in_flight=1), asking(3, seed=7))
    assert len(ground.journal("openai")) == 0


def test_no_key_and_a_wrong_key_read_differently(ground, server, monkeypatch):  # noqa: F811
    for key, said in (
        ("", "No key was sent"),
        ("sk-wrong-0123456789", "in OPENAI_API_KEY is refused"),
    ):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(InputError, match=said):
            ask(ground, chat(server), asking(1))


def bound_of(server):  # noqa: F811
    return {name for name in ("max_tokens", "max_completion_tokens") if name in server.bodies[-1]}


@pytest.mark.parametrize(
    "refusal",
    [
        (
            422,
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "max_completion_tokens"],
                        "msg": "no",
                    }
                ]
            },
            {},
        ),
        error(
            400,
            "Unsupported parameter: 'max_completion_tokens'. Use 'max_tokens' instead.",
            "unsupported_parameter",
        ),
        error(400, "Unrecognized request argument supplied: max_completion_tokens"),
        (422, {"detail": "body"}, {}),
        message(HALF, "length"),  # it knows no bound by that name, and takes its own
    ],
)
def test_the_bound_of_an_answer_is_called_as_the_server_calls_it(ground, server, refusal):  # noqa: F811
    server.script = lambda prompt, times: (
        message(TEXT) if bound_of(server) == {"max_tokens"} else refusal
    )
    answers = ask(ground, chat(server, max_in_flight=1), asking(4))
    assert {a.text for a in answers} == {TEXT}
    assert len(server.bodies) == 5  # once, then it is known
    assert all(body["max_tokens"] == 1024 for body in server.bodies[1:])


def test_both_words_may_be_other_ones(ground, server):  # noqa: F811
    def script(prompt, times):
        last = server.bodies[-1]
        odd = [name for name in ("max_completion_tokens", "response_format") if name in last]
        return (
            (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", odd[0]]}]}, {})
            if odd
            else message(TEXT)
        )

    server.script = script
    assert {
        a.text
        for a in ask(ground, chat(server, max_in_flight=1), asking(3, schema={"type": "object"}))
    } == {TEXT}
    assert len(server.bodies) == 5


def test_answers_of_an_earlier_version_are_read_by_the_rules_of_this_one(ground, server):  # noqa: F811
    server.script = lambda prompt, times: message(TEXT)
    (first,) = ask(ground, chat(server), asking(1))
    journal = ground.journal("openai")
    body = journal.get(first.request_sha) | {"text": f"<think>hm</think>{TEXT}"}
    journal._db.execute("UPDATE answers SET body = ?", (json.dumps(body),))
    assert [a.text for a in ask(ground, chat(server), asking(1))] == [TEXT]
    assert len(server.bodies) == 1
