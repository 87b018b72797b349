"""The data configurations on one benchmark with their tests (VisCon-100K, table 1), set as a table
on a sheet.

b counts the questions that the arm alone answers right, c those that its reference alone does; p is
McNemar's, and beside it stands the test that keeps questions of one page or picture together. Arms
that learnt from unequal data are marked: they compare data and size. What the paper gives is
written in red below the model that it is of; the accuracies of its table are known to nobody here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from vislib.figures.benchmarks import REFERENCE, marks, scale_of, title_of
from vislib.figures.plots import CONTRAST, INK, PAPER_GREY
from vislib.figures.typeset import draw_text
from vislib.runs import InputError
from vislib.runs.contract import ARM_SIZES

NOTE = (
    "b: questions that the arm alone answers right; c: its reference alone; p: McNemar, exact, each"
    " question for itself; clustered: those of one page or picture together; Holm: clustered p,"
    " over arms; detectable: at 80 % power; ±: over seeds."
)
_ROW = 11.0  # points of a row of the table
_STRIP = (146.0, 182.0)  # points, of the strip of intervals
_EQUAL = 0.01  # sizes that differ by less of the larger one: a step more or less
_UNEQUAL = "†"
_CELLS = {  # column of the table: heading, right edge in points
    "samples": ("samples", 90),
    "rounds": ("rounds", 114),
    "supervised_tokens": ("superv.\ntokens", 140),
    "accuracy": ("accuracy, %", 255),
    "difference": ("difference", 321),
    "detectable": ("detect-\nable", 343),
    "n": ("n", 366),
    "b": ("b", 386),
    "c": ("c", 406),
    "p": ("p", 428),
    "p_clustered": ("p, clus-\ntered", 455),
    "p_holm": ("p,\nHolm", 483),
}


def join(scores: Any, comparisons: Any, arms: Any, benchmark: str) -> Any:
    """Table 1: a row per model, arm and reference, with the columns of all three tables for one
    benchmark.

    `difference_low` and `difference_high` are the ends of the difference's interval, `pairs` the
    questions that both answered. `unequal` says in which sizes arm and reference differ, "" where
    in none or where they are not known. Raises InputError when no arm has scores on `benchmark`.
    """
    own = scores[scores["benchmark"] == benchmark]
    if own.empty:
        known = ", ".join(dict.fromkeys(scores["benchmark"]))
        raise InputError(
            f"benchmark is {benchmark!r}, which no arm was evaluated on; 12 has scores on {known}"
        )
    cell = ["model", "arm"]
    sizes = mean_sizes(arms)
    names = {name: f"difference_{name}" for name in ("low", "high", "seed_deviation")}
    names |= {"n": "pairs", "clusters": "compared_clusters"}
    found = (
        comparisons[comparisons["benchmark"] == benchmark]
        .drop(columns="benchmark")
        .rename(columns=names)
    )
    table = own.merge(sizes, on=cell, how="left").merge(found, on=cell, how="left")
    held = dict(
        zip(zip(sizes["model"], sizes["arm"], strict=True), sizes.to_dict("records"), strict=True)
    )
    pairs = zip(table["model"], table["arm"], table["reference"], strict=True)
    return table.assign(
        unequal=[_unequal(held.get((m, arm)), held.get((m, other))) for m, arm, other in pairs]
    )


def mean_sizes(arms: Any) -> Any:
    """What each model and arm learnt from, a mean over its seeds; NaN where nobody knows."""
    known = arms.reindex(columns=[*arms.columns, *({*ARM_SIZES} - {*arms.columns})])
    return known.groupby(["model", "arm"])[[*ARM_SIZES, "steps"]].mean().reset_index()


def _unequal(arm: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> str:
    if arm is None or reference is None:
        return ""
    pairs = {name: (arm[name], reference[name]) for name in ARM_SIZES}
    said = [
        f"{_count(a)} {name.replace('_', ' ')} to {_count(b)}"
        for name, (a, b) in pairs.items()
        if abs(a - b) > _EQUAL * max(a, b)
    ]
    return ", ".join(said)


def plot(axes: Axes, table: Any, *, width: float, paper: Sequence[str], caveat: str) -> float:
    """Set a `join`ed table on a sheet, a block per model; returns the height in points."""
    looks, y = marks(table["arm"]), 2.0
    benchmark = table["benchmark"].iloc[0]
    for model, rows in table.groupby("model", sort=False):
        y = _plot_block(
            axes, rows, looks, width=width, y=y, title=f"{model} on {title_of(benchmark)}{caveat}"
        )
        for said in remarks(rows):
            y = draw_text(axes, said, x=6, y=y, width=width - 6, size=6)
        if said := paper_tests(model, benchmark) if model in paper else "":
            y = draw_text(axes, said, x=6, y=y, width=width - 6, size=6, color=CONTRAST)
        y += 8
    return y - 8


def _count(value: float) -> str:
    """A count, of large ones three digits."""
    if value < 100_000:
        return f"{value:,.0f}"
    return f"{value / 1e3:.0f} K" if value < 1e6 else f"{value / 1e6:.3g} M"


def remarks(rows: Any) -> list[str]:
    """What must be read beside one model's rows of a `join`ed table: sizes, checkpoints, the A/A
    comparison.
    """
    held = rows[rows["reference"].map(lambda name: isinstance(name, str))]
    if held.empty:
        return []
    sizes = [f"{title_of(row.arm)} {row.unequal}" for row in held.itertuples() if row.unequal]
    said = (
        [f"{_UNEQUAL} Unequal to the reference, so data and size are compared: {'; '.join(sizes)}."]
        if sizes
        else []
    )
    claims = "; ".join(
        dict.fromkeys(str(claim) for claim in held.get("claim", []) if isinstance(claim, str))
    )
    said += [f"p is about {claims}, not about arms trained again."] if claims else []
    tested = held.dropna(subset=["aa_p"]) if "aa_p" in held else held.iloc[:0]
    if tested.empty:
        return [
            *said,
            (
                "No arm has two seeds here, so there is no A/A comparison to hold a difference"
                " against."
            ),
        ]
    scale, row = (
        scale_of(rows["benchmark"].iloc[0]),
        tested.loc[tested["aa_difference"].abs().idxmax()],
    )
    chance = f"{scale * row['aa_difference']:+.1f}, p = {row['aa_p']:.2g}"
    return [*said, f"A/A, two seeds of one arm compared in the same way: {chance}."]


def _plot_block(
    axes: Axes, table: Any, looks: Mapping[str, Any], *, width: float, y: float, title: str
) -> float:
    """Set the rows of one model in a `join`ed table from `y` down, with a strip of intervals;
    returns the y below.
    """
    y = draw_text(axes, title, x=1, y=y, width=width, size=7.5, weight="bold") + 18
    usual, before, top = table["reference"].mode().get(0, ""), "", y
    for name, (heading, right) in _CELLS.items():
        words = f"{heading}\nto {title_of(usual)}" if name == "difference" and usual else heading
        axes.text(right, y - 3, words, fontsize=5.5, ha="right", color=PAPER_GREY)
    for row in table.itertuples():
        y += _ROW
        first, held = row.arm != before, isinstance(row.reference, str)
        name = (
            title_of(row.arm) * first
        )  # an arm that is held against several has its own numbers once
        name += f" to {title_of(row.reference)}" if held and row.reference != usual else ""
        name += f" {_UNEQUAL}" if row.unequal else ""
        axes.text(6, y - 3, name, fontsize=6.5)
        if first:
            _plot_interval(
                axes, row, looks[row.arm], y=y - 5, low=table["low"].min(), high=table["high"].max()
            )
        for column, text in _cells(row, first=first, held=held).items():
            signed = re.sub(r"[+-](0\.0\b)", r"\1", text).replace("-", "−")
            axes.text(_CELLS[column][1], y - 3, signed, fontsize=6, ha="right")
        before = row.arm
    for line in (top, y + 2):
        axes.plot([1, width - 1], [line, line], color=INK, linewidth=0.5)
    return y + 6


def _plot_interval(
    axes: Axes, row: Any, look: Mapping[str, Any], *, y: float, low: float, high: float
) -> None:
    """The accuracy and interval of a row of the table on a strip from `low` to `high`."""
    scale = (_STRIP[1] - _STRIP[0]) / max(high - low, 1e-9)
    left, middle, right = (
        _STRIP[0] + scale * (value - low) for value in (row.low, row.accuracy, row.high)
    )
    axes.plot([left, right], [y, y], color=look["color"], linewidth=0.8)
    axes.plot(middle, y, **{name: value for name, value in look.items() if name != "elinewidth"})


def _known(value: Any) -> bool:
    return value is not None and value == value  # no NaN


def _ends(scale: int, low: float, high: float, form: str) -> str:
    """An interval; nothing where it is not known, as of questions about one page alone."""
    return f" [{scale * low:{form}}, {scale * high:{form}}]" if _known(low) and _known(high) else ""


def _cells(row: Any, *, first: bool, held: bool) -> dict[str, str]:
    """What stands in a row of the table, by column; a number that is not known leaves its cell
    empty.
    """
    scale, cells = scale_of(row.benchmark), dict[str, str]()
    if first:
        cells["accuracy"] = f"{scale * row.accuracy:.1f}{_ends(scale, row.low, row.high, '.1f')}"
        spread = row.seed_deviation
        cells["accuracy"] += f" ±{scale * spread:.1f}" if _known(spread) else ""
    if held and _known(row.difference):
        ends = _ends(scale, row.difference_low, row.difference_high, "+.1f")
        cells["difference"] = f"{scale * row.difference:+.1f}{ends}"
        cells["detectable"] = f"{scale * row.detectable:.1f}" if _known(row.detectable) else ""
    for name in (
        "samples",
        "rounds",
        "supervised_tokens",
        "n",
        "b",
        "c",
        "p",
        "p_clustered",
        "p_holm",
    ):
        value, whole = getattr(row, name), name[0] != "p"
        if _known(value) and (first or not whole or name in "bc"):
            cells[name] = (
                _count(value) if whole else f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
            )
    return cells


def paper_tests(model: str, benchmark: str) -> str:
    """The paper's own McNemar tests as a sentence, if they are of this model and benchmark."""
    tests = REFERENCE["viscon"]["mcnemar"]
    if model != tests["model"] or benchmark not in tests["benchmarks"]:
        return ""
    said = ", ".join(f"against {title_of(arm)} p = {p:g}" for arm, p in tests["against"].items())
    return (
        f"McNemar's tests in the paper, of its {title_of(tests['arm'])} on SEED,"
        f" {tests['variant']}: {said}. It gives them without b, c and n."
    )
