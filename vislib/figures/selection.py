"""Which images were selected, and which were set aside as duplicates (DenseFusion-1M, Perceptual
Fusion).

The map shows embeddings by their first two principal components. Thumbnails move to the nearest
free cell of a grid, so that each is seen whole. Tables are streamed: memory grows with the images
that are drawn.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import accumulate
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from vislib.figures import head
from vislib.figures.plots import EDGE, FILL, INK, PAPER_GREY
from vislib.figures.typeset import draw_text
from vislib.media.pixels import read_image, scaled
from vislib.runs import seeded, tables
from vislib.runs.stage import read_record

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
_SELDOM = ("beyond_limit", "embedding_failed")  # steps that are left out if they set nothing aside
LAYOUT: dict[int, Any] = {
    1: {"layout": "a;b", "height_ratios": (1.2, 1)},
    2: {"layout": "ab", "width_ratios": (11, 4)},
}
_KEPT, _DOUBLE, _BELOW = "kept", "semantic duplicate", "below the top k"
_MARKS = {
    _KEPT: ("o", EDGE, "white"),
    _DOUBLE: ("o", "white", INK),
    _BELOW: ("s", "white", PAPER_GREY),
}
_STAND_IN = "an embedded descriptor of colours and gradients that stands in CLIP's place"
_DPI = 240  # of embedded thumbnails, as printed
_NUMBERED = (
    60  # clusters of the map whose middle is marked, the largest: more would hide the pictures
)
_REACH = 3.0  # cells that a thumbnail may stand from its point
_PER_ROW, _SIDE, _GAP = (
    4,
    54.0,
    3.0,
)  # pairs in a row of the sheet; points of a picture, and between two


def embedding_model(table: Path) -> str:
    """What embedded the images, for small print, by the record of the stage that wrote `table`."""
    parameters = read_record(table.parent.parent).get("hashes", {}).get("parameters", {})
    model = parameters.get("embedding_model", "unknown")
    return f"{model}, {_STAND_IN}" if model == "colour-gradient" else str(model)


def _files(images: Path, ids: Iterable[str]) -> dict[str, str]:
    """Paths of image files by image_id, from the ledger."""
    found = tables.lookup(images, "image_id", set(ids), ["path"])
    return {name: str(images.parent / row["path"]) for name, row in found.items()}


def map_table(inputs: Mapping[str, Path], *, points: int, seed: int) -> Any:
    """A seeded choice of at most `points` embedded images: image_id, cluster, rank (-1: not kept),
    state, path, x, y.

    `inputs` has the folders of embeddings, samples, duplicates and images. x and y are the first
    two principal components; `attrs["explained"]` has their shares of the variance.
    """
    import pandas

    ids = (row["image_id"] for row in tables.read_rows(inputs["embeddings"], ["image_id"]))
    chosen = sorted(nsmallest(points, ids, key=lambda name: seeded(seed, name)))
    found = tables.lookup(inputs["embeddings"], "image_id", chosen, ["cluster", "vector"])
    kept = tables.lookup(inputs["samples"], "image_id", chosen, ["rank"])
    doubles = tables.lookup(inputs["duplicates"], "image_id", chosen, ["reason"])
    table = pandas.DataFrame(
        {
            "image_id": chosen,
            "cluster": [found[name]["cluster"] for name in chosen],
            "rank": [kept[name]["rank"] if name in kept else -1 for name in chosen],
            "state": [
                _KEPT if name in kept else _DOUBLE if name in doubles else _BELOW for name in chosen
            ],
        }
    )
    table["path"] = table["image_id"].map(_files(inputs["images"], chosen))
    table[["x", "y"]], table.attrs["explained"] = _projected(
        [found[name]["vector"] for name in chosen]
    )
    return table


def _projected(vectors: Sequence[Sequence[float]]) -> tuple[Any, list[float]]:
    """Two principal components, shape (n, 2), and their shares of the variance; 0 where there is
    none.
    """
    import numpy
    from sklearn.decomposition import PCA

    matrix = numpy.asarray(vectors, numpy.float64)
    xy = numpy.zeros((len(matrix), 2))
    if not numpy.ptp(matrix, axis=0).any():
        return xy, [0.0, 0.0]
    pca = PCA(min(2, *matrix.shape), svd_solver="full").fit(
        matrix
    )  # it settles the signs by the largest loading
    xy[:, : pca.n_components_] = pca.transform(matrix)
    return xy, [*pca.explained_variance_ratio_.tolist(), 0.0][:2]


def snapped(
    points: Sequence[Sequence[float]], *, across: int, down: int, most: int
) -> dict[int, tuple[int, int]]:
    """Cells (column, row) of a grid for at most `most` of the `points` (in cells), by index;
    earlier ones choose first.

    A point gets the free cell whose middle is nearest; none if that is further than `_REACH` cells.
    """
    cells: dict[int, tuple[int, int]] = {}
    free = {(column, row) for column in range(across) for row in range(down)}
    for index, (x, y) in enumerate(points):
        if not free or len(cells) == most:
            break
        away, cell = min(((c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2, (c, r)) for c, r in free)
        if away <= _REACH**2:
            cells[index] = cell
            free.remove(cell)
    return cells


def plot_map(axes: Axes, table: Any, *, thumbnails: int, title: str = "") -> list[str]:
    """Images by their embedding; returns the image_ids that got one of at most `thumbnails`
    thumbnails.

    `table` is a `map_table`. Kept images are thumbnails with the number of their cluster, best
    ranks first, so that every cluster shows its middle; the others are marks. Numbers in boxes
    stand at the middles of clusters.
    """
    first, second = (f"{share:.0%}" for share in table.attrs["explained"])
    axes.set(xticks=[], yticks=[], xlabel=f"First principal component ({first} of the variance)")
    axes.set_ylabel(f"Second principal component ({second})")
    head(axes, title)
    across, down, side = _grid(axes, 1.8 * max(thumbnails, 12))  # many cells lie where no image is
    table = table.assign(x=_spread(table["x"], across), y=_spread(table["y"], down))
    table[["middle_x", "middle_y"]] = table.groupby("cluster")[["x", "y"]].transform("mean")
    kept = table[table["state"] == _KEPT].sort_values(["rank", "cluster", "image_id"])
    cells = snapped(kept[["x", "y"]].to_numpy().tolist(), across=across, down=down, most=thumbnails)
    shown = kept.iloc[list(cells)]
    for (column, row), image in zip(cells.values(), shown.itertuples(), strict=True):
        x, y = _draw_thumbnail(axes, image.path, left=column, bottom=row, inches=side)
        look = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        axes.text(x + 0.04, y + 0.05, str(image.cluster), fontsize=4.5, bbox=look, zorder=3)
    _plot_marks(axes, table.drop(shown.index))
    _plot_middles(axes, table)
    head(axes, title)
    return list(shown["image_id"])


def _grid(axes: Axes, cells: float) -> tuple[int, int, float]:
    """Count the axes in about so many square cells: columns, rows, and a cell's side in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays the figure out
    box = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    side = sqrt(box.width * box.height / cells)
    across, down = round(box.width / side), round(box.height / side)
    axes.set(xlim=(0, across), ylim=(0, down), autoscale_on=False)
    return across, down, side


