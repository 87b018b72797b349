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
from vislib.training.planning import Planned, plan_rows
from vislib.training.settings import Settings
from vislib.training.sources import Refusal
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
    return {
        "id": name,
        "source": source,
        "images": [str(path) for path in paths],
        "conversations": turns,
    }


def many(folder: Path, count: int) -> list[dict]:
    return [
        row(folder, f"r{number}", f"Answer {number}.", images=number % 3) for number in range(count)
    ]


def accepted(planned: Planned) -> list[dict]:
    return list(tables.read_rows(planned.rows))


def test_every_row_is_counted_as_the_training_will_see_it(tmp_path, run, model):
    rows = [
        row(tmp_path, "two", "A lamp.", "It is on.", images=2),
        row(tmp_path, "one", "A cat on a mat."),
        row(tmp_path, "text", "Lisbon", images=0, source="own"),
        row(tmp_path, "long", "word " * 400, source="own"),
    ]
    chosen = settings(run, model, max_length=200)
    planned = plan_rows(run, rows, chosen)
    found = accepted(planned)
    assert [entry["id"] for entry in found] == ["two", "one", "text", "long"]
    assert tables.open_part(planned.rows).schema_arrow.equals(planning.ROWS)
    encoder = Encoder(open_processor(model), max_length=200)
    for given, entry in zip(rows, found, strict=True):
        encoded = encoder.encode(given)
        assert {name: entry[name] for name in given} == given
        assert entry["n_tokens"] == len(encoded.input_ids)
        assert entry["n_supervised"] == sum(label != -100 for label in encoded.labels)
        assert entry["n_pixels"] == 56 * 56 * len(given["images"])
        assert entry["n_image_tokens"] == 16 * len(given["images"])
    assert found[3]["n_tokens"] == 200
    assert planned.truncated == 1
    counts = planned.counts()
    assert counts["rows"] == counts["visual_rows"] + counts["own_rows"] == 4
    assert (counts["text_only_rows"], counts["image_tokens"]) == (1, 64)
    assert counts["tokens"] == sum(entry["n_tokens"] for entry in found)
    assert planned.account().to_dict("index") == {
        "visual": {"taken": 2, "kept": 2},
        "own": {"taken": 2, "kept": 2},
    }


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
        Refusal("early", "visual", "malformed", "no list of turns"),
        gone,
        row(tmp_path, "blank", " "),
        row(tmp_path, "many", "A.", images=5),
        row(tmp_path, "fine", "Yes.", source="own"),
    ]
    planned = plan_rows(run, rows, settings(run, model, max_length=120))
    assert [entry["id"] for entry in accepted(planned)] == ["good", "fine"]
    assert [(entry["id"], entry["reason"]) for entry in planned.refusals()] == [
        ("early", "malformed"),
        ("broken", "image_truncated"),
        ("gone", "image_missing"),
        ("blank", "no_answer"),
        ("many", "image_cut"),
    ]
    assert all(entry["detail"] for entry in planned.refusals())
    account = planned.account()
    assert account.loc["visual"].to_dict() == {
        "taken": 6,
        "kept": 1,
        "dropped: image_cut": 1,
        "dropped: image_missing": 1,
        "dropped: image_truncated": 1,
        "dropped: malformed": 1,
        "dropped: no_answer": 1,
    }
    assert account.loc["own", ["taken", "kept"]].tolist() == [1, 1]


def test_a_source_that_loses_more_than_a_few_rows_stops_the_stage(tmp_path, run, model):
    rows = many(tmp_path, 30)
    kept = [*rows, Refusal("x", "visual", "malformed", "no list of turns")]  # 1 of 31
    assert plan_rows(run, kept, settings(run, model)).counts()["rows"] == 30
    rmtree(run.scratch / "planning")
    lost = [
        *rows,
        *(Refusal(f"x{number}", "own", "image_missing", "image 0") for number in range(2)),
    ]
    with pytest.raises(
        InputError,
        match=r"2 of 2 rows of the own data are refused \(image_missing 2\), such as x0: image 0",
    ):
        plan_rows(run, lost, settings(run, model))
    assert (run.scratch / "refused.csv").read_text().splitlines()[
        1
    ] == '"x0","own","image_missing","image 0"'
    assert (
        plan_rows(run, kept, settings(run, model)).counts()["rows"] == 30
    )  # what was mended is read anew
    rmtree(run.scratch / "planning")
    with pytest.raises(InputError, match="no row to learn from"):
        plan_rows(run, [], settings(run, model))


