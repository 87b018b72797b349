"""The data configurations on one benchmark with their tests (VisCon-100K, table 1), as a table: to
read, in Markdown and in LaTeX.

b counts the questions that the arm alone answers right, c those that its reference alone does; p is
McNemar's, and beside it stands the test that keeps questions of one page or picture together. Arms
that learnt from unequal data are marked: they compare data and size. The accuracies of the paper's
table are known to nobody here; its tests are named beside the model that they are of.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vislib.figures.benchmarks import REFERENCE, scale_of, title_of
from vislib.figures.style import write_csv
from vislib.runs import InputError
from vislib.runs.contract import ARM_SIZES

NOTE = (
    "b: questions that the arm alone answers right; c: its reference alone; p: McNemar, exact, each"
    " question for itself; clustered: those of one page or picture together; Holm: clustered p,"
    " over arms; detectable: at 80 % power; ±: over seeds."
)
_EQUAL = 0.01  # sizes that differ by less of the larger one: a step more or less


def mean_sizes(arms: Any) -> Any:
    """What each model and arm learnt from, a mean over its seeds; NaN where nobody knows."""
    # older tables of arms lack some sizes: they are not known, not 0
    known = arms.reindex(columns=["model", "arm", *ARM_SIZES, "steps"])
    return known.groupby(["model", "arm"]).mean().reset_index()


def join(scores: Any, comparisons: Any, arms: Any, benchmark: str) -> Any:
    """Table 1: a row per model, arm and reference, with the columns of all three tables for one
    benchmark.

    `difference_low` and `difference_high` are the ends of the difference's interval, `pairs` the
    questions that both answered. `unequal` says in which sizes arm and reference differ, "" where
    in none or where they are not known. Raises InputError when no arm has scores on `benchmark`.
    """
    # one benchmark a table: p values of several would be too many tests
    own = scores[scores["benchmark"] == benchmark]
    if own.empty:
        known = ", ".join(dict.fromkeys(scores["benchmark"]))
        raise InputError(
            f"benchmark is {benchmark!r}, which no arm was evaluated on; 12 has scores on {known}"
        )
    sizes = mean_sizes(arms)
    tested = comparisons[comparisons["benchmark"] == benchmark].drop(columns="benchmark")
    # both tables have ends and counts: those of the difference get its name
    names = {name: f"difference_{name}" for name in ("low", "high", "seed_deviation")}
    names |= {"n": "pairs", "clusters": "compared_clusters"}
    # left joins: an arm without sizes or without a reference stands in the table all the same
    table = own.merge(sizes, how="left", on=["model", "arm"])
    table = table.merge(tested.rename(columns=names), how="left", on=["model", "arm"])
    # the same sizes once more, of the arm that each is held against
    theirs = sizes.rename(columns={"arm": "reference"})
    both = table.merge(
        theirs,
        how="left",
        on=["model", "reference"],
        suffixes=("", "_against"),
    )
    return table.assign(unequal=[_unequal(row) for row in both.to_dict("records")])


def _unequal(row: dict[Any, Any]) -> str:
    said = []
    for name in ARM_SIZES:
        own, other = row[name], row[f"{name}_against"]
        if abs(own - other) > _EQUAL * max(own, other):  # False of NaN, which nobody knows
            said.append(f"{_count(own)} {name.replace('_', ' ')} to {_count(other)}")
    return ", ".join(said)


def _count(value: float) -> str:
    """A count, of large ones three digits."""
    if value < 100_000:
        return f"{value:,.0f}"
    return f"{value / 1e3:.0f} K" if value < 1e6 else f"{value / 1e6:.3g} M"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def readable(table: Any) -> Any:
    """A `join`ed table as it is read: texts, "" where a number is not known."""
    # a form a column, in the order in which they are read
    scale = scale_of(table["benchmark"].iloc[0])
    forms: dict[str, Callable[[Any], str]] = {
        "model": str,
        "arm": title_of,
        **dict.fromkeys(ARM_SIZES, _count),
        "accuracy": lambda value: f"{scale * value:.1f}",
        "seed_deviation": lambda value: f"±{scale * value:.1f}",
        "reference": title_of,
        "difference": lambda value: f"{scale * value:+.1f}",
        "detectable": lambda value: f"{scale * value:.1f}",
        **dict.fromkeys(("n", "b", "c"), _count),
        **dict.fromkeys(("p", "p_clustered", "p_holm"), _p),
    }

    # A column in which nothing is known is one of numbers, unless it is told that it holds texts.
    def texts(name: str, form: Callable[[Any], str]) -> Any:
        return table[name].map(form, "ignore").astype("str")

    shown = pd.DataFrame({name: texts(name, form) for name, form in forms.items()})
    # an interval is not known of questions about one page alone
    for name, prefix in (("accuracy", ""), ("difference", "difference_")):
        low, high = (texts(f"{prefix}{end}", forms[name]) for end in ("low", "high"))
        shown[name] += (" [" + low + ", " + high + "]").fillna("")
    # marked where it is read: at the name, not in a column that may be passed over
    shown["arm"] += table["unequal"].map(lambda sizes: " †" if sizes else "")
    return shown.fillna("").rename(columns=lambda name: name.replace("_", " "))


def remarks(table: Any, *, paper: Sequence[str]) -> list[str]:
    """What must be read beside a `join`ed table, per model: unequal sizes, checkpoints, the A/A
    comparison, and the paper's own tests of the models named in `paper`.
    """
    # per model, as each has its own arms and references
    said = [NOTE]
    for model, rows in table.groupby("model", sort=False):
        said += [f"{model}: {remark}" for remark in _remarks(rows.dropna(subset=["reference"]))]
        if tests := paper_tests(model, rows["benchmark"].iloc[0]) if model in paper else "":
            said.append(f"{model}: {tests}")
    return said


def _remarks(held: Any) -> list[str]:
    if held.empty:
        return []
    said, unequal = [], held[held["unequal"] != ""]
    if len(unequal):
        sizes = "; ".join(unequal["arm"].map(title_of) + " " + unequal["unequal"])
        said.append(f"† Unequal to the reference, so data and size are compared: {sizes}.")
    if claims := "; ".join(filter(None, held["claim"].dropna().unique())):
        said.append(f"p is about {claims}, not about arms trained again.")
    tested = held.dropna(subset=["aa_p"])
    if tested.empty:
        nothing = "there is no A/A comparison to hold a difference against"
        return [*said, f"No arm has two seeds here, so {nothing}."]
    row = tested.loc[tested["aa_difference"].abs().idxmax()]  # the worst that chance did
    chance = f"{scale_of(row['benchmark']) * row['aa_difference']:+.1f}, p = {row['aa_p']:.2g}"
    return [
        *said,
        f"A/A, two seeds of one arm compared in the same way: {chance}.",
    ]


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


def save_table(table: Any, folder: Path, name: str, notes: Sequence[str]) -> list[Path]:
    """Write a `join`ed table as CSV with all its columns, and as it is read as Markdown, its notes
    below, and as LaTeX to be included.
    """
    csv, markdown, latex = (folder / f"{name}{ending}" for ending in (".csv", ".md", ".tex"))
    write_csv(table, csv)
    shown, below = readable(table), "\n".join(f"- {note}" for note in notes)
    # numbers stay as they are written: tabulate would drop the last nought of "70.0"
    rows = shown.to_markdown(index=False, disable_numparse=True)
    markdown.write_text(f"{rows}\n\n{below}\n", encoding="utf-8")
    # signs that pdflatex does not know are written as its commands
    escaped = shown.to_latex(index=False, escape=True)
    latex.write_text(
        escaped.replace("†", r"\dag{}").replace("±", r"$\pm$"),
        encoding="utf-8",
    )
    return [csv, markdown, latex]
