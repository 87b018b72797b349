"""What replies mean, whatever types they hold."""

import json
import random

import pytest

from vislib.engines import Answer
from vislib.engines.replies import Reply, read_body, read_completion

GOOD = {
    "model": "m",
    "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": " Yes. "}}],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}


def message(**change):
    return GOOD | {"choices": [{"finish_reason": "stop", "message": {"content": "Yes."} | change}]}


def test_an_answer_is_read_with_its_tokens():
    answer = read_completion(GOOD)
    assert (answer.status, answer.text, answer.model, answer.finish_reason) == (
        "ok",
        "Yes.",
        "m",
        "stop",
    )
    assert (answer.tokens_in, answer.tokens_cached, answer.tokens_out) == (10, 4, 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"choices": [', "not_json"),
        (b"<html>", "not_json"),
        (b"", "not_json"),
        (b"[1]", "not_json"),
        (b"17", "not_json"),
        (b"null", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 200_000, "not_json"),
        ({}, "no_choices"),
        (GOOD | {"choices": "none"}, "no_choices"),
        (GOOD | {"choices": [3]}, "no_choices"),
        (GOOD | {"choices": [{"message": None}]}, "empty"),
        (GOOD | {"choices": [{"message": "Yes."}]}, "empty"),
        (message(content=None), "empty"),
        (message(content=" \n"), "empty"),
        (message(content=7), "empty"),
        (message(content=None, refusal="No."), "content_filter"),
        (GOOD | {"choices": [{"finish_reason": "length", "message": {"content": "Ye"}}]}, "length"),
        (
            GOOD | {"choices": [{"finish_reason": "content_filter", "message": {}}]},
            "content_filter",
        ),
    ],
)
def test_what_is_no_answer_has_its_reason_and_keeps_its_tokens(body, reason):
    answer = read_body(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert (answer.status, answer.reason, answer.text) == ("failed", reason, "")
    assert answer.tokens_in == (10 if isinstance(body, dict) and "usage" in body else 0)


def test_odd_values_are_no_tokens_and_parts_are_one_text():
    for usage in (
        None,
        "many",
        [1],
        {"prompt_tokens": "9", "completion_tokens": -5},
        {"prompt_tokens": 10**400},
    ):
        assert read_completion(GOOD | {"usage": usage}).tokens_in == 0
    cached = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 50}}
    assert read_completion(GOOD | {"usage": cached}).tokens_cached == 5
    assert (
        read_completion(
            message(content=[{"type": "text", "text": "Y"}, {"x": 1}, {"text": "es."}])
        ).text
        == "Yes."
    )
    half = read_body(json.dumps(message(content="cut \ud83d")).encode()).text  # half an emoji
    assert half.encode() == b"cut ?"
    error = read_completion({"error": {"message": "try later", "code": 503}})
    assert (error.reason, error.detail) == ("no_choices", "{'message': 'try later', 'code': 503}")
    assert read_completion(message(content="cafe\u0301")).text == "café"


def test_no_change_of_any_value_raises():
    chance, odd = (
        random.Random(5),
        [None, "x", -1, 1.5, True, [], {}, [None], [[]], {"a": None}, 10**30, "\ud800"],
    )

    def spoiled(value):
        if chance.random() < 0.15:
            return chance.choice(odd)
        if isinstance(value, dict):
            return {key: spoiled(part) for key, part in value.items() if chance.random() > 0.1}
        return [spoiled(part) for part in value] if isinstance(value, list) else value

    reasons = {read_body(json.dumps(spoiled(GOOD)).encode()).reason for _ in range(3000)}
    assert reasons == {
        "",
        "empty",
        "no_choices",
        "not_json",
        "unfinished",
    }  # an end that is called x


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
        ({"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}, 600),
        ({"retry-after": "1e9"}, 600),
        ({"retry-after": "99:99"}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "120", "retry-after": "1"}, 0.12),
        ({"retry-after": "-1"}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers, wait):
    assert Reply(Answer(), headers).wait == wait