def test_rows_of_a_wrong_form_cost_themselves_and_not_the_training(tmp_path, run, model):
    rows: list = many(tmp_path, 20)
    rows += [
        Refusal(f"x{number}", "visual", "malformed", "no list of turns") for number in range(9)
    ]
    rows += [row(tmp_path, "blank", " "), row(tmp_path, "many", "A.") | {"images": []}]
    planned = plan_rows(run, rows, settings(run, model))
    assert planned.counts()["rows"] == 20
    assert planned.account().loc["visual", ["taken", "dropped: malformed"]].tolist() == [31, 9]
    rmtree(run.scratch / "planning")
    with pytest.raises(InputError, match="at most 50% may be: mend the rows"):
        plan_rows(run, rows[15:], settings(run, model))


def test_what_was_left_out_of_rows_or_mended_in_them_stands_in_the_account(tmp_path, run, model):
    rows = [
        row(tmp_path, "a", "A.", "B."),
        row(tmp_path, "b", "C.", images=0) | {"n_left_out": 2, "n_mended": 3},
    ]
    planned = plan_rows(run, rows, settings(run, model))
    assert planned.account().to_dict("index") == {
        "visual": {"taken": 2, "kept": 2, "characters mended": 3, "turns left out": 2}
    }
    counts = planned.counts()
    assert (counts["n_left_out"], counts["n_mended"], counts["rounds"]) == (2, 3, 3)


def test_a_plan_that_was_stopped_goes_on_and_workers_change_no_byte(
    tmp_path, run, model, monkeypatch
):
    monkeypatch.setattr(planning, "_ROWS_PER_SHARD", 3)
    chosen, rows, asked = settings(run, model), many(tmp_path, 8), []

    def stop_at(name: str):
        def encode(self: Encoder, given: dict, images=None):
            asked.append(given["id"])
            if given["id"] == name:
                raise KeyboardInterrupt
            return real(self, given, images)

        return encode

    real = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", stop_at("r4"))
    with pytest.raises(KeyboardInterrupt):
        plan_rows(run, rows, chosen)
    asked.clear()
    monkeypatch.setattr(Encoder, "encode", stop_at("none"))
    planned = plan_rows(run, iter(()), chosen)  # the rows were gathered before
    assert asked == ["r3", "r4", "r5", "r6", "r7"]
    first = planned.rows.read_bytes()
    assert [entry["id"] for entry in accepted(planned)] == [f"r{number}" for number in range(8)]
    rmtree(run.scratch / "planning")
    assert plan_rows(run, rows, replace(chosen, loader_workers=2)).rows.read_bytes() == first


def test_what_carries_loss_is_shown_as_the_model_reads_it(tmp_path, run, model):
    chosen = settings(run, model)
    rows = [
        row(tmp_path, "two", "A lamp.", "Yes.", images=2),
        row(tmp_path, "text", "Lisbon", images=0, source="own"),
    ]
    planned = plan_rows(run, rows, chosen)
    two, text = planning.examples(planned, chosen, 9, seed=0)
    assert two["text"] == (
        f"<s>{SYSTEM} USER: <image>×16\n<image>×16\nQuestion 0? ASSISTANT:⟦ A lamp.</s>⟧"
        "USER: Question 1? ASSISTANT:⟦ Yes.</s>⟧"
    )
    assert (two["picture"], text["picture"]) == (rows[0]["images"][0], None)
    assert text["text"] == f"<s>{SYSTEM} USER: Question 0? ASSISTANT:⟦ Lisbon</s>⟧"
    assert [entry["id"] for entry in planning.examples(planned, chosen, 1, seed=0)] == ["two"]
    assert json.dumps(two["n_supervised"])  # plain numbers
