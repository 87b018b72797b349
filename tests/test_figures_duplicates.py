"""The sheet of duplicates: which pairs are shown, and where they stand."""

from collections import Counter
from pathlib import Path

import numpy as np

from tests.figure_layout import assert_readable
from tests.test_figures_selection import (  # noqa: F401
    CLUSTERS,
    Inputs,
    inputs,
    name,
    pairs_of,
    write,
)
from vislib import figures
from vislib.figures import selection


def test_pairs_are_chosen_for_each_reason_and_stand_nearest_first(
    inputs: Inputs,  # noqa: F811
    tmp_path: Path,
) -> None:
    near = [
        {
            "image_id": name(c, 8),
            "kept_id": name(c, 1),
            "reason": "near_duplicate",
            "distance": 3.0 - c,
        }
        for c in range(CLUSTERS)
    ]
    semantic = [
        {
            "image_id": name(c, m),
            "kept_id": name(c, 0),
            "reason": "semantic_duplicate",
            "distance": m / 100,
        }
        for c in range(CLUSTERS)
        for m in (5, 6)
    ]
    both = inputs | {"duplicates": write(tmp_path / "duplicates", "04_selection", semantic + near)}
    table = pairs_of(both, count=5, seed=0)
    assert Counter(table["reason"]) == {"near_duplicate": 4, "semantic_duplicate": 5}
    assert table["of_reason"].tolist() == [4] * 4 + [8] * 5
    assert all(group["distance"].is_monotonic_increasing for _, group in table.groupby("reason"))
    figure, sheet = figures.new_sheet()
    selection.plot_groups(sheet, table)
    figures.trim_sheet(figure, sheet, note="n")
    assert_readable(figure)
    axes = sheet.axes
    said = [text.get_text() for text in axes.texts]
    assert {"Near duplicates", "Semantic duplicates", "0 bits", "1 − cosine = 0.050"} <= set(said)
    assert "5 of 8 that were set aside, each right of the one kept" in said
    boxes = np.array(
        [image.get_extent() for image in axes.images]
    )  # left, right, bottom, top: downwards
    assert (boxes[:, :2] > 0).all()
    assert boxes[:, 1].max() < sheet.width
    assert boxes[:, 2].max() < sheet.y
    kept, dropped = (np.asarray(image.get_array())[0, 0] for image in axes.images[:2])
    assert (kept == dropped).all()  # of one cluster: one colour
    assert boxes[0, 1] < boxes[1, 0]
