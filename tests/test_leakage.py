"""Stage 14 on small tables, by words and by a model behind a real server; and what the judge by
words reaches on the questions that were labelled by hand.
"""

import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.openai_server import KEY, MODEL, completion, openai_server
from vislib import leakage
from vislib.prompts import load
from vislib.runs import Drop, To, start_run, tables
from vislib.runs.cells import do_work
from vislib.runs.contract import CAPTIONS, CONVERSATIONS, IMAGES, QUESTIONS, SAMPLES

ROOT = Path(__file__).resolve().parents[1]
CHOICE = {
    "question_id": "q1",
    "sample_id": "s1",
    "kind": "contextual",
    "question_type": "multiple_choice",
    "question": "What colour is the rocket?",
    "options": ["Blue", "Red", "Green", "White"],
    "answer": "B",
}
FREE = CHOICE | {
    "question_id": "q2",
    "question_type": "free_form",
    "question": "How high is the tower?",
    "options": [],
    "answer": "It is 41 metres high.",
}


def turns(*values: str) -> list[dict]:
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


def row(question: dict, **changes) -> dict:
    first = "<image>\nWhat colour is the rocket?\nA. Blue"
    talk = turns(first, "B", "Describe.", "…", FREE["question"], "41")
    made = {
        "question": question,
        "caption": {"caption": "A red rocket on a pad."},
        "swapped": {"caption": "A plate of soup."},
        "sample": {
            "doc_id": "d",
            "context": "The tower is 41 metres high.",
            "alt_text": "",
        },
        "image": {"image_id": "i", "path": "files/i.png"},
        "conversation": {
            "conversations": talk,
            "sources": ["multiple_choice", "caption", "free_form"],
        },
    }
    return made | changes


def test_words_say_which_text_suffices_and_nothing_of_the_picture():
    rule = partial(leakage.by_text, least_margin=0.05, least_share=0.5)
    first, second, lost = rule([row(CHOICE), row(FREE), row(FREE, caption=None)])
    assert isinstance(first, To)
    told = first.row
    assert (told["caption"], told["context"], told["swapped"]) == (True, False, False)
    assert (told["image"], told["nothing"], told["verdict"]) == (None, None, "caption")
    assert (told["judge"], told["after_caption"]) == ("text evidence", False)
    assert (second.row["verdict"], second.row["after_caption"]) == ("context", True)
    assert isinstance(lost, Drop)


def test_the_place_of_a_round_is_unknown_where_it_stands_in_no_conversation():
    other = CHOICE | {"question": "Is it new?"}
    assert leakage.after_caption(row(other)) is None
    assert leakage.after_caption(row(CHOICE, conversation=None)) is None


def test_a_model_sees_one_source_and_its_reply_is_compared_with_the_recorded_answer():
    class params:
        temperature, max_answer_tokens, image_side = 0.0, 64, 512

    ask = partial(leakage.request, params=params, template=load("answer_from"), root=Path("data"))
    made = {
        name: ask({"of": row(CHOICE), "source": name}) for name in (*leakage.SOURCES, "nothing")
    }
    assert "A red rocket on a pad." in made["caption"].prompt
    assert "41 metres" in made["context"].prompt
    assert "(none)" in made["nothing"].prompt
    assert made["image"].image_path == Path("data/files/i.png")
    assert not any(made[name].image_id for name in ("caption", "context", "nothing"))
    assert all("B. Red" in one.prompt for one in made.values())
    assert ask({"of": row(CHOICE, image=None), "source": "image"}) == Drop("no_image")

    right = partial(leakage.is_right, least_share=0.5)
    assert [right(CHOICE, said) for said in ("B", "The answer is B.", "unknown", "A or B")] == [
        True,
        True,
        False,
        False,
    ]
    assert [right(FREE, said) for said in ("About 41 metres.", "unknown")] == [True, False]


