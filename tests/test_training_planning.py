"""The plan of a training: what each row costs, which cannot be learnt from, and that nothing is
lost in silence.
"""

import json
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from PIL import Image

from vislib.runs import InputError, Run, start_run, tables
from vislib.training import planning, tiny
from vislib.training.labels import Encoder
from vislib.training.models import open_processor
from vislib.training.planning import open_rows
from vislib.training.settings import Settings
from vislib.training.sources import entry
from vislib.training.vicuna import SYSTEM


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.build("tiny-llava", folder)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    (tmp_path / "mix.json").write_text("[]")
    begun = start_run(
        "10_finetuning",
        {
            "conversations": "",
            "images": "",
            "own_data": [str(tmp_path / "mix.json")],
            "run_dir": "runs/demo",
        },
    )
    yield begun
    begun.close()


def settings(run: Run, model: Path, **changes) -> Settings:
    return replace(Settings.of(run.params, model=str(model)), loader_workers=1, **changes)


def row(folder: Path, name: str, *answers: str, images: int = 1, source: str = "visual") -> dict:
    """A row whose pictures lie in `folder` (written when missing), with a question before each
    answer.
    """
    paths = [folder / f"{name}-{number}.png" for number in range(images)]
    for number, path in enumerate(paths):
        if not path.exists():
            Image.effect_noise((40 + 10 * number, 30), 50).convert("RGB").save(path)
    marks = "<image>\n" * images
    turns = []
    for number, answer in enumerate(answers):
        turns.append({"from": "human", "value": ("" if number else marks) + f"Question {number}?"})
        turns.append({"from": "gpt", "value": answer})
    sample = name if source == "visual" else ""
    return entry(name, source, paths, turns, sample=sample)


def lost(name: str, reason: str, detail: str) -> dict:
    return entry(name, "own", [], []) | {"reason": reason, "detail": detail}


def many(folder: Path, count: int) -> list[dict]:
    return [
        row(folder, f"r{number}", f"Answer {number}.", images=number % 3) for number in range(count)
    ]


def plan(run: Run, given: list, chosen: Settings, **others: list) -> str:
    return planning.plan_rows(run, {"row": given, **others}, chosen, name="planning")


def refused(run: Run) -> list[tuple[str, str]]:
    return [(row["id"], row["reason"]) for row in tables.read_rows(run.data / "dropped")]


def forget(run: Run) -> None:
    rmtree(run.scratch / "planning", ignore_errors=True)
    rmtree(run.folder / "shards", ignore_errors=True)


def test_every_row_is_counted_as_the_training_will_see_it(tmp_path, run, model):
    rows = [
        row(tmp_path, "two", "A lamp.", "It is on.", images=2),
        row(tmp_path, "one", "A cat on a mat."),
    ]
    own = [
        row(tmp_path, "text", "Lisbon", images=0, source="own"),
        row(tmp_path, "long", "word " * 400, source="own"),
    ]
    file = plan(run, rows, settings(run, model, max_length=200), own=own)
    found = open_rows(file).to_pylist()
    assert [planned["id"] for planned in found] == ["two", "one", "text", "long"]
    assert open_rows(file).schema.equals(planning.ROWS)
    encoder = Encoder(open_processor(model), max_length=200)
    for given, planned in zip([*rows, *own], found, strict=True):
        encoded = encoder.encode(given)
        kept = [name for name in given if name in planned]
        assert {name: planned[name] for name in kept} == {name: given[name] for name in kept}
        assert planned["tokens"] == len(encoded.input_ids)
        assert planned["supervised_tokens"] == sum(label != -100 for label in encoded.labels)
        assert planned["pixels"] == 56 * 56 * len(given["images"])
        assert planned["image_tokens"] == 16 * len(given["images"])
    assert found[3]["tokens"] == 200
    assert run.metrics["truncated_rows"] == 1
    counts = planning.counts(file)
    assert (counts["rows"], counts["own_rows"], counts["samples"]) == (4, 2, 2)
    assert (counts["text_only_rows"], counts["image_tokens"]) == (1, 64)
    assert counts["tokens"] == sum(planned["tokens"] for planned in found)
    assert run.counts() == {unit: {"taken": 2, "kept": 2, "dropped": {}} for unit in ("own", "row")}


def test_what_cannot_be_learnt_is_refused_with_its_reason_before_anything_is_trained(
    tmp_path, run, model, monkeypatch
):
    monkeypatch.setattr(planning, "MOST_REFUSED", 0.9)
    monkeypatch.setattr(planning, "MOST_UNREADABLE", 0.9)
    broken, gone = row(tmp_path, "broken", "A."), row(tmp_path, "gone", "A.")
    Path(broken["images"][0]).write_bytes(Path(broken["images"][0]).read_bytes()[:200])
    Path(gone["images"][0]).unlink()
    rows = [
        row(tmp_path, "good", "A lamp."),
        broken,
        lost("early", "malformed", "no list of turns"),
        gone,
        row(tmp_path, "blank", " "),
        row(tmp_path, "many", "A.", images=5),
    ]
    fine = row(tmp_path, "fine", "Yes.", source="own")
    file = plan(run, rows, settings(run, model, max_length=120), own=[fine])
    assert open_rows(file).column("id").to_pylist() == ["good", "fine"]
    assert refused(run) == [
        ("broken", "image_truncated"),
        ("early", "malformed"),
        ("gone", "image_missing"),
        ("blank", "no_answer"),
        ("many", "image_cut"),
    ]
    assert all(found["detail"] for found in tables.read_rows(run.data / "dropped"))
    reasons = ("image_cut", "image_missing", "image_truncated", "malformed", "no_answer")
    assert run.counts() == {
        "row": {"taken": 6, "kept": 1, "dropped": dict.fromkeys(reasons, 1)},
        "own": {"taken": 1, "kept": 1, "dropped": {}},
    }


