"""The data configurations on one benchmark with their tests (VisCon-100K, table 1), set as a table on a sheet.

b counts the questions that the arm alone answers right, c those that its reference alone does; p is McNemar's. What the
paper gives is written in red below the model that it is of; the accuracies of its table are known to nobody here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from vislib.figures.benchmarks import REFERENCE, marks, scale_of, title_of
from vislib.figures.plots import CONTRAST, INK, PAPER_GREY
from vislib.figures.typeset import draw_text
from vislib.runs import InputError

NOTE = "b: questions that the arm alone answers right; c: its reference alone; p: McNemar, exact; Holm: over arms."
_ROW = 11.0  # points of a row of the table
_STRIP = (160.0, 214.0)  # points, of the strip of intervals
_CELLS = {  # column of the table: heading, right edge in points
    "samples": ("samples", 106), "supervised_tokens": ("supervised\ntokens", 152), "accuracy": ("accuracy, %", 275),
    "difference": ("difference", 350), "n": ("n", 379), "b": ("b", 402), "c": ("c", 425), "p": ("p", 456),
    "p_holm": ("p, Holm", 485),
}  # fmt: skip


def join(scores: Any, comparisons: Any, arms: Any, benchmark: str) -> Any:
    """Table 1: a row per model, arm and reference, with the columns of all three tables for one benchmark.

    `difference_low` and `difference_high` are the ends of the difference's interval, `pairs` the questions that both
    answered. Raises InputError when no arm has scores on `benchmark`.
    """
    own = scores[scores["benchmark"] == benchmark]
    if own.empty:
        known = ", ".join(dict.fromkeys(scores["benchmark"]))
        raise InputError(f"benchmark is {benchmark!r}, which no arm was evaluated on; 12 has scores on {known}")
    cell = ["model", "arm"]
    sizes = arms.groupby(cell)[["samples", "supervised_tokens", "steps"]].mean().reset_index()  # over seeds
    names = {"low": "difference_low", "high": "difference_high", "n": "pairs"}
    found = comparisons[comparisons["benchmark"] == benchmark].drop(columns="benchmark").rename(columns=names)
    return own.merge(sizes, on=cell, how="left").merge(found, on=cell, how="left")


def plot(axes: Axes, table: Any, *, width: float, paper: Sequence[str], caveat: str) -> float:
    """Set a `join`ed table on a sheet, a block per model; returns the height in points."""
    looks, y = marks(table["arm"]), 2.0
    benchmark = table["benchmark"].iloc[0]
    for model, rows in table.groupby("model", sort=False):
        y = _plot_block(axes, rows, looks, width=width, y=y, title=f"{model} on {title_of(benchmark)}{caveat}")
        if said := paper_tests(model, benchmark) if model in paper else "":
            y = draw_text(axes, said, x=6, y=y, width=width - 6, size=6, color=CONTRAST)
        y += 8
    return y - 8


def _plot_block(axes: Axes, table: Any, looks: Mapping[str, Any], *, width: float, y: float, title: str) -> float:
    """Set the rows of one model in a `join`ed table from `y` down, with a strip of intervals; returns the y below."""
    y = draw_text(axes, title, x=1, y=y, width=width, size=7.5, weight="bold") + 18
    usual, before, top = table["reference"].mode().get(0, ""), "", y
    for name, (heading, right) in _CELLS.items():
        words = f"{heading}\nto {title_of(usual)}" if name == "difference" and usual else heading
        axes.text(right, y - 3, words, fontsize=5.5, ha="right", color=PAPER_GREY)
    for row in table.itertuples():
        y += _ROW
        first, held = row.arm != before, isinstance(row.reference, str)
        name = title_of(row.arm) * first  # an arm that is held against several has its own numbers once
        name += f" to {title_of(row.reference)}" if held and row.reference != usual else ""
        axes.text(6, y - 3, name, fontsize=6.5)
        if first:
            _plot_interval(axes, row, looks[row.arm], y=y - 5, low=table["low"].min(), high=table["high"].max())
        for column, text in _cells(row, first=first, held=held).items():
            signed = re.sub(r"[+-](0\.0\b)", r"\1", text).replace("-", "−")
            axes.text(_CELLS[column][1], y - 3, signed, fontsize=6, ha="right")
        before = row.arm
    for line in (top, y + 2):
        axes.plot([1, width - 1], [line, line], color=INK, linewidth=0.5)
    return y + 6


def _plot_interval(axes: Axes, row: Any, look: Mapping[str, Any], *, y: float, low: float, high: float) -> None:
    """The accuracy and interval of a row of the table on a strip from `low` to `high`."""
    scale = (_STRIP[1] - _STRIP[0]) / max(high - low, 1e-9)
    left, middle, right = (_STRIP[0] + scale * (value - low) for value in (row.low, row.accuracy, row.high))
    axes.plot([left, right], [y, y], color=look["color"], linewidth=0.8)
    axes.plot(middle, y, **{name: value for name, value in look.items() if name != "elinewidth"})


def _cells(row: Any, *, first: bool, held: bool) -> dict[str, str]:
    """What stands in a row of the table, by column; a number that is not known leaves its cell empty."""
    scale, cells = scale_of(row.benchmark), dict[str, str]()
    if first:
        cells["accuracy"] = f"{scale * row.accuracy:.1f} [{scale * row.low:.1f}, {scale * row.high:.1f}]"
    if held and row.difference == row.difference:
        ends = f"{scale * row.difference_low:+.1f}, {scale * row.difference_high:+.1f}"
        cells["difference"] = f"{scale * row.difference:+.1f} [{ends}]"
    for name in ("samples", "supervised_tokens", "n", "b", "c", "p", "p_holm"):
        value, whole = getattr(row, name), name[0] != "p"
        if value == value and (first or not whole or name in "bc"):
            cells[name] = f"{value:,.0f}" if whole else f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
    return cells


def paper_tests(model: str, benchmark: str) -> str:
    """The paper's own McNemar tests as a sentence, if they are of this model and benchmark."""
    tests = REFERENCE["viscon"]["mcnemar"]
    if (model, benchmark) != (tests["model"], tests["benchmark"]):
        return ""
    said = ", ".join(f"against {title_of(arm)} p = {p:g}" for arm, p in tests["against"].items())
    return f"McNemar's tests in the paper, of its {title_of(tests['arm'])}: {said}. It gives them without b, c and n."
