"""What the gallery's files hold, from small tables; in a browser: campaigns/test_gallery.py."""

import json

import pytest
from PIL import Image

from vislib.publishing import gallery
from vislib.publishing.gallery import record
from vislib.runs import start_run
from vislib.runs.contract import (
    CAPTIONS,
    CONVERSATIONS,
    DROPPED,
    IMAGES,
    PRIORS,
    QUESTIONS,
    SAMPLES,
)
from vislib.runs.tables import TableWriter

HOSTILE = (
    "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'> \u2028 \u202e"
    "<svg onload=window.evil=1> javascript:window.evil=1 ${window.evil=1} ]] --> \ud83d"
)
ARABIC = "الإقلاع الأول"
ID = "{:016x}".format
NORMAL, LOST, WEB, BROKEN = map(ID, range(4))  # samples, and what is special about them


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VISLIB_RUNS", str(tmp_path / "runs"))


def write(path, schema, rows):
    with_all = dict.fromkeys(schema.names)
    writer = TableWriter(path, schema, stem=path.name if path.name == "train" else "part")
    for row in rows:
        writer.write(with_all | row)
    writer.close()
    return str(path)


def caption(sample_id, kind, text, **facts):
    row = {"sample_id": sample_id, "kind": kind, "caption": text, "status": "ok", "reason": ""}
    return row | {"model": f"writer of {kind}", "prompt_sha": "p", "request_sha": "r"} | facts


def question(number, kind, asked, answer, options=(), **facts):
    row = {"question_id": ID(100 + number), "sample_id": NORMAL, "kind": kind, "question": asked}
    row |= {"question_type": "multiple_choice" if options else "free_form", "options": options}
    row |= {"answer": answer, "round": number, "status": "ok", "reason": "", "model": "asker"}
    return row | facts


OPTIONS = ["a boat", "a bird", "a barn", "a bell"]
QUESTIONS_OF = [
    question(1, "contextual", "What is it?", "The Lighthouse of Kiel."),
    question(2, "contextual", "What is it?", "B", OPTIONS),
    question(3, "contextual", "Where?", "", status="dropped", reason="missing_answer"),
    question(4, "non_contextual", "What is it?", "A tower."),
]
ASKED_OPTIONS = "What is it?\nA. a boat\nB. a bird\nC. a barn\nD. a bell\nGive the letter."


def talk(sample_id, *rounds, suffix=""):
    turns = [
        {"from": who, "value": ("<image>\n" if not n and who == "human" else "") + text}
        for n, (_, *said) in enumerate(rounds)
        for who, text in zip(("human", "gpt"), said, strict=True)
    ]
    sources = [source for source, *_ in rounds]
    return {"id": sample_id + suffix, "sample_id": sample_id} | {
        "conversations": turns,
        "sources": sources,
    }


CAPTION = ("caption", "Describe it.", "A white lighthouse in Kiel.")
FREE = ("free_form", "What is it?", "The Lighthouse of Kiel.")
CHOICE = ("multiple_choice", ASKED_OPTIONS, "B")