def test_a_source_that_loses_more_than_a_few_rows_stops_the_stage(tmp_path, run, model):
    rows = many(tmp_path, 30)
    kept = [*rows, lost("x", "malformed", "no list of turns")]  # 1 of 31
    assert planning.counts(plan(run, kept, settings(run, model)))["rows"] == 30
    forget(run)
    own = [lost(f"x{number}", "image_missing", "image 0") for number in range(2)]
    with pytest.raises(
        InputError,
        match=r"2 of 2 own rows are refused \(image_missing 2\), such as x0: image 0; at most 5%",
    ):
        plan(run, rows, settings(run, model), **{"own row": own})
    assert refused(run) == [("x0", "image_missing"), ("x1", "image_missing")]
    # what was mended is read anew
    file = plan(run, rows, settings(run, model), **{"own row": rows[:3]})
    assert planning.counts(file)["rows"] == 33
    forget(run)
    with pytest.raises(InputError, match="no row to learn from"):
        plan(run, [], settings(run, model))


def test_rows_of_a_wrong_form_cost_themselves_and_not_the_training(tmp_path, run, model):
    rows: list = many(tmp_path, 20)
    rows += [lost(f"x{number}", "malformed", "no list of turns") for number in range(9)]
    rows += [row(tmp_path, "blank", " "), row(tmp_path, "many", "A.") | {"images": []}]
    assert planning.counts(plan(run, rows, settings(run, model)))["rows"] == 20
    account = run.counts()["row"]
    assert (account["taken"], account["dropped"]["malformed"]) == (31, 9)
    forget(run)
    with pytest.raises(InputError, match="at most 50% may be: mend the rows"):
        plan(run, rows[15:], settings(run, model))


def test_what_was_left_out_of_rows_or_mended_in_them_is_counted(tmp_path, run, model):
    rows = [
        row(tmp_path, "a", "A.", "B."),
        row(tmp_path, "b", "C.", images=0) | {"n_left_out": 2, "n_mended": 3},
    ]
    file = plan(run, rows, settings(run, model))
    assert (run.metrics["turns_left_out"], run.metrics["characters_mended"]) == (2, 3)
    assert planning.counts(file)["rounds"] == 3


def test_a_plan_that_was_stopped_goes_on_and_workers_change_no_byte(
    tmp_path, run, model, monkeypatch
):
    monkeypatch.setattr(planning, "_ROWS_PER_PART", 3)
    chosen, rows, asked = settings(run, model), many(tmp_path, 8), []

    def stop_at(name: str):
        def encode(self: Encoder, given: dict):
            asked.append(given["id"])
            if given["id"] == name:
                raise KeyboardInterrupt
            return real(self, given)

        return encode

    real = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", stop_at("r4"))
    with pytest.raises(KeyboardInterrupt):
        plan(run, rows, chosen)
    asked.clear()
    monkeypatch.setattr(Encoder, "encode", stop_at("none"))
    file = Path(plan(run, iter(()), chosen))  # the rows were gathered before
    assert asked == ["r3", "r4", "r5", "r6", "r7"]
    first = file.read_bytes()
    assert open_rows(file).column("id").to_pylist() == [f"r{number}" for number in range(8)]
    forget(run)
    plan(run, rows, replace(chosen, loader_workers=2))
    assert file.read_bytes() == first


def test_what_carries_loss_is_shown_as_the_model_reads_it(tmp_path, run, model):
    chosen = settings(run, model)
    rows = [
        row(tmp_path, "two", "A lamp.", "Yes.", images=2),
        row(tmp_path, "text", "Lisbon", images=0, source="own"),
    ]
    chosen = replace(chosen, rows=plan(run, rows, chosen))
    two, text = planning.examples(chosen, 9, seed=0)
    assert two["text"] == (
        f"<s>{SYSTEM} USER: <image>×16\n<image>×16\nQuestion 0? ASSISTANT:⟦ A lamp.</s>⟧"
        "USER: Question 1? ASSISTANT:⟦ Yes.</s>⟧"
    )
    assert (two["picture"], text["picture"]) == (rows[0]["images"][0], None)
    assert text["text"] == f"<s>{SYSTEM} USER: Question 0? ASSISTANT:⟦ Lisbon</s>⟧"
    assert [found["id"] for found in planning.examples(chosen, 1, seed=0)] == ["two"]
    assert json.dumps(two["supervised_tokens"])  # plain numbers
