"""`vislib.evaluation`: held-out questions asked of every model, scored and compared."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from vislib import evaluation
from vislib.runs import InputError, Run, short_hash, start_run, tables
from vislib.runs.contract import CONVERSATIONS, HITS, IMAGES
from vislib.training.generation import Question, model_key, question_key
from vislib.training.tiny import build

ASK = (
    "\nA. red\nB. green\nC. dark blue\nD. grey\nGive the letter of the right option and nothing"
    " else."
)
ROUNDS = [
    ("multiple_choice", f"Which colour?{ASK}", "A"),
    ("free_form", "What is it?", "A red square."),
    ("multiple_choice", f"Which other colour?{ASK}", "C"),
]
MODES = ("RGB", "RGB", "CMYK", "lost", "failed")  # of the samples' pictures


def write_inputs(root: Path) -> None:
    """Five held-out samples of three rounds: one file is gone, one was never fetched.

    One question is too long for a tiny model.
    """
    folder = root / "08_merging" / "data" / "contextual" / "questions"
    test, train = (
        tables.TableWriter(folder, CONVERSATIONS, stem=stem) for stem in ("test", "train")
    )
    images = tables.TableWriter(root / "03_images" / "data" / "images", IMAGES)
    (root / "03_images/data/files").mkdir(parents=True)
    for number, mode in enumerate(MODES):
        name = short_hash(str(number))
        path = root / "03_images/data/files" / f"{name}.jpg"
        if mode in ("RGB", "CMYK"):
            Image.new("RGB", (40 + number, 30), ("red", "gold", "navy")[number]).convert(mode).save(
                path
            )
        row = {"image_url": f"http://p.example/{number}", "image_id": name}
        row["path"] = None if mode == "failed" else f"files/{name}.jpg"
        images.write(dict.fromkeys(IMAGES.names) | row | {"status": "ok"})
        turns = [
            {"from": who, "value": text}
            for _, asked, said in ROUNDS
            for who, text in (("human", asked), ("gpt", said))
        ]
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        turns[2]["value"] *= 2000 if mode == "CMYK" else 1  # more than a tiny model can read
        row = {
            "id": name,
            "images": [name],
            "conversations": turns,
            "sample_id": name,
            "doc_id": f"page {number // 2}",
        }
        (train if number == 99 else test).write(row | {"sources": [kind for kind, _, _ in ROUNDS]})
    for writer in (test, train, images):
        writer.close()


def write_model(root: Path, variant: str, *, model="m", arm="", seed=0) -> str:
    """A folder that is named as a model and never opened: its answers stand in the journal."""
    folder = root / f"10_finetuning.{variant}" / "data" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"variant": variant}))
    (folder / "training.json").write_text(
        json.dumps({"model": model, "arm": arm or variant, "seed": seed})
    )
    return f"10_finetuning.{variant}/model"


@pytest.fixture
def ground(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("LMMS_PYTHON", raising=False)
    root = tmp_path / "runs" / "demo"
    write_inputs(root)
    return root


def begin(models: list[str], **parameters) -> Run:
    given = {
        "models": models,
        "run_dir": "runs/demo",
        "max_questions": 0,
        "device": "cpu",
    }
    return start_run("12_evaluation", given | parameters)


def evaluate(run: Run) -> None:
    """The work of the notebook."""
    evaluation.answer(run)
    evaluation.compare(run)


def told(run: Run, model: str, answers: dict[str, str]) -> None:
    """Put a model's answers to the askable questions into the journal: by id, else by type."""
    place = str(run.stage.run / model.replace("/model", "/data/model"))
    for item in evaluation.load_questions(run)[0]:
        limit = (
            run.params.max_answer_tokens_choice
            if item.type == "multiple_choice"
            else run.params.max_answer_tokens_free
        )
        key = question_key(model_key(place), Question(item.text, str(item.image), limit))
        text = answers.get(item.id, answers.get(item.type, ""))
        run.journal("generation").put(key, {"text": text, "tokens": 1})