def test_replies_to_each_source_become_one_row_and_failures_are_counted():
    def reply(source, text, status="ok"):
        answer = {"text": text, "status": status, "reason": "timeout", "model": "m"}
        return {"of": row(CHOICE), "source": source, "answer": answer}

    some = [reply("caption", "B"), reply("image", "B"), reply("nothing", "", "failed")]
    note, told = leakage.by_model([{"replies": some}], least_share=0.5)
    assert (note.name, told.row["judge"]) == ("failed_nothing_timeout", "m")
    assert (told.row["verdict"], told.row["context"], told.row["nothing"]) == (
        "several",
        None,
        None,
    )
    nothing = [{"replies": [reply("caption", "", "failed")]}]
    failed, lost = leakage.by_model(nothing, least_share=0.5)
    assert (failed.name, lost) == ("failed_caption_timeout", Drop("no_answer"))


def test_what_the_judge_by_words_reaches_on_labelled_questions_is_what_the_readme_says():
    golden = ROOT / "tests/golden/sample/14_leakage.answerable.jsonl"
    columns, *rows = map(json.loads, golden.read_text().splitlines())
    judged = {one[0]: dict(zip(columns, one, strict=True)) for one in rows}
    labels = list(csv.DictReader((ROOT / "vislib/sample/labels/leakage.csv").open()))
    assert len({one["question_id"] for one in labels}) == 100
    confusion = Counter(
        (source, one[source] == "1", judged[one["question_id"][:8]][source])
        for one in labels
        if one["use"] == "held_out"
        for source in ("caption", "context")
    )
    # 36 of 50 captions and 20 of 43 pages that suffice are found; 1 of 7 pages that do not is taken
    assert confusion == {
        ("caption", True, True): 36,
        ("caption", True, False): 14,
        ("context", True, True): 20,
        ("context", True, False): 23,
        ("context", False, False): 6,
        ("context", False, True): 1,
    }
    assert sum(one["swapped"] for one in judged.values()) < 0.04 * len(judged)


@pytest.fixture
def inputs(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (tmp_path / "files").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "files/i.png")
    talk = {"id": "s1", "images": ["i"], "sample_id": "s1", "doc_id": "d"}
    caption = {"sample_id": "s1", "kind": "contextual", "status": "ok"}
    made = {
        "questions": (QUESTIONS, [one | {"status": "ok"} for one in (CHOICE, FREE)]),
        "captions": (CAPTIONS, [caption | row(CHOICE)["caption"]]),
        "samples": (SAMPLES, [{"sample_id": "s1", "image_url": "u"} | row(CHOICE)["sample"]]),
        "images": (IMAGES, [{"image_url": "u"} | row(CHOICE)["image"]]),
        "conversations": (CONVERSATIONS, [talk | row(CHOICE)["conversation"]]),
    }
    for name, (schema, rows) in made.items():
        filled = [dict.fromkeys(schema.names) | one for one in rows]
        tables.write_table(tmp_path / name, schema, filled)
    return {name: str(tmp_path / name) for name in made} | {"labels": ""}


def judged(inputs, **parameters) -> dict[str, dict]:
    run = start_run("14_leakage", inputs | parameters)
    do_work(run)
    run.finish()
    rows = tables.read_rows(run.stage.folder / "data/answerable")
    return {one["question_id"]: one for one in rows}


def test_the_notebook_by_words_and_by_a_model_that_sees_one_source_at_a_time(inputs):
    words = judged(inputs)
    assert [words[name]["verdict"] for name in ("q1", "q2")] == ["caption", "context"]
    assert [words[name]["after_caption"] for name in ("q1", "q2")] == [False, True]

    def reply(prompt, times):
        known = "red rocket" in prompt and "colour" in prompt
        height = "41 metres" if "is 41" in prompt else "unknown"
        return 200, completion("B" if known else height), {}

    with openai_server(script=reply) as server:
        found = judged(inputs, engine="openai", model=MODEL, base_url=server.url)
        assert len(server.bodies) == 8
        assert server.images == [(64, 48)] * 2
    assert {one["judge"] for one in found.values()} == {MODEL}
    first, second = found["q1"], found["q2"]
    assert [first[name] for name in ("caption", "image", "nothing")] == [True, False, False]
    assert (second["context"], second["swapped"]) == (True, None)
