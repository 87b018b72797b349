"""Tags, sizes and texts of images, over small tables."""

from pathlib import Path
from typing import Any

import pytest

from tests.figure_layout import assert_readable
from tests.notebook_cells import run_section
from tests.test_figures_selection import Inputs, write
from vislib import figures

SIZES = {"a": (640, 480), "b": (640, 480), "c": (200, 800), "d": (1600, 1200)}
TEXTS = {"a": 0, "b": 2, "c": 45}  # d has no priors
TAGS = {
    "a": [("cat", 0.9), ("sofa", 0.4)],
    "b": [("cat", 0.5), ("cat", 0.6)],
    "c": [("dog", 0.7), ("bus", 0.7)],
}
EXPERTS = {"tagger": "org/tagger", "ocr": "rapidocr 3"}


def text(n: int) -> dict[str, Any]:
    return {
        "text": str(n),
        "score": 0.9,
        "x1": 0.0,
        "y1": 0.0,
        "x2": 1.0,
        "y2": 1.0,
        "expert": "ocr",
    }


def make(root: Path, *, experts: dict[str, str] = EXPERTS, stage: str = "04_selection") -> Inputs:
    """Images a to d, of which a stands at two addresses; e failed; f has priors and is in no
    sample.
    """
    urls = ["a", "a2", "b", "c", "d", "e", "f"]
    ledger = [
        {
            "image_url": url,
            "image_id": url[0],
            "status": "failed" if url == "e" else "ok",
            **dict(zip(("width", "height"), SIZES.get(url[0], (9, 9)), strict=True)),
        }
        for url in urls
    ]
    tags = TAGS | {"f": [("dog", 1.0)]}
    priors = [
        {
            "image_id": name,
            "boxes": [],
            "texts": [text(n) for n in range(TEXTS.get(name, 1))],
            "tags": [
                {"label": label, "score": score, "expert": "tagger"} for label, score in tags[name]
            ],
        }
        for name in tags
    ]
    return {
        "samples": write(
            root / "samples", stage, [{"image_url": url} for url in urls if url != "f"]
        ),
        "images": write(root / "images", "03_images", ledger),
        "priors": write(root / "priors", "05_experts", priors),
        "experts": write(
            root / "experts", "05_experts", [{"expert": n, "model": m} for n, m in experts.items()]
        ),
    }


def tables_of(inputs: Inputs, *, score: float = 0.5, most: int = 9) -> dict[str, Any]:
    """The tables that section 1 of notebook 31 makes."""
    return run_section("31_images", "## 1", inputs, tag_score=score, tags=most)


@pytest.mark.parametrize("stage", ["04_selection", "02_filtering"])
def test_each_usable_image_of_the_samples_counts_once(tmp_path: Path, stage: str) -> None:
    table = tables_of(make(tmp_path, stage=stage))["pictures"].set_index("image_id")
    assert table.index.tolist() == ["a", "b", "c", "d"]
    assert tuple(table.loc["c", ["width", "height"]]) == (200, 800)
    assert table["texts"].dropna().to_dict() == TEXTS


def test_without_a_reader_no_image_counts_as_one_without_text(tmp_path: Path) -> None:
    held = tables_of(make(tmp_path, experts={"tagger": "t"}))
    assert held["pictures"]["texts"].isna().all()
    assert not held["texts"]["count"].any()
    assert held["experts"]["ocr"] == "none"


def test_tags_above_the_score_count_once_per_image(tmp_path: Path) -> None:
    inputs = make(tmp_path)
    table = tables_of(inputs)["frequent"]
    assert list(zip(table["label"], table["images"], strict=True)) == [
        ("cat", 2),
        ("bus", 1),
        ("dog", 1),
    ]
    # d has no priors, f is in no sample
    assert table["share"].tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert len(tables_of(inputs, score=0, most=2)["frequent"]) == 2
    assert tables_of(inputs, score=1)["frequent"].empty


def test_sizes_and_texts_count_every_image(tmp_path: Path) -> None:
    held = tables_of(make(tmp_path))
    assert held["sizes"].groupby("group")["count"].sum().tolist() == [4, 4]
    assert held["sides"]["short edge"].tolist() == [480, 480, 200, 1200]
    texts = held["texts"].groupby("group")["count"].sum()
    assert texts.to_dict() == {"with text": 2, "without": 1}


@pytest.mark.parametrize("columns", [1, 2])
def test_the_figure_is_equal_bytes_and_readable(tmp_path: Path, columns: int) -> None:
    """Section 2 of the notebook, over what its section 1 makes."""
    inputs, written = make(tmp_path), []
    held = tables_of(inputs, score=0)
    made = ("pictures", "frequent", "sides", "sizes", "texts", "experts")
    names = {name: held[name] for name in made}
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        size = {"columns": columns, "aspect": 0.72}
        figure = run_section("31_images", "## 2", inputs, **names, **size)["figure"]
        assert_readable(figure)
        files = figures.save_figure(figure, folder, "images", held["sizes"])
        written.append([file.read_bytes() for file in files])
        said = {text.get_text() for axes in figure.axes for text in axes.texts}
        assert "67%" in said
        assert "Tags: org/tagger. Text: rapidocr 3." in {text.get_text() for text in figure.texts}
    assert written[0] == written[1]
