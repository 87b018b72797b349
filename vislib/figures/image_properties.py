"""What the selected images are: tags, sizes, and how many hold text (DenseFusion-1M, which finds
more than 70 %).
"""

from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vislib.figures.statistics import histogram, query
from vislib.figures.style import EDGE, FILL, INK, Look, finish

PAPER_TEXT_SHARE = 0.7  # more than that
_DOT = 42.0  # points², of the bin with most images
_BARS = 20  # of the histogram of texts, about


def text_table(images: Any) -> Any:
    """Images by number of texts, as a `histogram` around whole numbers; those without text are the
    first row.
    """
    # images that nobody read count neither way
    texts = images["texts"].dropna()
    most = int(max([1, *texts]))
    step = ceil(most / _BARS)
    # bins as wide as the others, from which none but 0 falls into the first
    return histogram(texts, np.arange(0.5 - step, most + step + 0.5, step))


def experts_note(experts: Path) -> str:
    """Small print: what tagged the images, and what read their text."""
    found = query("SELECT expert, model FROM experts", experts=experts)
    models = dict(zip(found["expert"], found["model"], strict=True))
    return f"Tags: {models.get('tagger', 'none')}. Text: {models.get('ocr', 'none')}."


def plot_sizes(axes: Axes, table: Any, *, short_edge: int) -> None:
    """Images by width and height on logarithmic axes, circles by number; lines mark the smallest
    short edge.
    """
    most = int(table["images"].max())
    # areas, not widths, grow with the number; one image stays visible
    areas = (table["images"] / most * _DOT).clip(lower=1.5)
    largest = f"largest: {most:,} image{'s' if most > 1 else ''}"
    axes.scatter(table["width"], table["height"], areas, FILL, edgecolor=EDGE, label=largest)
    dashed: Look = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 1.2))}
    axes.axvline(short_edge, label=f"short edge ≥ {short_edge:,} px", **dashed)
    axes.axhline(short_edge, **dashed)
    axes.axline((1, 1), (2, 2), color="0.75", linewidth=0.6, zorder=0)  # square pictures
    ends = short_edge / 1.3, 1.3 * table[["width", "height"]].max(axis=None)
    # a step is a doubling, as sizes of pictures are thought of
    axes.loglog(base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="Width (px)", ylabel="Height (px)", xlim=ends, ylim=ends)
    finish(axes)
