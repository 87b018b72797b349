"""Arms on benchmarks (VisCon-100K, figures 3 and 4; DenseFusion-1M's table of results): a mark with
its interval per arm.

What a paper reports stands in `reference.toml` and is drawn red, apart from ours; where it reports
nothing, nothing is drawn. An arm keeps its mark in all panels of a figure, filled or hollow, so
that print without colour tells the same.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from vislib.figures.charts import PAPER, marks, plot_dots
from vislib.figures.style import CONTRAST, LETTERS, Look
from vislib.runs import InputError
from vislib.runs.contract import ARMS
from vislib.runs.stage import read_record

REFERENCE: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("reference.toml").read_text(encoding="utf-8")
)
TINY = "tiny models: the path, not a result"
JUDGED = ("llava_in_the_wild", "mmvet")  # by a judge
_POINTS = {
    "mme": 2000,
    "mme_cognition": 800,
}  # all there are; other benchmarks are shares
PAPER_MEAN = "mean_of_paper"
MEANS = ("mean", "mean_seedbench_image", "mean_without_seedbench")
_ORDER = list(REFERENCE["titles"])


def title_of(name: str) -> str:
    """How a benchmark of 12 or an arm is called on figures."""
    return str(REFERENCE["titles"].get(name, name.replace("_", " ")))


def scale_of(benchmark: str) -> int:
    """What an accuracy is multiplied by to be shown: per cent, or points as they are."""
    return 1 if benchmark in _POINTS else 100


def load_scores(table: Path, show: Sequence[str]) -> Any:
    """The `scores` of 12 by model, for the arms `show` in that order; for all as in the table if it
    is empty.

    Raises InputError when one of them has no scores.
    """
    # a mean without all of its benchmarks has none
    scores = pd.read_parquet(table).dropna(subset=["accuracy"])
    arms, models = (list(scores[name].unique()) for name in ("arm", "model"))
    if not arms or set(show) - set(arms):
        # a name that is not there would be an arm that silently lacks
        known = ", ".join(arms) or "none, run 12 on some"
        raise InputError(f"{table}: show is {list(show)}; arms with scores: {known}")
    # models keep their order, and within each the arms stand as they were asked for
    order = list(show) or arms
    scores = scores[scores["arm"].isin(order)]
    places = scores["model"].map(models.index) * len(order) + scores["arm"].map(order.index)
    return scores.iloc[places.argsort(kind="stable")].reset_index(drop=True)


def load_arms(tables: Sequence[Path]) -> Any:
    """Rows of the `arms` tables of 10: one per model, arm and seed."""
    # no table at all still has the columns that are asked for below
    empty = ARMS.empty_table().to_pandas()
    return pd.concat([empty, *map(pd.read_parquet, tables)], ignore_index=True)


def remarks(table: Path, scores: Any, *, paper: Sequence[str] = ()) -> str:
    """What small print says of the `scores` read from `table`: intervals, seeds, who judged, what
    is the paper's.
    """
    # what judged and how wide intervals are is known to the record of 12 alone
    parameters = read_record(table.parent.parent).get("hashes", {}).get("parameters", {})
    interval = 100 * parameters.get("confidence", 0.95)
    said = [f"Lines: {interval:g} % intervals over pages or images."]
    if (seeds := int(scores["seeds"].max())) > 1:
        said.append(f"Marks: means of up to {seeds} seeds.")
    if judged := [title_of(name) for name in JUDGED if name in set(scores["benchmark"])]:
        judge = parameters.get("judge") or "its name is not known"
        said.append(f"Judge of {' and '.join(judged)}: {judge}.")
    if set(paper) & set(scores["model"]):
        source = REFERENCE["viscon"]
        said.append(
            f"Red: {source['source']}, over its six benchmarks, judge {source['judge']},"
            f" {source['variant']}."
        )
    return " ".join(said)


def caveat(scores: Any, arms: Any) -> str:
    """What every figure of tiny models says beside its title; empty for other models."""
    # a tiny model may be renamed, but the arms tell what they started from
    names = [*scores["model"], *arms["base"]]
    return f" · {TINY}" if any(str(name).startswith("tiny-") for name in names) else ""


def paper_table(models: Sequence[str]) -> Any:
    """The averages that VisCon-100K reports of `models`, in columns of `scores`."""
    rows = [
        (f"{model} (paper)", arm, "mean", mean / 100)
        for model in models
        for arm, mean in REFERENCE["viscon"]["means"][model].items()
    ]
    return pd.DataFrame(rows, columns=["model", "arm", "benchmark", "accuracy"])


def densefusion_table() -> Any:
    """What DenseFusion-1M reports, in columns of `scores`, and the `part` of the paper: its two
    tables, without and with.
    """
    paper = REFERENCE["densefusion"]
    rows = [
        ("paper", part, arm, name, value / scale_of(name))
        for part, labels in paper["labels"].items()
        for name, pair in paper[part].items()
        for arm, value in zip(labels, pair, strict=True)
    ]
    return pd.DataFrame(
        rows,
        columns=["model", "part", "arm", "benchmark", "accuracy"],
    )


def _scaled(scores: Any) -> Any:
    """Scores in the order of `REFERENCE`'s titles, with the columns of `charts.plot_dots`."""
    # what the titles do not name stands first, so that it is seen
    places = scores["benchmark"].map(lambda name: _ORDER.index(name) if name in _ORDER else -1)
    scores = scores.iloc[places.argsort(kind="stable")]
    # points as a share of all points, so that one axis holds all benchmarks
    scale = 100 / scores["benchmark"].map(lambda name: _POINTS.get(name, 1))
    ends = {end: scale * scores[end] for end in ("low", "high")}
    return scores.assign(value=scale * scores["accuracy"], **ends)


