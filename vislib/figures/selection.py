"""Which images were selected, and which were set aside as duplicates (DenseFusion-1M, Perceptual
Fusion).

The map shows embeddings by their first two principal components. Thumbnails move to the nearest
free cell of a grid, so that each is seen whole. Memory grows with the images that are drawn.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vislib.figures.sql import query
from vislib.figures.style import EDGE, GREY, INK, Look, finish
from vislib.figures.text import Column
from vislib.runs.stage import read_record

MAP = """
SELECT image_id, vectors.cluster, coalesce(rank, -1) AS rank,
    CASE WHEN rank IS NOT NULL THEN 'kept'
         WHEN set_aside THEN 'semantic duplicate' ELSE 'below the top k' END AS state,
    path, vector
FROM (FROM embeddings ORDER BY seeded({seed}, image_id) LIMIT {points}) AS vectors
LEFT JOIN (SELECT image_id, min(rank) AS rank FROM samples GROUP BY image_id) USING (image_id)
LEFT JOIN (SELECT DISTINCT image_id, true AS set_aside FROM duplicates) USING (image_id)
LEFT JOIN (SELECT image_id, min(path) AS path FROM images GROUP BY image_id) USING (image_id)
ORDER BY image_id
"""
PAIRS = """
WITH files AS (SELECT image_id, min(path) AS path FROM images GROUP BY image_id),
ranked AS (SELECT *, count(*) OVER (PARTITION BY reason) AS of_reason, row_number() OVER (
    PARTITION BY reason ORDER BY seeded({seed}, image_id)) AS place FROM duplicates)
SELECT ranked.image_id, kept_id, reason, distance, of_reason, aside.path, kept.path AS kept_path
FROM ranked LEFT JOIN files AS aside ON aside.image_id = ranked.image_id
LEFT JOIN files AS kept ON kept.image_id = kept_id
WHERE place <= {count} ORDER BY reason, distance, ranked.image_id
"""
STEPS = {
    "image_failed": "with a usable image",
    "exact_duplicate": "distinct",
    "beyond_limit": "chosen by limit",
    "too_small": "large enough",
    "near_duplicate": "no near-duplicate",
    "embedding_failed": "with an embedding",
    "semantic_duplicate": "no semantic duplicate",
    "below_top_k": "top k of a cluster",
}
_SELDOM = (
    "beyond_limit",
    "embedding_failed",
)  # steps that are left out if they set nothing aside
LAYOUT: dict[int, Look] = {
    1: {"layout": "a;b", "height_ratios": (1.2, 1), "stretch": 3},
    2: {"layout": "ab", "width_ratios": (11, 4)},
}
_MARKS = {
    "kept": ("o", EDGE, "white"),
    "semantic duplicate": ("o", "white", INK),
    "below the top k": ("s", "white", GREY),
}
_STAND_IN = "an embedded descriptor of colours and gradients that stands in CLIP's place"
_REACH = 3.0  # cells that a thumbnail may stand from its point
_PER_ROW, _SIDE = 4, 54.0  # pairs in a row; points of a picture


def embedding_model(table: Path) -> str:
    """What embedded the images, for small print, by the record of the stage that wrote `table`."""
    # the tables do not say it: the record of the stage does
    parameters = read_record(table.parent.parent).get("hashes", {}).get("parameters", {})
    model = parameters.get("embedding_model", "unknown")
    return f"{model}, {_STAND_IN}" if model == "colour-gradient" else str(model)


def map_table(inputs: Mapping[str, Path], *, points: int, seed: int) -> Any:
    """A seeded choice of at most `points` embedded images: image_id, cluster, rank (-1: not kept),
    state, path, x, y.

    `inputs` has the folders of embeddings, samples, duplicates and images. x and y are the first
    two principal components; `attrs["explained"]` has their shares of the variance.
    """
    table = query(MAP.format(points=points, seed=seed), **inputs)
    # the ledger's paths are below its own folder
    table["path"] = f"{inputs['images'].parent}/" + table["path"]
    table[["x", "y"]], table.attrs["explained"] = _projected(np.stack(table.pop("vector")))
    return table


def _projected(vectors: Any) -> tuple[Any, list[float]]:
    """Two principal components, shape (n, 2), and their shares of the variance; 0 where there is
    none.
    """
    from sklearn.decomposition import PCA

    # one image, or equal ones: all stand in the middle
    xy, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    if np.ptp(vectors, axis=0).any():  # equal vectors have no variance to share
        # the full solver settles signs by the largest loading: equal bytes on every machine
        pca = PCA(min(2, *vectors.shape), svd_solver="full").fit(vectors.astype(float))
        xy[:, : pca.n_components_] = pca.transform(vectors.astype(float))
        shares[: pca.n_components_] = pca.explained_variance_ratio_
    return xy, shares.tolist()


def snapped(
    points: Sequence[Sequence[float]], *, across: int, down: int, most: int
) -> dict[int, tuple[int, int]]:
    """Cells (column, row) of a grid for at most `most` of the `points` (in cells), by index;
    earlier ones choose first.

    A point gets the free cell whose middle is nearest; none if that is further than `_REACH` cells.
    """
    cells: dict[int, tuple[int, int]] = {}
    # a picture takes a whole cell: none hides another
    free = {(column, row) for column in range(across) for row in range(down)}
    for index, (x, y) in enumerate(points):
        if not free or len(cells) == most:
            break
        away, cell = min(((c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2, (c, r)) for c, r in free)
        if away <= _REACH**2:
            cells[index] = cell
            free.remove(cell)
    return cells


def plot_map(axes: Axes, table: Any, *, thumbnails: int) -> list[str]:
    """Images by their embedding; returns the image_ids that got one of at most `thumbnails`
    thumbnails.

    `table` is a `map_table`. Kept images are thumbnails with the number of their cluster, best
    ranks first, so that every cluster shows its middle; the others are marks, below the pictures.
    """
    first, second = (f"{share:.0%}" for share in table.attrs["explained"])
    axes.set(xticks=[], yticks=[], xlabel=f"First principal component ({first})")
    axes.set_ylabel(f"Second ({second} of the variance)")
    finish(axes)  # before the grid is counted: the legend takes room from it
    # more cells than pictures: many lie where no image is
    across, down = _grid(axes, 1.8 * max(thumbnails, 12))
    table = table.assign(x=_spread(table["x"], across), y=_spread(-table["y"], down))
    # best ranks first: each cluster shows its middle before any shows more
    kept = table[table["state"] == "kept"].sort_values(["rank", "cluster", "image_id"])
    cells = snapped(
        kept[["x", "y"]].to_numpy().tolist(),
        across=across,
        down=down,
        most=thumbnails,
    )
    shown = kept.iloc[list(cells)]
    plate = {
        "boxstyle": "square,pad=0.15",
        "facecolor": "white",
        "edgecolor": "none",
    }
    for (column, row), image in zip(cells.values(), shown.itertuples(), strict=True):
        box = Column(axes, column + 0.03, 0.94, row + 0.03).draw(image.path, height=0.94)
        axes.text(
            box.x0,
            box.y1,
            str(image.cluster),
            fontsize=4.5,
            bbox=plate,
            zorder=3,
        )
    _plot_marks(axes, table.drop(shown.index))
    finish(axes)
    return list(shown["image_id"])


def _grid(axes: Axes, cells: float) -> tuple[int, int]:
    """Count the axes in about so many square cells, downwards: columns, rows."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays the figure out
    width, height = axes.get_window_extent().size
    side = sqrt(width * height / cells)
    across, down = round(width / side), round(height / side)
    axes.set(xlim=(0, across), ylim=(down, 0), autoscale_on=False)
    return across, down


