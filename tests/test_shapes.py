"""`vislib.shapes`: easy-VQA's pictures and questions in the forms that 10 and 12 read."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import easy_vqa
import pytest
from PIL import Image

from vislib import evaluation, shapes
from vislib.qa_options import options_in
from vislib.runs import start_run, tables
from vislib.training.sources import contract_rows

SIZES = {"train_pictures": 12, "test_pictures": 5, "questions_per_picture": 2}


def make(runs: Path, monkeypatch: pytest.MonkeyPatch, **changes: int) -> Path:
    """The data of a run of the stage."""
    monkeypatch.setenv("VISLIB_RUNS", str(runs))
    run = start_run("00_shapes", SIZES | changes | {"run_dir": "runs/demo"})
    shapes.load_shapes(run)
    run.finish()
    return run.data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield make(tmp_path_factory.mktemp("runs"), monkeypatch)


def rows(data: Path, split: str) -> list[tables.Row]:
    parts = tables.parts(data / "questions")
    return [row for part in parts if part.name.startswith(split) for row in tables.read_rows(part)]


def test_all_thirteen_answers_have_a_type_and_a_letter_each() -> None:
    known = [answer for options in shapes.OPTIONS.values() for answer in options]
    assert sorted(known) == sorted(easy_vqa.get_answers())
    row = shapes.conversation(
        [("what color is the circle?", "gray"), ("a circle?", "yes")], "an id"
    )
    asked, said, second, yes = (turn["value"] for turn in row["conversations"])
    assert second.startswith("a circle?\nA. no\nB. yes\n")
    assert yes == "B"
    assert asked.startswith("<image>\nwhat color is the circle?\nA. black\n")
    assert options_in(asked)[shapes.ALPHABET.index(said)] == "gray"


def test_the_whole_package_is_read() -> None:
    sizes = {}
    for split in ("train", "test"):
        pictures = shapes.load_pictures(split)
        sizes[split] = len(pictures), sum(map(len, pictures.values()))
        assert all(file.is_file() for file in pictures)
    assert sizes == {"train": (4000, 38575), "test": (1000, 9673)}


def test_what_is_learnt_asks_for_colour_and_shape_first(data: Path) -> None:
    learnt = rows(data, "train")
    assert len(learnt) == 12
    for row in learnt:
        sizes = [len(options_in(turn["value"])) for turn in row["conversations"][::2]]
        assert len(sizes) <= 2
        assert sizes == sorted(set(sizes), reverse=True)


def test_a_test_picture_has_all_its_questions(data: Path) -> None:
    pictures = {file.name: len(own) for file, own in shapes.load_pictures("test").items()}
    names = {r["image_id"]: Path(r["image_url"]).name for r in tables.read_rows(data / "images")}
    found = {names[row["images"][0]]: len(row["sources"]) for row in rows(data, "test")}
    assert len(found) == 5
    assert all(pictures[name] == number for name, number in found.items())


def test_the_control_is_the_same_rows_through_a_ledger_of_one_plain_picture(data: Path) -> None:
    seen, blank = (list(tables.read_rows(data / name)) for name in ("images", "blank"))
    assert [r | {"path": ""} for r in seen] == [r | {"path": ""} for r in blank]
    assert len({r["path"] for r in seen}) == len(seen) == 17
    (plain,) = {r["path"] for r in blank}
    assert len(Image.open(data / plain).getcolors()) == 1
    assert all((data / r["path"]).is_file() for r in seen)


def test_training_and_evaluation_take_the_tables_as_they_are(data: Path) -> None:
    table = data / "questions"
    for ledger in ("images", "blank"):
        learnt = list(contract_rows(table, data / ledger, max_samples=0, seed=0))
        assert len(learnt) == len(rows(data, "train"))
        assert not any(row["reason"] for row in learnt)
    given = {"questions": table, "images": data / "images"}
    params = SimpleNamespace(max_questions=0)
    asked, refused = evaluation.load_questions(
        SimpleNamespace(table=given.__getitem__, params=params, seed=0)
    )
    assert not refused
    assert len(asked) == sum(len(row["sources"]) for row in rows(data, "test"))
    # questions about one picture are no independent ones
    assert len({question.page for question in asked}) == 5


def test_the_choice_follows_from_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [rows(make(tmp_path / str(n), monkeypatch, seed=n % 2), "train") for n in range(3)]
    assert made[0] == made[2] != made[1]