def _spread(values: Any, cells: int) -> Any:
    """Values over an axis of `cells`, half a cell off its ends; equal ones in its middle."""
    low, high = values.min(), values.max()
    return (
        0.5 + (values - low) / (high - low) * (cells - 1) if high > low else values * 0 + cells / 2
    )


def _draw_thumbnail(
    axes: Axes, path: str, *, left: float, bottom: float, inches: float, side: float = 1
) -> tuple[float, float]:
    """Fit a picture into a square of `side` in the axes' units (below 0: downwards); returns its
    lower left corner.
    """
    picture = scaled(read_image(path), ceil(inches * _DPI))
    width, height = (0.94 * side * length / max(picture.size) for length in picture.size)
    x, y = left + (abs(side) - abs(width)) / 2, bottom + (side - height) / 2
    right, top = x + abs(width), y + height
    axes.imshow(picture, extent=(x, right, y, top), aspect="auto", zorder=2)
    axes.plot([x, right, right, x, x], [y, y, top, top, y], color="0.3", linewidth=0.4, zorder=2)
    return x, y


def _plot_marks(axes: Axes, table: Any) -> None:
    """Images without a thumbnail, each with a line to the middle of its cluster; smaller the more
    there are.
    """
    lines = list(
        zip(table[["middle_x", "middle_y"]].to_numpy(), table[["x", "y"]].to_numpy(), strict=True)
    )
    axes.add_collection(LineCollection(lines, color="0.8", linewidth=0.3, zorder=1))
    size = min(6.0, max(1.0, 1200 / max(len(table), 1)))
    for state, (marker, face, edge) in _MARKS.items():
        if len(group := table[table["state"] == state]):
            look: dict[str, Any] = {
                "marker": marker,
                "facecolor": face,
                "edgecolor": edge,
                "linewidths": 0.5,
            }
            name = f"{state}, without thumbnail" if state == _KEPT else state
            axes.scatter(
                group["x"], group["y"], s=size, zorder=3, label=f"{name} ({len(group):,})", **look
            )


