"""`vislib.experts`: every image is looked at once, and an expert that fails costs what it was asked
for, no more.
"""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from vislib import experts
from vislib.experts.findings import Box, Findings, Tag
from vislib.experts.overlays import examples, overlay
from vislib.media.pixels import read_image
from vislib.runs import InputError, Run, short_hash, start_run, tables
from vislib.runs.cells import do_work
from vislib.runs.contract import IMAGES, SAMPLES


class Fixed:
    """An expert with one answer, which fails where it is told to and remembers what it was
    asked.
    """

    model, revision = "fixed", "1"

    def __init__(self, name: str, findings: Findings, fails=lambda image: False) -> None:
        self.name, self.findings, self.fails = name, findings, fails
        self.asked: list[tuple[int, list[str]]] = []

    def __call__(self, image, tags):
        self.asked.append((image.width, list(tags)))
        if self.fails(image):
            raise RuntimeError("a traceback of many lines\n\ncannot look at it")
        return self.findings


def picture(width: int, text: str = "") -> Image.Image:
    image = Image.new("RGB", (width, 120), "white")
    ImageDraw.Draw(image).text((8, 20), text, "black", font_size=30)
    return image


def begin(
    folder: Path, images: list[Image.Image | None], monkeypatch: pytest.MonkeyPatch, **parameters
) -> Run:
    """Stage 05 on samples with these pictures (None: a dead link) and then the first one again, at
    another address.
    """
    monkeypatch.setenv("VISLIB_RUNS", str(folder / "runs"))
    experts.panel_of.cache_clear()  # as in a new kernel
    root = folder / "runs" / "demo"
    data, ledger = root / "03_images" / "data", root / "03_images" / "data" / "images"
    if not ledger.exists():
        samples = tables.TableWriter(root / "02_filtering" / "data" / "samples", SAMPLES)
        writer = tables.TableWriter(ledger, IMAGES)
        (data / "files").mkdir(parents=True)
        for number, image in enumerate([*images, images[0]]):
            url, name = f"http://p.example/{number}.png", short_hash(str(number % len(images)))
            samples.write(
                dict.fromkeys(SAMPLES.names) | {"sample_id": short_hash(url), "image_url": url}
            )
            samples.write(
                dict.fromkeys(SAMPLES.names) | {"sample_id": short_hash(url, "2"), "image_url": url}
            )
            row = dict.fromkeys(IMAGES.names) | {
                "image_url": url,
                "status": "failed",
                "reason": "not_found",
            }
            if image:
                image.save(data / "files" / f"{name}.png")
                row |= {"status": "ok", "reason": "", "image_id": name, "path": f"files/{name}.png"}
            writer.write(row)
        samples.close()
        writer.close()
    given = {"samples": "02_filtering/samples", "run_dir": "runs/demo", "workers": 1} | parameters
    return start_run("05_experts", given)


def ids(*numbers: int) -> list[str]:
    return [short_hash(str(number)) for number in numbers]


def priors(run: Run) -> dict[str, dict]:
    return {row["image_id"]: row for row in tables.read_rows(run.data / "priors")}


def contents(run: Run) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.data)): p.read_bytes() for p in sorted(run.data.rglob("*.parquet"))
    }


TAGS = Findings(tags=(Tag("lamp", 0.9), Tag("street", 0.5)))
BOXES = Findings(
    boxes=(Box("lamp", 0.75, 0.1, 0.1, 0.5, 0.5), Box("lamp", 0.25, 0.1, 0.1, 0.5, 0.6))
)


def test_each_image_is_looked_at_once_and_has_its_priors(tmp_path, monkeypatch):
    tagger, detector = Fixed("tagger", TAGS), Fixed("open_detector", BOXES)
    reader = Fixed("ocr", Findings(texts=(Box("STOP", 0.5, 0.0, 0.25, 1.0, 0.5),)))
    monkeypatch.setattr(experts, "team", lambda settings: (tagger, detector, reader))
    monkeypatch.setattr(experts, "IMAGES_PER_PART", 2)
    run = begin(tmp_path, [picture(width) for width in (90, 60, 70, 80, 50)], monkeypatch)
    do_work(run)
    assert [width for width, _ in tagger.asked] == [90, 60, 70, 80, 50]  # in order of appearance
    assert detector.asked == [
        (width, ["lamp", "street"]) for width in (90, 60, 70, 80, 50)
    ]  # it looks for the tags
    found = priors(run)
    assert list(found) == ids(0, 1, 2, 3, 4)
    assert found[ids(3)[0]] == {
        "image_id": ids(3)[0],
        "tags": [
            {"label": "lamp", "score": pytest.approx(0.9), "expert": "tagger"},
            {"label": "street", "score": 0.5, "expert": "tagger"},
        ],
        "boxes": [
            {
                "label": "lamp",
                "score": 0.75,
                "x1": pytest.approx(0.1),
                "y1": pytest.approx(0.1),
                "x2": 0.5,
                "y2": 0.5,
                "expert": "open_detector",
            }
        ],
        "texts": [
            {
                "text": "STOP",
                "score": 0.5,
                "x1": 0.0,
                "y1": 0.25,
                "x2": 1.0,
                "y2": 0.5,
                "expert": "ocr",
            }
        ],
    }
    assert [row["expert"] for row in tables.read_rows(run.data / "experts")] == [
        "tagger",
        "open_detector",
        "ocr",
    ]
    expected = {"tags": 10, "boxes_given": 10, "boxes": 5, "texts": 5, "share_with_text": 1.0}
    assert {name: run.metrics[name] for name in expected} == expected
    assert run.metrics["seconds_per_image_ocr"] >= 0
    assert set(run.counts()) == {"image", "tagger", "open_detector", "ocr"}
    run.finish()


