"""What thresholds and minima of 08's de-duplication leave of the questions (VisCon-100K, section
3.4, gives neither): a panel per measure, a line per minimum.
"""

from typing import Any

from matplotlib.axes import Axes

from vislib.figures.charts import marks
from vislib.figures.style import CONTRAST

MEASURES = {  # a column of the table, and what its panel is called
    "share": "Questions kept",
    "nearest": "Mean nearest cosine",
    "distinct_1": "Different words",
    "distinct_2": "Different pairs of words",
    "balance": "Rarer type to the other",
}


def plot_sweep(axes: Axes, table: Any, measure: str, *, threshold: float) -> None:
    """A column of 15's `sweep` over the threshold, a line per minimum; the `threshold` of 08 is
    marked.
    """
    lines = table.pivot(index="threshold", columns="minimum", values=measure)
    for name, look in marks(map(str, lines)).items():
        # marks are told by their names, columns by the number
        axes.plot(lines[int(name)], label=name, linewidth=0.7, **look)
    axes.axvline(
        threshold,
        label=f"threshold {threshold:g}",
        color=CONTRAST,
        linewidth=0.7,
        linestyle="--",
    )
    # a panel is small: more ticks would run into one another
    axes.set_xlabel("Threshold, cosine")
    axes.locator_params("x", nbins=6)
    axes.locator_params("y", nbins=4)


def plot_legend(axes: Axes, of: Axes) -> None:
    """A panel that says what lines and marks of the others mean, once for all."""
    axes.axis("off")
    axes.legend(*of.get_legend_handles_labels(), loc="center left", title="Of each type, at least")
