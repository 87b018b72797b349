"""Which images were selected, and which were set aside as duplicates (DenseFusion-1M, Perceptual
Fusion).

The map shows embeddings by their first two principal components. Thumbnails move to the nearest
free cell of a grid, so that each is seen whole. Memory grows with the images that are drawn.
"""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from vislib.figures.statistics import query
from vislib.figures.style import EDGE, GREY, INK, finish
from vislib.figures.text import Column
from vislib.runs.stage import read_record

MAP = """
WITH files AS (SELECT image_id, min(path) AS path FROM images GROUP BY image_id),
chosen AS (FROM embeddings ORDER BY seeded({seed}, image_id) LIMIT {points}),
ranks AS (SELECT image_id, min(rank) AS rank FROM samples GROUP BY image_id)
SELECT image_id, chosen.cluster, coalesce(rank, -1) AS rank,
    CASE WHEN rank IS NOT NULL THEN 'kept'
         WHEN image_id IN (SELECT image_id FROM duplicates) THEN 'semantic duplicate'
         ELSE 'below the top k' END AS state, beside_images() || path AS path, vector
FROM chosen LEFT JOIN ranks USING (image_id) LEFT JOIN files USING (image_id) ORDER BY image_id
"""
# At most so many duplicates per reason, by seed, with the image kept in their place.
PAIRS = """
WITH files AS (SELECT image_id, beside_images() || min(path) AS path FROM images GROUP BY image_id),
ranked AS (SELECT *, count(*) OVER (PARTITION BY reason) AS of_reason, row_number() OVER (
    PARTITION BY reason ORDER BY seeded({seed}, image_id)) AS place FROM duplicates)
SELECT ranked.image_id, kept_id, reason, distance, of_reason, aside.path, kept.path AS kept_path,
    CASE reason WHEN 'near_duplicate' THEN distance::INT || ' bits'
        ELSE '1 − cosine = ' || format('{{:.3f}}', distance) END AS said
FROM ranked LEFT JOIN files AS aside ON aside.image_id = ranked.image_id
LEFT JOIN files AS kept ON kept.image_id = kept_id
WHERE place <= {count} ORDER BY reason, distance, ranked.image_id
"""
# What each step of 04 left of the samples, counted back from what is left, so that the account
# closes by itself. Steps are shown that set nothing aside, but for the seldom ones: that they ran
# is part of the story. Reasons of a step that is not known here come last.
FUNNEL = """
WITH steps(number, reason, step, seldom) AS (VALUES (0, '', 'samples', false),
    (1, 'image_failed', 'with a usable image', false), (2, 'exact_duplicate', 'distinct', false),
    (3, 'beyond_limit', 'chosen by limit', true), (4, 'too_small', 'large enough', false),
    (5, 'near_duplicate', 'no near-duplicate', false),
    (6, 'embedding_failed', 'with an embedding', true),
    (7, 'semantic_duplicate', 'no semantic duplicate', false),
    (8, 'below_top_k', 'top k of a cluster', false)),
counts AS (SELECT reason, count(*) AS n FROM dropped GROUP BY reason),
named AS (SELECT coalesce(number, 9) AS number, coalesce(step, reason) AS step,
    coalesce(n, 0) AS set_aside FROM steps FULL JOIN counts USING (reason)
    WHERE n > 0 OR NOT seldom)
SELECT step, ((SELECT count(*) FROM samples) + coalesce(sum(set_aside) OVER (ORDER BY number, step
    ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), 0))::BIGINT AS "left", set_aside
FROM named ORDER BY number, step
"""
_MARKS = {  # marker, filling and edge
    "kept": ("o", EDGE, "white"),
    "semantic duplicate": ("o", "white", INK),
    "below the top k": ("s", "white", GREY),
}
_REACH = 3.0  # cells that a thumbnail may stand from its point
_PER_ROW, _SIDE = 4, 54.0  # pairs in a row; points of a picture


def embedding_model(table: Path) -> str:
    """What embedded the images, for small print, by the record of the stage that wrote `table`."""
    # the tables do not say it: the record of the stage does
    parameters = read_record(table.parent.parent).get("hashes", {}).get("parameters", {})
    return str(parameters.get("embedding_model", "unknown"))


def map_table(inputs: Mapping[str, Path], *, points: int, seed: int) -> Any:
    """A seeded choice of at most `points` embedded images: image_id, cluster, rank (-1: not kept),
    state, path, x, y.

    `inputs` has the folders of embeddings, samples, duplicates and images. x and y are the first
    two principal components; `attrs["explained"]` has their shares of the variance.
    """
    table = query(MAP.format(points=points, seed=seed), **inputs)
    vectors = np.stack(table.pop("vector")).astype(float)
    # one image, or equal ones, have no variance: all stand in the middle
    table["x"], table["y"], shares = 0.0, 0.0, [0.0, 0.0]
    if np.ptp(vectors, axis=0).any():
        # the full solver settles signs by the largest loading: equal bytes on every machine
        pca = PCA(min(2, *vectors.shape), svd_solver="full")
        for number, values in enumerate(pca.fit_transform(vectors).T):
            table["xy"[number]], shares[number] = values, pca.explained_variance_ratio_[number]
    table.attrs["explained"] = shares
    return table


