"""Examples of priors: which samples are shown, where boxes and labels stand, and which words are
marked.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from tests.figure_layout import assert_readable
from tests.notebook_cells import run_section
from vislib import figures
from vislib.figures import priors
from vislib.figures.examples import Example
from vislib.figures.style import CONTRAST
from vislib.runs.contract import CAPTIONS, IMAGES, PRIORS, SELECTED
from vislib.runs.errors import InputError

SOLID = ("-", "solid")
BOAT = {
    "label": "boat",
    "score": 0.9,
    "x1": 0.25,
    "y1": 0.5,
    "x2": 0.75,
    "y2": 1.0,
    "expert": "detector",
}
SIGN = {
    "text": "OPEN DAILY",
    "score": 0.9,
    "x1": 0.1,
    "y1": 0.1,
    "x2": 0.5,
    "y2": 0.2,
    "expert": "ocr",
}


def write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    blank: dict[Any, Any] = {pa.int64(): 0, pa.float64(): 0.0, pa.string(): ""}
    full = [
        {field.name: row.get(field.name, blank.get(field.type, [])) for field in schema}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(full, schema=schema), folder / "part-00000.parquet")
    return folder


def run(folder: Path, found: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Tables of one sample per entry; an entry may have boxes, texts, tags, caption, kind, doc_id,
    status.
    """
    image = folder / "03_images" / "files" / "a.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (60, 30), "navy").save(image)
    ids = list(found)
    return {
        "samples": write(
            folder / "samples",
            SELECTED,
            [
                {
                    "sample_id": i,
                    "doc_id": f"d{i}",
                    "image_url": i,
                    "alt_text": "A boat house",
                    "context": "<image>",
                    "page_url": f"https://example.org/{i}",
                    **found[i],
                }
                for i in ids
            ],
        ),
        "images": write(
            folder / "03_images" / "images",
            IMAGES,
            [
                {
                    "image_url": i,
                    "image_id": f"i{i}",
                    "status": "ok",
                    "path": "files/a.png",
                    **found[i],
                }
                for i in ids
            ],
        ),
        "priors": write(
            folder / "priors", PRIORS, [{"image_id": f"i{i}", **found[i]} for i in ids]
        ),
        "captions": write(
            folder / "captions",
            CAPTIONS,
            [
                {
                    "sample_id": i,
                    "kind": "fused",
                    "caption": "A red boat with C$ 5 or $6.",
                    **found[i],
                    "status": "ok",
                }
                for i in ids
            ],
        ),
    }


def load(
    tables: dict[str, Path], ids: tuple[str, ...] = (), n: int = 9, seed: int = 0
) -> list[Example]:
    return priors.load_examples(tables, kind="fused", ids=ids, n=n, seed=seed)


def names(examples: list[Example]) -> list[str]:
    return [str(example["sample_id"]) for example in examples]


def draw(
    examples: list[Example], lines: int = 8, folder: Path | None = None
) -> tuple[Axes, list[Path]]:
    figure, sheet = figures.new_sheet()
    priors.plot_examples(sheet, examples, lines=lines)
    figures.trim_sheet(figure, sheet, note="n")
    # labels lie on the picture, and beside one another
    on_picture = {t.get_text() for t in sheet.axes.texts if t.get_fontsize() == priors._LABEL}
    assert_readable(figure, may_overlap=on_picture)
    table = pd.DataFrame(examples)
    return sheet.axes, figures.save_figure(figure, folder, "all", table) if folder else []