def test_large_pictures_are_seen_whole_and_notes_are_counted(tmp_path, monkeypatch):
    reader = Fixed("ocr", Findings(notes=("read_small",)))
    monkeypatch.setattr(experts, "team", lambda settings: (reader,))
    run = begin(tmp_path, [picture(width) for width in (3000, 50, 4000, 60)], monkeypatch)
    do_work(run)
    assert [width for width, _ in reader.asked] == [3000, 50, 4000, 60]
    assert run.metrics["read_small"] == 4


def test_an_expert_that_fails_on_an_image_loses_that_image_only(tmp_path, monkeypatch):
    detector = Fixed("detector", BOXES, fails=lambda image: image.width == 70)
    monkeypatch.setattr(experts, "team", lambda settings: (Fixed("tagger", TAGS), detector))
    run = begin(tmp_path, [picture(width) for width in (90, 70, 80)], monkeypatch)
    do_work(run)
    assert [len(row["boxes"]) for row in priors(run).values()] == [1, 0, 1]
    assert [len(row["tags"]) for row in priors(run).values()] == [2, 2, 2]
    assert list(tables.read_rows(run.data / "dropped")) == [
        {
            "id": f"{ids(1)[0]}/detector",
            "reason": "expert_failed",
            "detail": "RuntimeError: cannot look at it",
        }
    ]
    counts = run.counts()
    assert counts["detector"] == {"taken": 3, "kept": 2, "dropped": {"expert_failed": 1}}
    assert counts["tagger"]["kept"] == counts["image"]["kept"] == 3
    run.finish()


@pytest.mark.parametrize(("images", "asked"), [(3, "3"), (40, "10")])
def test_an_expert_that_always_fails_is_an_error_and_a_rerun_asks_again(
    tmp_path, monkeypatch, images, asked
):
    broken = Fixed("ocr", BOXES, fails=lambda image: True)
    monkeypatch.setattr(experts, "team", lambda settings: (Fixed("tagger", TAGS), broken))
    monkeypatch.setattr(experts, "IMAGES_PER_PART", 10)
    monkeypatch.setattr(experts, "_FEWEST_PARTS", 1)
    pictures = [picture(50 + number) for number in range(images)]
    run = begin(tmp_path, pictures, monkeypatch)
    with pytest.raises(
        InputError, match=rf"ocr failed on all of {asked} images \(RuntimeError: cannot look"
    ):
        do_work(run)
    run.close()
    monkeypatch.setattr(
        experts, "team", lambda settings: (Fixed("tagger", TAGS), Fixed("ocr", BOXES))
    )
    run = begin(tmp_path, pictures, monkeypatch)
    do_work(run)
    assert run.counts()["ocr"]["kept"] == images
    run.finish()


