"""Rounds in JSON: what a strict server is sent and what any server answers; checks on rounds, in
the stage's tables.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.openai_server import completion, openai_server
from tests.test_qa_format import CHOICE, FREE, faults
from tests.test_qa_generation import N, _environment, counts, generate, rows, write_tables  # noqa: F401
from tests.work import requests
from vislib import qa_generation
from vislib.prompts import load
from vislib.qa_format import (
    REASONS,
    Round,
    parse_free_form,
    parse_multiple_choice,
    render_rounds,
)
from vislib.qa_json import SCHEMAS
from vislib.qa_options import LETTERS
from vislib.runs import start_run


def free_json(rounds: tuple[Round, ...] = FREE) -> str:
    return json.dumps({"rounds": [{"question": r.question, "answer": r.answer} for r in rounds]})


def choice_json(rounds: tuple[Round, ...] = CHOICE) -> str:
    return json.dumps(
        {
            "rounds": [
                {
                    "question": r.question,
                    "options": dict(zip(LETTERS, r.options, strict=True)),
                    "answer": r.answer,
                }
                for r in rounds
            ]
        }
    )


FORMS = {
    "bare": lambda text: text,
    "indented": lambda text: json.dumps(json.loads(text), indent=4),
    "fence": lambda text: f"```json\n{text}\n```",
    "prose": lambda text: (
        f"Sure! Here are the rounds {{as asked}}:\n\n{text}\n\nLet me know if you need more."
    ),
    "thoughts": lambda text: f'<think>{{"question": "Why?"}} or <Human> Why?</think>\n{text}',
    "list": lambda text: json.dumps(json.loads(text)["rounds"]),
    "lines": lambda text: "\n".join(json.dumps(r) for r in json.loads(text)["rounds"]),
    "numbered": lambda text: json.dumps(
        [{"round": i, **r} for i, r in enumerate(json.loads(text)["rounds"], 1)]
    ),
    "end of turn": lambda text: text + "<|im_end|>",
    "cut": lambda text: text[:-2] + ', {"question": "What is the harbour wall made of, and when w',
}


@pytest.mark.parametrize("form", FORMS)
def test_json_in_every_form(form: str) -> None:
    assert parse_free_form(FORMS[form](free_json())).rounds == FREE
    assert parse_multiple_choice(FORMS[form](choice_json())).rounds == CHOICE


@pytest.mark.parametrize(
    "options",
    [
        ["Red", "Dark blue", "White", "Green"],
        ["A. Red", "B. Dark blue", "C. White", "D. Green"],
        ["a) Red", "b) Dark blue", "c) White", "d) Green"],
        {"D": "Green", "C": "White", "B": "Dark blue", "A": "Red"},
    ],
)
@pytest.mark.parametrize("answer", ["B", "B. Dark blue", "Dark blue", "b", "Option B"])
def test_options_and_letters_as_servers_without_a_schema_write_them(
    options: Any, answer: str
) -> None:
    text = json.dumps({"question": CHOICE[0].question, "options": options, "answer": answer})
    assert parse_multiple_choice(text).rounds == CHOICE[:1]


FOUR = {"A": "red", "B": "blue", "C": "white", "D": "green"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "", "options": FOUR, "answer": "A"}, "empty_question"),
        ({"question": "What?", "options": FOUR, "answer": ""}, "missing_answer"),
        ({"question": "What?", "options": FOUR}, "missing_answer"),
        ({"question": "What?", "answer": "A"}, "missing_options"),
        ({"question": "What?", "options": "red, blue", "answer": "A"}, "not_four_options"),
        (
            {"question": "What?", "options": ["red", "blue", "white"], "answer": "A"},
            "not_four_options",
        ),
        ({"question": "What?", "options": FOUR | {"E": "grey"}, "answer": "A"}, "not_four_options"),
        ({"question": "What?", "options": FOUR | {"B": " "}, "answer": "A"}, "empty_option"),
        ({"question": "What?", "options": FOUR | {"B": "Red."}, "answer": "A"}, "repeated_options"),
        ({"question": "What?", "options": FOUR, "answer": "E"}, "answer_not_an_option"),
        (
            {"question": "What?", "options": FOUR, "answer": "B. white"},
            "answer_contradicts_options",
        ),
        ({"question": "What?", "options": FOUR, "answer": "B and C"}, "several_answers"),
        ({"question": ["What?"], "options": FOUR, "answer": "A"}, "empty_question"),
    ],
)
def test_json_is_dropped_for_the_same_reasons(fields: dict[str, Any], reason: str) -> None:
    assert faults(parse_multiple_choice(json.dumps({"rounds": [fields]}))) == [reason]


def test_broken_rounds_and_what_comes_first() -> None:
    broken = '{"question": "What?", "answer": }, ' + free_json()
    assert faults(parse_free_form(broken)) == ["broken_json", "", "", ""]
    assert faults(parse_free_form(free_json(FREE * 3))) == [""] * 5 + ["beyond_five_rounds"] * 4
    assert faults(parse_free_form('{"rounds": []}')) == ["no_rounds"]
    told = Round(
        "What does the screen show?", (), 'A line of JSON: {"question": "Why?", "answer": "So."}'
    )
    assert parse_free_form(render_rounds([told])).rounds == (told,)
    assert (
        parse_free_form(free_json((Round("What?", (), "It reads <Human> in red."),)))
        .rounds[0]
        .answer[9:16]
        == "<Human>"
    )
    assert parse_free_form('{"question": "\\ud800 a", "answer": "b\\r\\nc"}').rounds == (
        Round("? a", (), "b\r\nc"),
    )


@pytest.mark.parametrize(
    "unit",
    [
        "{",
        '{"question":',
        '{"question": [',
        '{"question": "a", ',
        '{"a": 1, ',
        '[{"question": {"b": [',
        '{ "',
    ],
)
def test_a_megabyte_of_braces_takes_linear_time(unit: str) -> None:
    began = time.process_time()
    parsed = parse_multiple_choice(unit * (1_000_000 // len(unit)))
    assert time.process_time() - began < 5  # a quadratic reader would take hours
    assert set(faults(parsed)) <= {"broken_json", "no_rounds"} <= set(REASONS)


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield from [schema] if "type" in schema else []
        for value in schema.values():
            yield from objects(value)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_hold_to_what_strict_modes_take(name: str) -> None:
    found = list(objects(SCHEMAS[name]))
    assert len(found) > 4
    for schema in found:
        assert set(schema) <= {
            "type",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "enum",
        }
        if schema["type"] == "object":
            assert schema["required"] == list(schema["properties"])
            assert schema["additionalProperties"] is False
    form = load(f"{name}_json").text.splitlines()[-1]
    example = json.loads(form)["rounds"][0]
    assert list(example) == SCHEMAS[name]["properties"]["rounds"]["items"]["required"]


def reply(prompt: str, times: int) -> tuple[int, Any, dict[str, str]]:
    return 200, completion(choice_json() if '"options"' in prompt else free_json()), {}


def test_json_requests_and_tables_of_the_stage(tmp_path) -> None:
    inputs = write_tables(tmp_path / "data")
    with openai_server(script=reply) as server:
        run, _ = generate(inputs, server.url, answer_format="json", shuffle_options=False)
        asked = requests(start_run("07_qa_generation", {**inputs}))
    prompts = [body["messages"][-1]["content"] for body in server.bodies]
    assert all(prompt.split("\n")[-1].startswith('{"rounds": [{"question"') for prompt in prompts)
    read = [Round(r["question"], tuple(r["options"]), r["answer"]) for r in rows(run)]
    assert read == [*FREE, *CHOICE] * 2 * (N - 1)
    assert all(request.schema is None and "JSON" not in request.prompt for request in asked)
    assert {request.prompt_sha for request in asked} == {load(name).sha for name in SCHEMAS}
    assert not {request.prompt_sha for request in asked} & {row["prompt_sha"] for row in rows(run)}


FAULTY = (
    Round("I'm sorry, but I can't assist with that?", (), "No."),
    Round("Why?", (), "It was so. " + "The man stands next to a wooden table in a room. " * 6),
    Round(
        "Where?",
        (),
        "It lies in the harbour. The wall is long. On the other side of it there are many bo",
    ),
    Round("Who?", (), "<image> shows her."),
    Round("What colour is it?", (), "Red."),
)


def test_rounds_that_fail_a_check_are_dropped_with_their_reason(tmp_path) -> None:
    tables = write_tables(tmp_path / "data", caption="A boat {i} lies at the pier ({kind}).")
    with openai_server(
        script=lambda prompt, times: (200, completion(free_json(FAULTY)), {})
    ) as server:
        run, shown = generate(tables, server.url)
        free = [row for row in rows(run) if row["question_type"] == "free_form"][:5]
        assert [row["reason"] for row in free] == [
            "refusal",
            "repetition",
            "truncation",
            "leakage",
            "",
        ]
        assert [row["status"] for row in free] == ["dropped"] * 4 + ["ok"]
        assert free[0]["question"] == FAULTY[0].question
        assert set(counts(run, "round")["dropped"]) == {
            *(row["reason"] for row in free[:4]),
            "missing_options",
        }
        assert set(counts(run, "round")["dropped"]) < set(qa_generation.REASONS)
        details = {row["reason"]: row["detail"] for row in rows(run, "dropped")}
        assert details["leakage"] == "<image> … in: <image> shows her."
        assert "(refusal)" in shown[0]["free_form"]
        run, _ = generate(tables, server.url, checks=["truncation"])
        assert set(counts(run, "round")["dropped"]) == {"truncation", "missing_options"}
        assert len(server.bodies) == 4 * (N - 1)  # another choice of checks asks nothing again


@pytest.mark.parametrize(
    "text",
    [
        '{"rounds":[{"question":"What\\\'s it?","answer":"It\\\'s \\(a\\) cat.",},],}',
        "{'rounds': [{'question': 'What\\'s it?', 'answer': 'It\\'s (a) cat.'}]}",
        "{'rounds': [{'question': \"What's it?\", 'answer': \"It's (a) cat.\", 'note': None}]}",
        "{'question': 'What's it?', 'answer': 'It's (a) cat.'}",
        '[{"Question": "What\'s it?", "Answer": "It\'s (a) cat."}]',
        '[{"ANSWER": "It\'s (a) cat.", "QUESTION": "What\'s it?"}]',
        "{“question”: “What's it?”, “answer”: “It's (a) cat.”}",
        '{"type": "quiz", "rounds": [{"answer": "It\'s (a) cat.", "question": "What\'s it?"}]}',
    ],
)
def test_json_as_models_write_it_without_a_schema(text: str) -> None:
    assert parse_free_form(text).rounds == (Round("What's it?", (), "It's (a) cat."),)


def test_a_bare_quote_within_a_string() -> None:
    text = '{"question": "What does it say?", "answer": "It says "Open", twice."}'
    assert faults(parse_free_form(text)) == ["broken_json"]  # where it ends cannot be known
    text = '{"question": "What does it say?", "answer": "It says "Open" today."}'
    assert parse_free_form(text).rounds[0].answer == 'It says "Open" today.'


@pytest.mark.parametrize(
    "fields",
    [
        (
            '"options": {"A": "Red", "B": "Blue", "C": "Green", "D": "White"}, "question":'
            ' "Which?", "answer": "B"'
        ),
        (
            '"type": "multiple_choice", "options": {"d": "White", "c": "Green", "b": "Blue", "a":'
            ' "Red"}, "question": "Which?", "answer": "b"'
        ),
        (
            '"answer": "B", "Choices": ["A. Red", "B. Blue", "C. Green", "D. White",], "question":'
            ' "Which?"'
        ),
        '"question": "Which?", "A": "Red", "B": "Blue", "C": "Green", "D": "White", "answer": "B"',
        (
            '"question": "Which?", "options": "A. Red, B. Blue, C. Green, D. White",'
            ' "correct_answer": "B"'
        ),
        (
            '"question": "Which?", "answer": "B",'
            '"options": {"A": "A. Red", "B": "B. Blue", "C": "C. Green", "D": "D. White"}'
        ),
        (
            '"question": "Which?", "options": ["A、Red", "B、Blue", "C、Green", "D、White"],'
            ' "answer": "答案：B"'
        ),
    ],
)
def test_options_in_json_in_any_order_and_form(fields: str) -> None:
    expected = (Round("Which?", ("Red", "Blue", "Green", "White"), "B"),)
    assert parse_multiple_choice(f"```json\n[{{{fields}}}]\n```").rounds == expected


def test_braces_that_are_no_rounds_do_not_hide_the_rounds_after_them() -> None:
    text = 'The sign reads {"a": 1, "b": 2} and {"type": "x".\n' + render_rounds(FREE)
    assert parse_free_form(text).rounds == FREE
