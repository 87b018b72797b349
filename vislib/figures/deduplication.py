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
    looks = marks(f"{minimum}" for minimum in table["minimum"].unique())
    for (_, rows), (name, look) in zip(table.groupby("minimum"), looks.items(), strict=True):
        axes.plot(rows["threshold"], rows[measure], label=name, linewidth=0.7, **look)
    line = axes.axvline(threshold, color=CONTRAST, linewidth=0.7, linestyle=(0, (4, 2)))
    line.set_label(f"threshold {threshold:g}")
    axes.set_xlabel("Threshold, cosine")
    axes.locator_params("x", nbins=6)
    axes.locator_params("y", nbins=4)


def plot_legend(axes: Axes, of: Axes) -> None:
    """A panel that says what lines and marks of the others mean, once for all."""
    axes.axis("off")
    axes.legend(*of.get_legend_handles_labels(), loc="center left", title="Of each type, at least")