def shown(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_examples_have_an_image_priors_a_caption_and_letters_of_the_font(tmp_path: Path) -> None:
    tables = run(
        tmp_path,
        {
            "a": {"boxes": [BOAT]},
            "b": {"texts": [SIGN]},
            "plain": {},
            "dead": {"status": "failed", "boxes": [BOAT]},
            "other": {"kind": "contextual", "boxes": [BOAT]},
            "japanese": {"texts": [SIGN | {"text": "古い港"}]},
            "same page": {"doc_id": "da", "boxes": [BOAT]},
        },
    )
    found = names(load(tables))
    assert len(found) == 3  # of a and the other of its page, one
    assert "b" in found[:2]
    assert found[2] == "plain"  # without findings
    assert names(load(tables, n=1)) == names(load(tables, n=1))
    assert names(load(tables, ids=("plain", "a"))) == ["plain", "a"]
    with pytest.raises(InputError, match=r"\['japanese'\]"):
        load(tables, ids=("a", "japanese"))


def test_images_without_findings_are_shown_when_there_are_no_others(tmp_path: Path) -> None:
    (example,) = load(run(tmp_path, {"plain": {"tags": []}}))
    axes, _ = draw([example])
    assert shown(axes).count("none") == 3
    assert {
        "World knowledge",
        "A boat house",
        "Tags",
        "Detections",
        "Visible text",
        "Caption",
    } <= set(shown(axes))
    assert not [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_no_example_at_all_is_an_error_that_says_what_to_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of kind fused"):
        load(run(tmp_path, {"other": {"kind": "contextual"}}))


def test_boxes_stand_where_the_experts_saw_them(tmp_path: Path) -> None:
    (example,) = load(run(tmp_path, {"a": {"boxes": [BOAT], "texts": [SIGN]}}))
    axes, _ = draw([example])
    left, right, bottom, top = axes.images[0].get_extent()
    frames = [p for p in axes.patches if isinstance(p, Rectangle) and not p.get_fill()]
    solid = next(p for p in frames if p.get_linestyle() in SOLID).get_bbox()
    wide, high = right - left, bottom - top
    assert solid.extents == pytest.approx(
        [left + wide / 4, top + high / 2, left + wide * 3 / 4, bottom]
    )
    assert len(frames) == 2
    assert min(frame.get_zorder() for frame in frames) > axes.images[0].get_zorder()
    assert sum(p.get_linestyle() in SOLID for p in frames) == 1
    assert {"boat: [0.250, 0.500, 0.750, 1.000]", "OPEN DAILY", "boat", "1"} <= set(shown(axes))


def test_labels_stay_in_the_picture_and_off_one_another(tmp_path: Path) -> None:
    corners = [(0, 0), (0.9, 0), (0, 0.9), (0.9, 0.9), (0.45, 0.45), (0.45, 0.55)]
    boxes = [
        BOAT | {"x1": x, "y1": y, "x2": x + 0.1, "y2": y + 0.1, "label": f"thing {x} {y}"}
        for x, y in corners
    ]
    (example,) = load(run(tmp_path, {"a": {"boxes": boxes}}))
    axes, _ = draw([example])
    left, right, bottom, top = axes.images[0].get_extent()
    plates = [p.get_bbox() for p in axes.patches if isinstance(p, Rectangle) and p.get_fill()]
    assert len(plates) == 6
    assert all(
        p.x0 >= left and p.x1 <= right + 1e-6 and p.y0 >= top and p.y1 <= bottom + 1e-6
        for p in plates
    )
    assert all(p.count_overlaps(plates) == 1 for p in plates)  # itself


def test_long_lists_are_cut_and_counted_and_all_boxes_drawn(tmp_path: Path) -> None:
    boxes = [BOAT | {"x1": 0.02 * n, "x2": 0.02 * n + 0.1, "score": 0.5} for n in range(12)]
    texts = [SIGN | {"y1": 0.05 * n, "y2": 0.05 * n + 0.04, "text": f"line {n}"} for n in range(12)]
    (example,) = load(run(tmp_path, {"a": {"boxes": boxes, "texts": texts, "caption": "Nothing."}}))
    axes, _ = draw([example], lines=5)
    assert shown(axes).count("and 7 more") == 2
    assert sum(isinstance(p, Rectangle) and not p.get_fill() for p in axes.patches) == 24
    assert shown(axes).count("boat") == 5
    assert "line 4" in shown(axes)
    assert "line 5" not in shown(axes)


def test_words_of_world_knowledge_and_visible_text_are_marked(tmp_path: Path) -> None:
    caption = "A house with boats is open daily. The page shows a red detector."
    found = {"boxes": [BOAT | {"label": "red"}], "texts": [SIGN], "caption": caption}
    tables = run(tmp_path, {"a": found})
    axes, _ = draw(load(tables))
    marked = {t.get_text() for t in axes.texts if t.get_color() == CONTRAST}
    assert marked == {"house", "boats", "open", "daily", "1"}  # 1 is the number of the text
    names = {"kind": "fused", "sample_ids": [], "count": 9, "seed": 0}
    (row,) = run_section("33_priors", "## 1", tables, **names)["table"].to_dict("records")
    assert (row["matched"], row["content_words"], row["boxes"], row["texts"]) == (4, 8, 1, 1)
    assert row["visible text"] == "OPEN DAILY"


def test_the_figure_is_equal_bytes_again(tmp_path: Path) -> None:
    examples = load(run(tmp_path, {"a": {"boxes": [BOAT]}, "b": {"texts": [SIGN]}}))
    files, again = [], []
    for folder, kept in ((tmp_path / "one", files), (tmp_path / "two", again)):
        folder.mkdir()
        kept += draw(examples, folder=folder)[1]
    assert [f.suffix for f in files] == [".pdf", ".png", ".csv"]
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
