"""Arms on benchmarks (VisCon-100K, figures 3 and 4; DenseFusion-1M's table of results): a mark with
its interval per arm.

What a paper reports stands in `reference.csv` and is drawn red, apart from ours; where it reports
nothing, nothing is drawn. An arm keeps its mark in all panels of a figure, filled or hollow, so
that print without colour tells the same.
"""

import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from vislib.figures.charts import marks, plot_dots
from vislib.figures.statistics import parameters_of
from vislib.figures.style import Look
from vislib.runs import InputError
from vislib.runs.contract import ARMS

_TEXTS = Path(__file__).with_name("reference.toml")
REFERENCE: dict[str, Any] = tomllib.loads(_TEXTS.read_text(encoding="utf-8"))
_NUMBERS = pd.read_csv(_TEXTS.with_suffix(".csv"), dtype=str)
_PLACES = {name: place for place, name in enumerate(REFERENCE["titles"])}
TINY = "tiny models: the path, not a result"
SHAPES = "drawn shapes, tiny models: no statement about VLMs"
JUDGED = ("llava_in_the_wild", "mmvet")  # by a judge
_POINTS = {
    "mme": 2000,
    "mme_cognition": 800,
    "mme_without_hits": 2000,
}  # all there are; other benchmarks are shares
PAPER_MEAN = "mean_of_paper"
MEANS = ("mean", "mean_seedbench_image", "mean_without_seedbench")


def title_of(name: str) -> str:
    """How a benchmark of 12 or an arm is called on figures."""
    return str(REFERENCE["titles"].get(name, name.replace("_", " ")))


def scale_of(benchmark: str) -> int:
    """What an accuracy is multiplied by to be shown: per cent, or points as they are."""
    return 1 if benchmark in _POINTS else 100


def load_scores(table: Path, show: Sequence[str]) -> Any:
    """The `scores` of 12 for the arms `show` in that order; for all as in the table if it is empty.

    Raises InputError when one of them has no scores.
    """
    # a mean without all of its benchmarks has none
    scores = pd.read_parquet(table).dropna(subset=["accuracy"])
    arms = list(scores["arm"].unique())
    if not arms or set(show) - set(arms):
        # a name that is not there would be an arm that silently lacks
        known = ", ".join(arms) or "none, run 12 on some"
        raise InputError(f"{table}: show is {list(show)}; arms with scores: {known}")
    return pd.concat([scores[scores["arm"] == arm] for arm in show or arms], ignore_index=True)


def load_arms(tables: Sequence[Path]) -> Any:
    """Rows of the `arms` tables of 10: one per model, arm and seed."""
    # no table at all still has the columns that are asked for below
    empty = ARMS.empty_table().to_pandas()
    return pd.concat([empty, *map(pd.read_parquet, tables)], ignore_index=True)


def remarks(table: Path, scores: Any, *, paper: Sequence[str] = ()) -> str:
    """What small print says of the `scores` read from `table`: intervals, seeds, who judged, what
    is the paper's.
    """
    parameters = parameters_of(table)
    interval = 100 * parameters.get("confidence", 0.95)
    said = [f"Lines: {interval:g} % intervals over pages or images."]
    if (seeds := int(scores["seeds"].max())) > 1:
        said.append(f"Marks: means of up to {seeds} seeds.")
    if judged := [title_of(name) for name in JUDGED if name in set(scores["benchmark"])]:
        judge = parameters.get("judge") or "its name is not known"
        said.append(f"Judge of {' and '.join(judged)}: {judge}.")
    if set(paper) & set(scores["model"]):
        said.append(REFERENCE["viscon"]["note"])
    return " ".join(said)


def caveat(scores: Any, arms: Any) -> str:
    """What every figure of tiny models says beside its title; empty for other models."""
    # a tiny model may be renamed, but the arms tell what they started from
    names = [*scores["model"], *arms["base"]]
    said = SHAPES if "easy_vqa" in set(scores["benchmark"]) else TINY
    return f" · {said}" if any(str(name).startswith("tiny-") for name in names) else ""


