"""What thresholds and minima of 08's de-duplication leave of the questions (VisCon-100K, section
3.4, gives neither): a panel per measure, a line per minimum.
"""

from typing import Any

from matplotlib.axes import Axes

from vislib.figures.charts import marks
from vislib.figures.style import CONTRAST
from vislib.runs import InputError

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


def reading(table: Any, threshold: float, minimum: int) -> str:
    """One sentence on what a setting means. Raises InputError where 15 has not tried it."""
    own = table[table["minimum"] == minimum].set_index("threshold")
    if threshold not in own.index:
        raise InputError(
            f"threshold {threshold} with minimum {minimum} is not in the sweep; 15 tried"
            f" {sorted(set(table['threshold']))} with {sorted(set(table['minimum']))}"
        )
    here = own.loc[threshold]
    gone = here["asked"] - here["kept"]
    first, tenth = (own.index[own["share"] <= share].max() for share in (1 - 1e-9, 0.9))
    return (
        f"At {threshold:g}, with at least {minimum} of each type, {gone:,.0f} of"
        f" {here['asked']:,.0f} questions go ({1 - here['share']:.1%}); of the thresholds tried,"
        f" {first:g} is the highest at which any goes and {tenth:g} the highest at which a tenth"
        f" does; what stays has a mean cosine of {here['nearest']:.2f} to its nearest."
    )