def _plot_middles(axes: Axes, table: Any) -> None:
    look = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.6}
    largest = table["cluster"].value_counts().sort_index().nlargest(_NUMBERED).index
    for cluster, x, y in (
        table.groupby("cluster")[["middle_x", "middle_y"]].first().loc[largest].itertuples()
    ):
        axes.text(
            x,
            y,
            str(cluster),
            fontsize=6,
            weight="bold",
            ha="center",
            va="center",
            bbox=look,
            zorder=4,
        )


def funnel_table(reasons: Iterable[str], *, kept: int) -> Any:
    """Samples left after each step, from the reasons of all that were dropped: step, left,
    set_aside.
    """
    import pandas

    counts = Counter(reasons)
    names = [name for name in STEPS if counts[name] or name not in _SELDOM] + sorted(
        set(counts) - set(STEPS)
    )
    aside = [0, *(counts[name] for name in names)]
    left = [kept + counts.total() - lost for lost in accumulate(aside)]
    return pandas.DataFrame(
        {"step": ["samples", *(STEPS.get(n, n) for n in names)], "left": left, "set_aside": aside}
    )


def plot_funnel(axes: Axes, table: Any, title: str = "") -> None:
    """A bar per step: filled what is left, hatched what the step set aside, with both numbers."""
    axes.barh(table.index, table["left"], 0.3, facecolor=FILL, edgecolor=EDGE)
    some = table[table["set_aside"] > 0]
    axes.barh(
        some.index,
        some["set_aside"],
        0.3,
        left=some["left"],
        facecolor="white",
        edgecolor=INK,
        hatch="//////",
    )
    end = max(table["left"].max(), 1)
    for y, step, left, aside in table.itertuples():
        axes.text(0, y - 0.22, step, fontsize=6.5)
        axes.text(end, y - 0.22, f"{left:,}", fontsize=6.5, ha="right")
        axes.text(
            end,
            y + 0.22,
            f"−{aside:,}" * bool(aside),
            fontsize=5.5,
            ha="right",
            va="top",
            color=PAPER_GREY,
        )
    axes.set(xlim=(0, end), ylim=(len(table) - 0.6, -0.6), xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    head(axes, title, legend=False)


def pairs_table(inputs: Mapping[str, Path], *, count: int, seed: int) -> Any:
    """A seeded choice of at most `count` duplicates per reason, nearest first, with the image kept
    in their place.

    Columns of `duplicates`, and of_reason (how many there are), path and kept_path.
    """
    import pandas

    totals = Counter(row["reason"] for row in tables.read_rows(inputs["duplicates"], ["reason"]))
    chosen = []
    for reason in sorted(totals):
        rows = (row for row in tables.read_rows(inputs["duplicates"]) if row["reason"] == reason)
        few = nsmallest(count, rows, key=lambda row: seeded(seed, row["image_id"]))
        chosen += sorted(few, key=lambda row: (row["distance"], row["image_id"]))
    table = pandas.DataFrame(chosen, columns=["image_id", "kept_id", "reason", "distance"])
    files = _files(inputs["images"], {*table["image_id"], *table["kept_id"]})
    table["of_reason"], table["path"] = table["reason"].map(totals), table["image_id"].map(files)
    return table.assign(kept_path=table["kept_id"].map(files))


def plot_duplicates(axes: Axes, table: Any, *, width: float) -> float:
    """Pairs of a `pairs_table` on a sheet, the kept image left of the one set aside; returns the
    height in points.
    """
    if table.empty:
        return draw_text(axes, "No image was set aside as a duplicate.", x=1, y=2, width=width)
    y = 2.0
    for reason, group in table.groupby("reason"):
        shown = (
            f"{len(group):,} of {group['of_reason'].iloc[0]:,} that were set aside, each right of"
            " the one kept"
        )
        name = f"{str(reason).replace('_', ' ').capitalize()}s"
        y = draw_text(axes, name, x=1, y=y, width=width, size=7.5, weight="bold")
        y = draw_text(axes, shown, x=1, y=y, width=width, size=5.5, color=PAPER_GREY) + 4
        for place, pair in enumerate(group.itertuples()):
            row, column = divmod(place, _PER_ROW)
            _draw_pair(axes, pair, x=1 + column * width / _PER_ROW, y=y + row * (_SIDE + 16))
        y += ceil(len(group) / _PER_ROW) * (_SIDE + 16) + 6
    return y - 8


def _draw_pair(axes: Axes, pair: Any, *, x: float, y: float) -> None:
    for left, path in ((x, pair.kept_path), (x + _SIDE + _GAP, pair.path)):
        _draw_thumbnail(axes, path, left=left, bottom=y + _SIDE, inches=_SIDE / 72, side=-_SIDE)
    distance = (
        f"{pair.distance:.0f} bits"
        if pair.reason == "near_duplicate"
        else f"1 − cosine = {pair.distance:.3f}"
    )
    draw_text(axes, distance, x=x + 2, y=y + _SIDE, width=2 * _SIDE, size=5.5)