def test_dead_links_and_unreadable_files_are_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "team", lambda settings: (Fixed("tagger", TAGS),))
    run = begin(tmp_path, [picture(90), None, picture(70), picture(60)], monkeypatch)
    files = run.table("images").parent / "files"
    (files / f"{ids(2)[0]}.png").write_bytes(b"\x89PNG, cut off")
    (files / f"{ids(3)[0]}.png").unlink()
    do_work(run)
    assert list(priors(run)) == ids(0)
    dropped = {row["id"]: row["reason"] for row in tables.read_rows(run.data / "dropped")}
    assert dropped == {
        "http://p.example/1.png": "image_failed",
        ids(2)[0]: "broken",
        ids(3)[0]: "unreadable",
    }
    run.finish()
    run = begin(tmp_path / "other", [None], monkeypatch)
    with pytest.raises(InputError, match="no image of 02_filtering/samples can be read"):
        do_work(run)
    run.close()


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    def stop(image: Image.Image) -> bool:
        if image.width == 80:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(experts, "IMAGES_PER_PART", 1)
    pictures = [picture(width) for width in (90, 70, 80, 60)]
    monkeypatch.setattr(experts, "team", lambda settings: (Fixed("tagger", TAGS, fails=stop),))
    run = begin(tmp_path, pictures, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        do_work(run)
    run.close()
    tagger = Fixed("tagger", TAGS)
    monkeypatch.setattr(experts, "team", lambda settings: (tagger,))
    run = begin(tmp_path, pictures, monkeypatch)
    do_work(run)
    assert [width for width, _ in tagger.asked] == [80, 60]
    assert list(priors(run)) == ids(0, 1, 2, 3)
    run.finish()


def test_workers_change_no_byte_of_what_is_read_and_tagged(tmp_path, monkeypatch):
    pictures = [picture(200, "One way"), picture(180, "Exit 24"), picture(1), picture(160, "STOP")]
    pictures[0].paste("red", (150, 0, 200, 120))
    found = []
    for workers in (1, 2):
        run = begin(tmp_path / str(workers), pictures, monkeypatch, workers=workers)
        do_work(run)
        found.append(contents(run))
        rows = list(priors(run).values())
        run.finish()
    assert found[0] == found[1]
    assert [[text["text"] for text in row["texts"]] for row in rows] == [
        ["One way"],
        ["Exit 24"],
        [],
        ["STOP"],
    ]
    assert any(row["tags"] for row in rows)
    asked = [
        (row["expert"], row["model"].split()[0]) for row in tables.read_rows(run.data / "experts")
    ]
    assert asked == [
        ("tagger", "efficientnet-lite0"),
        ("detector", "efficientnet-lite0"),
        ("ocr", "rapidocr"),
    ]
    assert run.metrics["share_with_text"] == 0.75


def test_a_limit_is_a_choice_of_usable_images_that_no_order_changes(tmp_path, monkeypatch):
    run = begin(tmp_path, [None, *(picture(width) for width in range(50, 62))], monkeypatch)
    samples, ledger = run.table("samples"), run.table("images")
    rows = list(tables.read_rows(samples))
    turned = tables.TableWriter(tmp_path / "turned", SAMPLES)
    for row in reversed(rows):
        turned.write(row)
    turned.close()
    chosen = []
    for place, table, seed in (("a", samples, 0), ("b", tmp_path / "turned", 0), ("c", samples, 1)):
        query = experts.distinct(limit=4, seed=seed)
        found = run.sql(query, into=place, samples=table, images=ledger)
        chosen.append([row["image_id"] for row in tables.read_rows(found)])
    assert [len(set(found)) for found in chosen] == [4, 4, 4]
    assert set(chosen[0]) == set(chosen[1]) != set(chosen[2])
    assert None not in chosen[0] + chosen[2]
    run.close()


def test_a_run_without_experts_is_refused(tmp_path, monkeypatch):
    run = begin(tmp_path, [picture(90)], monkeypatch, tagger="", detector="", ocr="none")
    with pytest.raises(InputError, match="name an expert"):
        do_work(run)
    run.close()


def test_overlays_show_priors_on_pictures_of_any_size(tmp_path):
    prior = {
        "tags": [{"label": "lamp", "score": 0.5}],
        "boxes": [
            {"label": "street lamp", "score": 0.5, "x1": 0.5, "y1": 0.0, "x2": 1.0, "y2": 0.5}
        ],
        "texts": [{"text": "STOP", "score": 1.0, "x1": 0.1, "y1": 0.5, "x2": 0.4, "y2": 0.9}],
    }
    for size, shown in (
        ((3000, 1500), (480, 240)),
        ((30, 60), (240, 480)),
        ((1, 1), (480, 480)),
        ((9000, 3), (480, 1)),
    ):
        Image.new("RGB", size, "white").save(tmp_path / "a.png")
        drawn = overlay(tmp_path / "a.png", prior)
        assert drawn.size == shown
        if min(shown) > 9:
            colours = {colour for _, colour in drawn.getcolors(1 << 20)}
            assert {(214, 39, 40), (31, 95, 191)} <= colours  # objects, texts
            assert drawn.getpixel((shown[0] - 1, shown[1] // 4))[:2] == (214, 39)


def test_a_seeded_handful_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(
        experts, "team", lambda settings: (Fixed("tagger", TAGS), Fixed("detector", BOXES))
    )
    run = begin(tmp_path, [picture(width) for width in (90, 60, 70)], monkeypatch)
    do_work(run)
    two = examples(run, 2)
    assert [max(read_image(row["picture"]).size) for row in two] == [480, 480]
    assert two[0]["boxes"] == ["lamp 0.75 (detector)"]
    assert (two[0]["tags"], two[0]["texts"]) == (["lamp 0.90", "street 0.50"], [])
    run.finish()