def paper_table(*parts: str, models: Collection[str] = ("paper",)) -> Any:
    """What a paper reports, in columns of `scores`, and as it is `printed`, by `part` of the paper:
    VisCon-100K's `means` of `models`; DenseFusion-1M's `gains` and its ablation `fusion`.
    """
    rows = _NUMBERS[_NUMBERS["part"].isin(parts) & _NUMBERS["model"].isin(models)]
    return rows.assign(
        accuracy=rows["printed"].astype(float) / rows["benchmark"].map(scale_of).astype(int)
    )


def _plot(axes: Axes, theirs: Any, ours: Any, remark: Any, looks: dict[str, Look]) -> None:
    """Scores of a paper and of ours by `name`, in the order of `REFERENCE`'s titles; behind the
    title of a benchmark stands its remark (a series by benchmark).
    """
    # what the titles do not name stands first, so that it is seen
    scores = pd.concat([theirs, ours]).sort_values(
        "benchmark", key=lambda names: names.map(_PLACES).fillna(-1), kind="stable"
    )
    labels = scores["benchmark"].map(lambda name: title_of(name) + remark.get(name, ""))
    # points as a share of all points, so that one axis holds all benchmarks
    scale = 100 / scores["benchmark"].map(_POINTS).fillna(1)
    rows = scores.assign(
        label=labels,
        value=scale * scores["accuracy"],
        low=scale * scores["low"],
        high=scale * scores["high"],
    )
    used = marks(theirs["name"], paper=True) | looks
    points = "; MME: % of its points" if scores["benchmark"].isin(_POINTS).any() else ""
    plot_dots(axes, rows, used, x=f"Accuracy, %{points}")


def plot_models(panels: Sequence[Axes], scores: Any, *, paper: Sequence[str]) -> None:
    """A panel per model (figures 3 and 4); beside the models named in `paper` stand VisCon-100K's
    averages, their numbers in the legend.
    """
    ours = scores.assign(name=scores["arm"].map(title_of))
    looks = marks(ours["name"])
    by_model = ours.groupby("model", sort=False)
    for axes, (model, rows) in zip(panels, by_model, strict=True):
        theirs = paper_table("means", models={model} & set(paper))
        names = theirs["arm"].map(title_of) + " (paper): " + theirs["printed"]
        # on a line of its own: which part of SEED is in it is not known
        theirs = theirs.assign(name=names, benchmark=PAPER_MEAN)
        counted = rows[~rows["benchmark"].isin(MEANS)].groupby("benchmark")["n"].max()
        _plot(axes, theirs, rows, counted.map(" (n = {:,})".format), looks)


def plot_densefusion(panels: Sequence[Axes], scores: Any, *, fusion: Sequence[str]) -> None:
    """Benchmarks and the ablation of priors: the paper's numbers, red, hollow without and filled
    with its data, and our arms beside them.

    `fusion`: arms whose captions were written without and with priors, which stand in the second
    panel too. What only one side has is shown for that side alone.
    """
    names = scores["arm"].map(title_of)
    # one model alone needs no name before each of its arms
    if scores["model"].nunique() > 1:
        names = scores["model"] + ": " + names
    ours = scores.assign(name=names)[~scores["benchmark"].isin(MEANS)]
    looks = marks(ours["name"])
    for axes, part in zip(panels, ("gains", "fusion"), strict=True):
        theirs = paper_table(part).rename(columns={"arm": "name"})
        if part == "fusion":
            # which part of SEED the ablation is of is not known: ours stand near it
            near = {*theirs["benchmark"], "seedbench", "seedbench_image"}
            ours = ours[ours["benchmark"].isin(near) & ours["arm"].isin(fusion)]
        pairs = theirs.groupby("benchmark")["printed"].agg(" → ".join)
        _plot(axes, theirs, ours, pairs.radd("  "), looks)