def snapped(points: Any, *, across: int, down: int) -> dict[int, tuple[float, float]]:
    """The left upper corner of a cell of a grid for each of the `points` (x, y in cells), by index:
    no two have one, and together they are as near as can be.

    A point whose cell would be further than `_REACH` cells has none.
    """
    corners = [(float(column), float(row)) for column in range(across) for row in range(down)]
    away = cdist(points, np.array(corners) + 0.5)
    pairs = zip(*linear_sum_assignment(away), strict=True)
    return {point: corners[cell] for point, cell in pairs if away[point, cell] <= _REACH}


def plot_map(axes: Axes, table: Any, *, thumbnails: int) -> list[str]:
    """Images by their embedding; returns the image_ids that got one of at most `thumbnails`
    thumbnails.

    `table` is a `map_table`. Kept images are thumbnails with the number of their cluster, best
    ranks first, so that every cluster shows its middle; the others are marks, below the pictures.
    """
    first, second = (f"{share:.0%}" for share in table.attrs["explained"])
    axes.set(xticks=[], yticks=[], xlabel=f"First principal component ({first})")
    axes.set_ylabel(f"Second ({second} of the variance)")
    finish(axes)  # lays the figure out, before the cells are counted
    width, height = axes.get_window_extent().size
    # more cells than pictures: many lie where no image is
    side = sqrt(width * height / (1.8 * max(thumbnails, 12)))
    across, down = round(width / side), round(height / side)
    axes.set(xlim=(0, across), ylim=(down, 0), autoscale_on=False)
    table = table.copy()
    # half a cell off the ends, or in the middle where all are equal
    for name, ends in (("x", [0.5, across - 0.5]), ("y", [down - 0.5, 0.5])):
        values = table[name]
        table[name] = np.interp(values, [values.min() - 1e-9, values.max() + 1e-9], ends)
    # best ranks first: each cluster shows its middle before any shows more
    kept = table[table["state"] == "kept"].sort_values(["rank", "cluster", "image_id"])
    cells = snapped(kept[["x", "y"]].head(thumbnails), across=across, down=down)
    shown = kept.iloc[list(cells)]
    plate = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    for (left, top), image in zip(cells.values(), shown.itertuples(), strict=True):
        box = Column(axes, left + 0.03, 0.94, top + 0.03).draw(image.path, height=0.94)
        axes.text(box.x0, box.y1, str(image.cluster), fontsize=4.5, bbox=plate, zorder=3)
    _plot_marks(axes, table.drop(shown.index))
    finish(axes)
    return list(shown["image_id"])


def _plot_marks(axes: Axes, table: Any) -> None:
    # many marks become small, or they would be one blot
    size = np.clip(1200 / max(len(table), 1), 1, 6)
    for state, (marker, face, edge) in _MARKS.items():
        if len(group := table[table["state"] == state]):
            name = f"{state}, without thumbnail" if state == "kept" else state
            marks = axes.scatter(group["x"], group["y"], size, face, marker=marker, zorder=1)
            marks.set(edgecolor=edge, linewidth=0.5, label=f"{name} ({len(group):,})")


def plot_duplicates(sheet: Column, table: Any) -> None:
    """Rows of `PAIRS`, nearest first by reason, the kept image left of the one set aside."""
    if table.empty:
        sheet.write("No image was set aside as a duplicate.")
    for reason, group in table.groupby("reason"):
        of = f"{len(group):,} of {group['of_reason'].iloc[0]:,} that were set aside"
        title = f"{reason.replace('_', ' ').capitalize()}s"
        sheet.write(title, size=7.5, weight="bold")
        sheet.write(f"{of}, each right of the one kept", size=5.5, color=GREY)
        sheet.y += 4
        lowest = sheet.y
        for place, pair in enumerate(group.itertuples()):
            if place and place % _PER_ROW == 0:
                sheet.y = lowest + 6
            below = sheet.column(place % _PER_ROW * sheet.width / _PER_ROW, 2 * _SIDE)
            kept = below.column(0, _SIDE).draw(pair.kept_path, height=_SIDE)
            aside = below.column(_SIDE + 3, _SIDE).draw(pair.path, height=_SIDE)
            below.y = max(kept.y1, aside.y1)
            below.write(pair.said, size=5.5)
            # a row is as high as its highest pair: wide pictures leave no gap
            lowest = max(lowest, below.y)
        sheet.y = lowest + 10