@pytest.fixture
def inputs(tmp_path):
    """Tables of four samples: a usual one, one without an image, a hostile one, a broken image."""
    data = tmp_path / "made/data"
    (data / "files").mkdir(parents=True)
    noise = Image.effect_noise((1200, 600), 90)
    noise.save(data / "files/good.png")
    (data / "files/bad.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>')
    page = {"page_url": "https://example.org/kiel", "alt_text": "A lighthouse", "doc_id": "d"}
    around = "The lighthouse of Kiel <image> was white. <another-image> It is old."
    samples = [
        page | {"sample_id": NORMAL, "image_url": "u0", "context": around},
        page | {"sample_id": LOST, "image_url": "u1", "context": f"before {ARABIC} <image> after"},
        {
            "sample_id": WEB,
            "doc_id": "e",
            "image_url": "u2",
            "page_url": "javascript:window.evil=1",
            "alt_text": HOSTILE.encode("utf-8", "replace").decode(),
            "context": f"{HOSTILE}<image>{'x' * 3_000_000}".encode("utf-8", "replace").decode(),
        },
        page | {"sample_id": BROKEN, "image_url": "u3", "context": "<image>", "alt_text": None},
    ]
    images = [
        {"image_url": "u0", "image_id": ID(10), "status": "ok", "path": "files/good.png"},
        {"image_url": "u1", "status": "failed", "reason": "not_found"},
        {"image_url": "u2", "image_id": "../../evil", "status": "ok", "path": "files/good.png"},
        {"image_url": "u3", "image_id": ID(13), "status": "ok", "path": "files/bad.svg"},
    ]
    hostile = HOSTILE.encode("utf-8", "replace").decode()
    captions = [
        caption(NORMAL, "contextual", "A white lighthouse in Kiel."),
        caption(NORMAL, "non_contextual", "A white tower."),
        caption(LOST, "contextual", f"It is labelled “{ARABIC}”."),
        caption(WEB, "contextual", hostile),
        caption(WEB, hostile, hostile, status="dropped", reason=hostile),
    ]
    box = {"score": 0.5, "x1": 0.1, "y1": 0.2, "x2": 0.6, "y2": 0.9, "expert": "detector"}
    priors = {
        "image_id": ID(10),
        "tags": [{"label": "beacon", "score": 0.9, "expert": "tagger"}],
        "boxes": [{"label": "tower"} | box],
        "texts": [{"text": "KIEL"} | box],
    }
    for name, rounds in (
        ("leaky_mix", (FREE, CAPTION, CHOICE)),
        ("captions", (CAPTION,)),
        ("questions", (FREE, CHOICE)),
    ):
        rows = [talk(NORMAL, *rounds), talk(WEB, ("caption", hostile, hostile))]
        write(data / "contextual" / name / "train", CONVERSATIONS, rows)
    for file in data.glob("contextual/*/train/*"):
        file.rename(file.parent.parent / file.name)
        file.parent.rmdir()
    drops = [
        {"id": QUESTIONS_OF[2]["question_id"], "reason": "missing_answer", "detail": "<Human>"},
        {"id": LOST, "reason": "image_failed", "detail": "not_found"},
        {"id": f"{WEB}/contextual", "reason": "refusal", "detail": hostile},
        {"id": "of no sample", "reason": "above_cap", "detail": ""},
    ]
    return {
        "samples": write(data / "samples", SAMPLES, samples),
        "images": write(data / "images", IMAGES, images),
        "captions": write(data / "captions", CAPTIONS, captions),
        "further_captions": [],
        "questions": write(data / "questions", QUESTIONS, QUESTIONS_OF),
        "conversations": str(data / "contextual/*/*.parquet"),
        "priors": write(data / "priors", PRIORS, [priors]),
        "dropped": [write(data / "dropped", DROPPED, drops)],
    }


def made(inputs, count=100, **parameters):
    """The folder of a gallery, what `write` returned, its entries, and its samples by id."""
    run = start_run("09_publishing", {"run_dir": "runs/test", **inputs, **parameters})
    index = gallery.write(run, count)
    folder = run.data / "gallery"
    run.close()
    rows = [row for file in sorted(folder.glob("data/0*.js")) for row in read(file)]
    entries = read(folder / "data/index.js")["entries"]
    return folder, index, entries, {row["sample_id"]: row for row in rows}


def read(script):
    """The JSON that a script sets."""
    text = script.read_text(encoding="ascii")
    assert text.startswith(f'data["{script.stem}"]=')
    assert text.count("\n") == 1
    assert "<" not in text
    return json.loads(text.partition("=")[2].removesuffix(";\n"))


def test_a_sample_has_all_that_its_tables_hold(inputs):
    _, index, entries, rows = made(inputs)
    row = rows[NORMAL]
    text = row["captions"][0]["caption"]
    # the page says lighthouse, white and Kiel; white was seen without it
    assert text[1::2] == ["lighthouse", "Kiel"]
    assert "".join(text) == "A white lighthouse in Kiel."
    assert row["captions"][1]["caption"] == ["A white tower."]
    assert row["context"].count("<image>") == 1
    assert [box["label"] for box in row["priors"][0]["boxes"]] == ["tower"]
    talks = {talk["name"]: [row["rounds"][n] for n in talk["rounds"]] for talk in row["talks"]}
    sources = {name: [said["source"] for said in rounds] for name, rounds in talks.items()}
    assert sources["contextual/leaky_mix"] == ["free_form", "caption", "multiple_choice"]
    assert sources["contextual/questions"] == ["free_form", "multiple_choice"]
    assert len(row["rounds"]) == 3
    # each round is of the question whose text and options it has
    asked = [said["question_id"] for said in talks["contextual/leaky_mix"]]
    assert asked == [QUESTIONS_OF[0]["question_id"], "", QUESTIONS_OF[1]["question_id"]]
    makers = [said["model"] for said in talks["contextual/leaky_mix"]]
    assert makers == ["asker", "writer of contextual", "asker"]
    assert entries[0] == {
        "id": NORMAL,
        "image": f"{ID(10)}.jpg",
        "title": "A lighthouse",
        "page": "https://example.org/kiel",
        "captions": [["contextual", 5], ["non_contextual", 3]],
        "types": ["caption", "free_form", "multiple_choice"],
        "configurations": [f"contextual/{name}" for name in ("captions", "leaky_mix", "questions")],
        "reasons": ["missing_answer"],
    }
    assert index["samples"] == len(index["entries"]) == 4


def test_what_was_set_aside_is_shown_with_its_reason_and_counted(inputs):
    _, index, entries, rows = made(inputs)
    (lost,) = rows[NORMAL]["dropped"]
    assert (lost["reason"], lost["stage"]) == ("missing_answer", "made")
    assert lost["text"].startswith("Where?")
    assert [drop["reason"] for drop in rows[LOST]["dropped"]] == ["image_failed"]
    assert rows[LOST]["image"]["reason"] == "not_found"
    # the id of a caption is of its sample
    assert [drop["reason"] for drop in rows[WEB]["dropped"]] == ["refusal"]
    assert [entry["reasons"] for entry in entries][1] == ["image_failed"]
    counted = {reason: n for _, reason, n in index["drops"]}
    assert counted == {"missing_answer": 1, "image_failed": 1, "refusal": 1, "above_cap": 1}


def test_pictures_are_written_anew_under_names_that_are_no_paths(inputs, tmp_path):
    folder, _, _, rows = made(inputs)
    names = {path.name for path in folder.glob("images/*")}
    assert f"{ID(10)}.jpg" in names
    assert all(set(name) <= set("0123456789abcdef.jpg") for name in names)
    assert len(names) == 2
    assert names == {path.name for path in folder.glob("thumbs/*")}
    for path in folder.glob("*/*.jpg"):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert max(image.size) == record.SIDES[path.parent.name]
    assert "shown" not in rows[BROKEN]["image"]
    assert rows[BROKEN]["image"]["reason"]
    assert not list(folder.rglob("*.svg"))


def test_a_missing_file_is_told_without_the_place_of_this_machine(inputs, tmp_path):
    (tmp_path / "made/data/files/good.png").unlink()
    folder, _, _, rows = made(inputs)
    assert rows[NORMAL]["image"]["reason"] == "No such file or directory"
    for script in folder.glob("data/*.js"):
        assert str(tmp_path) not in script.read_text()


def test_texts_of_megabytes_are_cut_and_say_so(inputs):
    folder, _, _, rows = made(inputs)
    assert len(rows[WEB]["context"]) < record.LONGEST + 100
    assert rows[WEB]["context"].endswith("more characters)")
    assert sum(path.stat().st_size for path in folder.glob("data/*")) < 200_000


def test_the_same_tables_make_the_same_bytes(inputs):
    both = []
    for _ in range(2):
        folder, *_ = made(inputs)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        both.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert both[0] == both[1]
    assert {"index.html", "gallery.css", "data/index.js"} <= set(both[0])


def test_a_seeded_choice_of_samples_in_chunks(inputs, monkeypatch):
    monkeypatch.setattr(gallery, "PER_CHUNK", 2)
    folder, index, entries, rows = made(inputs, 3)
    assert [path.name for path in sorted(folder.glob("data/0*"))] == ["00000.js", "00001.js"]
    assert (index["samples"], len(entries), index["per_chunk"]) == (4, 3, 2)
    assert [entry["id"] for entry in entries] == list(rows)
    # in the order of pages, and another seed takes others
    assert list(rows) == sorted(rows)
    chosen = {tuple(made(inputs, 2, seed=seed)[3]) for seed in range(3)}
    assert len(chosen) > 1


def test_captions_alone_without_questions_or_priors(inputs):
    _, _, entries, rows = made(inputs | {"questions": "", "priors": "", "dropped": []})
    assert rows[NORMAL]["priors"] == []
    assert [said["question_id"] for said in rows[NORMAL]["rounds"]] == ["", "", ""]
    assert entries[0]["reasons"] == []
