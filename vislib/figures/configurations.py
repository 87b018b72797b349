"""The data configurations on one benchmark with their tests (VisCon-100K, table 1), as a table: to
read, in Markdown and in LaTeX.

b counts the questions that the arm alone answers right, c those that its reference alone does; p is
McNemar's, and beside it stands the test that keeps questions of one page or picture together. Arms
that learnt from unequal data are marked: they compare data and size. The accuracies of the paper's
table are known to nobody here; its tests are named beside the model that they are of.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vislib.figures.benchmarks import REFERENCE, scale_of, title_of
from vislib.figures.statistics import query
from vislib.figures.style import write_csv
from vislib.runs import InputError
from vislib.runs.contract import ARM_SIZES

NOTE = (
    "b: questions that the arm alone answers right; c: its reference alone; p: McNemar, exact, each"
    " question for itself; clustered: those of one page or picture together; Holm: clustered p,"
    " over arms; detectable: at 80 % power; ±: over seeds."
)
# An arm without sizes or without a reference stands in the table all the same. Sizes that differ by
# less than 1 % of the larger one are equal: a step more or less.
_JOINED = """
SELECT scores.* EXCLUDE (place), own.samples, own.rounds, own.supervised_tokens, own.steps,
    reference,
    tests.n AS pairs, b, c, difference, tests.low AS difference_low, tests.high AS difference_high,
    p, p_holm, tests.clusters AS compared_clusters, p_clustered, detectable, claim,
    tests.seed_deviation AS difference_seed_deviation, aa_difference, aa_p,
    concat_ws(', ', {unequal}) AS unequal
FROM scores LEFT JOIN tests USING (model, arm, benchmark)
LEFT JOIN sizes AS own USING (model, arm)
LEFT JOIN sizes AS other ON other.model = scores.model AND other.arm = reference
ORDER BY model, place
"""
_UNEQUAL = """
if(abs(own.{size} - other.{size}) > 0.01 * greatest(own.{size}, other.{size}),
    format('{{:,}} {name} to {{:,}}', own.{size}::BIGINT, other.{size}::BIGINT), NULL)
"""
# An interval is not known of questions about one page alone. Arms of unequal size are marked where
# they are read: at the name, not in a column that may be passed over.
_READABLE = """
SELECT model, arm || if(unequal = '', '', ' †') AS arm,
    format('{{:,}}', samples::BIGINT) AS samples, format('{{:,}}', rounds::BIGINT) AS rounds,
    format('{{:,}}', supervised_tokens::BIGINT) AS "supervised tokens",
    format('{{:.1f}}', {scale} * accuracy) || coalesce(format(' [{{:.1f}}, {{:.1f}}]',
        {scale} * low::DOUBLE, {scale} * high::DOUBLE), '') AS accuracy,
    format('±{{:.1f}}', {scale} * seed_deviation::DOUBLE) AS "seed deviation", reference,
    format('{{:+.1f}}', {scale} * difference::DOUBLE) || coalesce(format(' [{{:+.1f}}, {{:+.1f}}]',
        {scale} * difference_low::DOUBLE, {scale} * difference_high::DOUBLE), '') AS difference,
    format('{{:.1f}}', {scale} * detectable::DOUBLE) AS detectable,
    format('{{:,}}', n::BIGINT) AS n, format('{{:,}}', b::BIGINT) AS b,
    format('{{:,}}', c::BIGINT) AS c,
    format(if(p < 0.001, '{{:.1e}}', '{{:.3f}}'), p::DOUBLE) AS p,
    format(if(p_clustered < 0.001, '{{:.1e}}', '{{:.3f}}'), p_clustered::DOUBLE) AS "p clustered",
    format(if(p_holm < 0.001, '{{:.1e}}', '{{:.3f}}'), p_holm::DOUBLE) AS "p holm"
FROM joined
"""


def mean_sizes(arms: Any) -> Any:
    """What each model and arm learnt from, a mean over its seeds."""
    return arms.groupby(["model", "arm"])[[*ARM_SIZES, "steps"]].mean().reset_index()


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
    own = own.assign(place=range(len(own)))
    unequal = [_UNEQUAL.format(size=size, name=size.replace("_", " ")) for size in ARM_SIZES]
    sql = _JOINED.format(unequal=", ".join(unequal))
    return query(sql, scores=own, tests=comparisons, sizes=mean_sizes(arms))


def readable(table: Any) -> Any:
    """A `join`ed table as it is read: texts, "" where a number is not known."""
    names = {name: table[name].map(title_of, "ignore") for name in ("arm", "reference")}
    scale = scale_of(table["benchmark"].iloc[0])
    return query(_READABLE.format(scale=scale), joined=table.assign(**names)).fillna("")


def remarks(table: Any, *, paper: Sequence[str]) -> list[str]:
    """What must be read beside a `join`ed table, per model: unequal sizes, checkpoints, the A/A
    comparison, and the paper's own tests of the models named in `paper`.
    """
    # per model, as each has its own arms and references
    said = [NOTE]
    tests = REFERENCE["viscon"]["mcnemar"]
    for model, rows in table.groupby("model", sort=False):
        found = _remarks(rows.dropna(subset="reference"))
        of_paper = model in paper and model == tests["model"]
        if of_paper and rows["benchmark"].iloc[0] in tests["benchmarks"]:
            found.append(tests["said"])
        said += [f"{model}: {remark}" for remark in found]
    return said


def _remarks(held: Any) -> list[str]:
    said = []
    unequal = held[held["unequal"] != ""]
    if len(unequal):
        sizes = "; ".join(unequal["arm"].map(title_of) + " " + unequal["unequal"])
        said.append(f"† Unequal to the reference, so data and size are compared: {sizes}.")
    if claims := "; ".join(filter(None, held["claim"].dropna().unique())):
        said.append(f"p is about {claims}, not about arms trained again.")
    tested = held.dropna(subset="aa_p")
    if len(tested):
        row = tested.loc[tested["aa_difference"].abs().idxmax()]  # the worst that chance did
        chance = f"{scale_of(row['benchmark']) * row['aa_difference']:+.1f}, p = {row['aa_p']:.2g}"
        said.append(f"A/A, two seeds of one arm compared in the same way: {chance}.")
    elif len(held):
        said.append(
            "No arm has two seeds here, so there is no A/A comparison to hold a difference against."
        )
    return said


def save_table(table: Any, folder: Path, name: str, notes: Sequence[str]) -> list[Path]:
    """Write a `join`ed table as CSV with all its columns, and as it is read as Markdown, its notes
    below, and as LaTeX to be included.
    """
    csv, markdown, latex = (folder / f"{name}{ending}" for ending in (".csv", ".md", ".tex"))
    write_csv(table, csv)
    shown = readable(table)
    below = "".join(f"- {note}\n" for note in notes)
    # numbers stay as they are written: tabulate would drop the last nought of "70.0"
    rows = shown.to_markdown(index=False, disable_numparse=True)
    markdown.write_text(f"{rows}\n\n{below}", encoding="utf-8")
    # signs that pdflatex does not know are written as its commands
    tex = shown.to_latex(index=False, escape=True).replace("†", r"\dag{}").replace("±", r"$\pm$")
    latex.write_text(tex, encoding="utf-8")
    return [csv, markdown, latex]