def _spread(values: Any, cells: int) -> Any:
    """Values over an axis of `cells`, half a cell off its ends; equal ones in its middle."""
    low, high = values.min(), values.max()
    if high == low:
        return values * 0 + cells / 2
    return 0.5 + (values - low) / (high - low) * (cells - 1)


def _plot_marks(axes: Axes, table: Any) -> None:
    """Images without a thumbnail; smaller the more there are."""
    # many marks become small, or they would be one blot
    size = min(6.0, max(1.0, 1200 / max(len(table), 1)))
    for state, (marker, face, edge) in _MARKS.items():
        if len(group := table[table["state"] == state]):
            name = f"{state}, without thumbnail" if state == "kept" else state
            look: Look = {
                "marker": marker,
                "facecolor": face,
                "edgecolor": edge,
            }
            look |= {
                "linewidths": 0.5,
                "zorder": 1,
                "label": f"{name} ({len(group):,})",
            }
            axes.scatter(group["x"], group["y"], size, **look)


def funnel_table(dropped: Mapping[str, int], *, kept: int) -> Any:
    """Samples left after each step, from how many were dropped by reason: step, left, set_aside.

    Reasons of a step that is not known here come last: they are shown, not lost.
    """
    # steps that set nothing aside are shown too: that they ran is part of the story
    names = [name for name in STEPS if dropped.get(name, 0) or name not in _SELDOM]
    names += sorted(set(dropped) - set(STEPS))
    aside = [0, *(dropped.get(name, 0) for name in names)]
    # counted back from what is left: the account closes by itself
    left = kept + sum(aside) - np.cumsum(aside)
    steps = ["samples", *(STEPS.get(name, name) for name in names)]
    return pd.DataFrame({"step": steps, "left": left, "set_aside": aside})


def pairs_table(inputs: Mapping[str, Path], *, count: int, seed: int) -> Any:
    """A seeded choice of at most `count` duplicates per reason, nearest first, with the image kept
    in their place.

    Columns of `duplicates`, and of_reason (how many there are), path and kept_path.
    """
    tables = {name: inputs[name] for name in ("duplicates", "images")}
    table = query(PAIRS.format(count=count, seed=seed), **tables)
    for name in ("path", "kept_path"):
        table[name] = f"{inputs['images'].parent}/" + table[name]
    return table


def plot_duplicates(sheet: Column, table: Any) -> None:
    """Pairs of a `pairs_table`, the kept image left of the one set aside."""
    if table.empty:
        sheet.write("No image was set aside as a duplicate.")
    for reason, group in table.groupby("reason"):
        of = f"{len(group):,} of {group['of_reason'].iloc[0]:,} that were set aside"
        sheet.write(
            f"{str(reason).replace('_', ' ').capitalize()}s",
            size=7.5,
            weight="bold",
        )
        sheet.write(f"{of}, each right of the one kept", size=5.5, color=GREY)
        sheet.y += 4
        lowest = sheet.y
        for place, pair in enumerate(group.itertuples()):
            if place and place % _PER_ROW == 0:
                sheet.y = lowest + 6
            left = place % _PER_ROW * sheet.width / _PER_ROW
            kept = sheet.column(left, _SIDE).draw(pair.kept_path, height=_SIDE)
            aside = sheet.column(left + _SIDE + 3, _SIDE).draw(pair.path, height=_SIDE)
            below = sheet.column(left, 2 * _SIDE)
            below.y = max(kept.y1, aside.y1)
            bits = pair.reason == "near_duplicate"  # of perceptual hashes; else of embeddings
            distance = f"{pair.distance:.0f} bits" if bits else f"1 − cosine = {pair.distance:.3f}"
            below.write(distance, size=5.5)
            # a row is as high as its highest pair: wide pictures leave no gap
            lowest = max(lowest, below.y)
        sheet.y = lowest + 10