def panels_of(scores: Any) -> dict[str, str]:
    """The models by the letter of their panel; more than there are letters is an InputError."""
    models = list(scores["model"].unique())
    if len(models) > len(LETTERS):
        raise InputError(
            f"scores has {len(models)} models, a figure {len(LETTERS)} panels: give 12 fewer models"
            " at a time"
        )
    return dict(zip(LETTERS, models, strict=False))


def plot_models(panels: Sequence[Axes], scores: Any, *, paper: Sequence[str]) -> None:
    """A panel per model (figures 3 and 4); beside the models named in `paper` stand VisCon-100K's
    averages, their numbers in the legend.
    """
    scores = scores[~scores["benchmark"].isin(_POINTS)]
    sizes = scores["n"].map(" (n = {:,})".format).mask(scores["benchmark"].isin(MEANS), "")
    names, labels = (
        scores["arm"].map(title_of),
        scores["benchmark"].map(title_of) + sizes,
    )
    looks, by_model = (
        marks(names),
        scores.assign(name=names, label=labels).groupby("model", sort=False),
    )
    for axes, (model, rows) in zip(panels, by_model, strict=True):
        # the legend of a panel names only what it shows
        shown = {name: looks[name] for name in rows["name"]}
        means = REFERENCE["viscon"]["means"][model] if model in paper else {}
        for arm, mean in means.items():
            name = f"{title_of(arm)} (paper): {mean:.2f}"
            # the shape of our arm of that name; a bar where we have none
            shown[name] = looks.get(title_of(arm), {"marker": "|"}) | PAPER
            # on a line of its own: which part of SEED is in it is not known
            reported = {
                "benchmark": PAPER_MEAN,
                "label": title_of(PAPER_MEAN),
                "name": name,
                "accuracy": mean / 100,
            }
            rows = pd.concat([rows, pd.DataFrame([reported])])
        plot_dots(axes, _scaled(rows), shown, x="Accuracy, %")


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
    looks, paper = (
        marks(ours["name"]),
        densefusion_table().rename(columns={"arm": "name"}),
    )
    ablation = set(paper.loc[paper["part"] == "fusion", "benchmark"])
    # which part of SEED the ablation is of is not known: ours stand near it, each on its own row
    near = ours["benchmark"].isin({*ablation, "seedbench", "seedbench_image"})
    shown = {
        "gains": ours,
        "fusion": ours[near & ours["arm"].isin(fusion)],
    }
    for axes, (part, own) in zip(panels, shown.items(), strict=True):
        theirs = paper[paper["part"] == part]
        # the labels of a part are in the order without, with
        without, with_data = theirs["name"].unique()
        red: Look = {"marker": "o", **PAPER}
        used = {
            without: red,
            with_data: red | {"markerfacecolor": CONTRAST},
        }
        used |= {name: looks[name] for name in own["name"]}
        rows = _scaled(pd.concat([theirs, own]))
        written = theirs.groupby("benchmark")["accuracy"].agg(_pair)
        labels = rows["benchmark"].map(title_of) + rows["benchmark"].map(written).fillna("")
        plot_dots(
            axes,
            rows.assign(label=labels),
            used,
            x="Accuracy, %; MME: % of its points",
        )


def _pair(accuracies: Any) -> str:
    """Two numbers of a paper, per cent or points, behind the name of their benchmark."""
    # shares become per cent; points stay what the paper prints
    scale = 100 if accuracies.max() <= 1 else 1
    return "  " + " → ".join(f"{scale * value:,.4g}" for value in accuracies)