def contents(run: Run) -> dict[str, str]:
    files = sorted(p for p in run.data.rglob("*") if p.is_file())
    return {str(p.relative_to(run.data)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(run: Run, table: str) -> list[dict]:
    return list(tables.read_rows(run.data / table))


def test_answers_become_results_scores_and_comparisons(ground):
    models = [write_model(ground, name) for name in ("base", "leaky_mix")]
    run = begin(models, reference="base")
    first = evaluation.load_questions(run)[0][0].id
    told(run, models[0], {"multiple_choice": "The answer is A.", "free_form": "A red square on it"})
    told(
        run,
        models[1],
        {"multiple_choice": "A", "free_form": "Red", first: "Dark blue", f"{first[:-1]}3": "C"},
    )
    evaluate(run)
    results = rows(run, "results")
    asked = [r for r in results if r["arm"] == "leaky_mix"]
    assert [r["sample_id"] for r in asked] == [
        r["sample_id"] for r in results if r["arm"] == "base"
    ]
    assert {r["benchmark"] for r in results} == {"vislib_contextual"}
    assert len({r["sample_id"] for r in asked}) == len(asked) == 3 * 3
    assert asked[0] == {
        "model": "m",
        "arm": "leaky_mix",
        "seed": 0,
        "benchmark": "vislib_contextual",
        "sample_id": first,
        "question_type": "multiple_choice",
        "prediction": "Dark blue",
        "answer": "A",
        "correct": False,
        "parsed": True,
        "strictly_correct": False,
        "words": 2,
        "points": None,
        "lenient": 0.0,
        "cluster": "page 0",
    }
    free = next(r for r in asked if r["question_type"] == "free_form")
    assert (free["answer"], free["correct"], free["parsed"], free["words"]) == (
        "A red square.",
        None,
        None,
        1,
    )
    scores = {r["arm"]: r for r in rows(run, "scores")}
    assert (scores["base"]["n"], scores["base"]["accuracy"], scores["base"]["strict_accuracy"]) == (
        6,
        0.5,
        0.0,
    )
    assert (scores["leaky_mix"]["accuracy"], scores["leaky_mix"]["strict_accuracy"]) == (0.5, 0.5)
    (compared,) = rows(run, "comparisons")
    assert [compared[name] for name in ("arm", "reference", "n", "b", "c", "p")] == [
        "leaky_mix",
        "base",
        6,
        1,
        1,
        1.0,
    ]
    assert (compared["clusters"], compared["p_clustered"], compared["claim"]) == (
        2,
        1.0,
        "these two checkpoints",
    )
    assert (scores["base"]["clusters"], scores["base"]["lenient_accuracy"]) == (2, 0.5)
    assert rows(run, "dropped")[0]["reason"] == "image_missing"
    dropped = {"image_missing": 6}
    assert run.counts()["question"] == {"taken": 15, "kept": 9, "dropped": dropped}
    wrong = evaluation.wrong_answers(run, 3)
    assert len(wrong) == 3
    assert all(row["picture"].is_file() and row["question"].startswith("Which") for row in wrong)
    before = contents(run)
    run.finish()
    again = begin(models, reference="base", batch_size=4)
    evaluate(again)  # asks nothing: there is no model
    assert contents(again) == before


def test_scores_stand_with_and_without_what_the_data_held(ground):
    model = write_model(ground, "base")
    run = begin([model])
    first, second = [q.id for q in evaluation.load_questions(run)[0]][:2]
    told(run, model, {"multiple_choice": "A", "free_form": "Red", second: "C"})
    evaluate(run)
    (before,) = rows(run, "scores")
    run.finish()
    named = {"unit": "question", "source": "data", "id": "q", "method": "words", "score": 1.0}
    found = [
        named | {"benchmark": "vislib_contextual", "item": first, "picture": ""},
        named | {"benchmark": "ai2d", "item": first, "picture": ""},  # was not asked
        named | {"benchmark": "vislib_contextual", "item": "?", "picture": "page 1"},
    ]
    tables.write_table(ground / "16_contamination/data/hits", HITS, found)
    run = begin([model], hits="16_contamination/hits")
    evaluate(run)
    whole, clean = rows(run, "scores")
    assert whole == before
    assert (whole["benchmark"], clean["benchmark"]) == (
        "vislib_contextual",
        "vislib_contextual_without_hits",
    )
    held = {first} | {r["sample_id"] for r in rows(run, "results") if r["cluster"] == "page 1"}
    scored = [r for r in rows(run, "results") if r["correct"] is not None]
    left = [r["correct"] for r in scored if r["sample_id"] not in held]
    assert clean["n"] == len(left) < whole["n"]
    assert clean["accuracy"] == sum(left) / len(left)
    assert run.metrics["hits_not_tied"] == 1


def test_other_questions_of_this_form_have_a_name_of_their_own(ground):
    model = write_model(ground, "base")
    run = begin([model], benchmark="easy_vqa")
    told(run, model, {"multiple_choice": "A", "free_form": "Red"})
    evaluate(run)
    assert {r["benchmark"] for r in rows(run, "results")} == {"easy_vqa"}
    assert [r["benchmark"] for r in rows(run, "scores")] == ["easy_vqa"]


def test_the_same_questions_are_chosen_for_every_model(ground):
    models = [write_model(ground, name) for name in ("base", "leaky_mix")]
    run = begin(models, max_questions=2)
    for model in models:
        told(run, model, {"multiple_choice": "A"})
    evaluate(run)
    chosen = [
        {r["sample_id"] for r in rows(run, "results") if r["arm"] == name}
        for name in ("base", "leaky_mix")
    ]
    assert chosen[0] == chosen[1]
    assert rows(run, "comparisons") == []  # no reference
    other = begin(models, max_questions=2, seed=1)
    assert {item.id for item in evaluation.load_questions(other)[0]} != chosen[0]
    few = begin(models, max_questions=1)
    assert {item.id for item in evaluation.load_questions(few)[0]} < {
        item.id for item in evaluation.load_questions(begin(models))[0]
    }


def test_a_real_model_answers_once_and_a_question_that_fails_is_dropped(ground):
    place = ground / "10_finetuning.tiny" / "data" / "model"
    build("tiny-llava", place)
    models = [
        "10_finetuning.tiny/model",
        "tiny-llava",
    ]  # its own arm, and the same weights under its installed name
    (place / "training.json").write_text(
        json.dumps({"model": "tiny-llava", "arm": "base", "seed": 3})
    )
    broken = ground / "03_images/data/files" / f"{short_hash('1')}.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    run = begin(models, max_answer_tokens_free=5)
    evaluate(run)
    results = rows(run, "results")
    assert [(r["arm"], r["seed"]) for r in results[::5]] == [("base", 3), ("untrained", 0)]
    assert [r["prediction"] for r in results[:5]] == [r["prediction"] for r in results[5:]]
    assert all(r["prediction"] for r in results)
    dropped = {"too_long": 2, "image_truncated": 6}
    assert run.counts()["answer"] == {"taken": 18, "kept": 10, "dropped": dropped}
    assert {r["n"] for r in rows(run, "scores")} == {4}
    assert len(run.journal("generation")) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "models is empty"),
        (
            {"models": ["10_finetuning.base/model", "10_finetuning.base/model"]},
            "holds m/base/0 twice",
        ),
        ({"reference": "leaky"}, "reference is 'leaky'; the arms of models: base, or empty"),
        ({"evaluator": "lmms_eval"}, "lmms_python is ''"),
        ({"evaluator": "lmms_eval", "lmms_python": "/usr/bin/false"}, "lmms-eval cannot be had"),
        ({"evaluator": "lmms_eval", "tasks": ["mmbench_en_dev"]}, "name mmbench_en_dev_static"),
        ({"images": "03_images/none"}, "test files hold no .* 15 lack options"),
    ],
)
def test_what_cannot_be_evaluated_is_said_with_its_mend(ground, change, message):
    write_model(ground, "base")
    if "images" in change:
        (ground / "03_images/data/none").mkdir()
    given = {"models": ["10_finetuning.base/model"], **change}
    with pytest.raises(InputError, match=message) as caught:
        evaluate(begin(**given))
    assert "\n" not in str(caught.value)


def test_nothing_held_out_is_an_error(ground):
    table = ground / "08_merging/data/contextual/questions"
    (table / "test-00000.parquet").rename(table / "train-00001.parquet")
    with pytest.raises(
        InputError, match="test files hold no multiple-choice question that can be asked, 0 lack"
    ):
        evaluate(begin([write_model(ground, "base")]))
