"""Arms on benchmarks (VisCon-100K, figures 3 and 4, table 1; DenseFusion-1M's table of results):
dots with intervals.

What a paper reports stands in `reference.toml` and is drawn red, apart from ours; where it reports
nothing, nothing is drawn. An arm keeps its mark in all panels of a figure, filled or hollow, so
that print without colour tells the same.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from vislib.figures.plots import CONTRAST, EDGE, INK
from vislib.runs import InputError
from vislib.runs.contract import ARMS
from vislib.runs.stage import read_record
from vislib.training.tiny import NAMES

REFERENCE: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("reference.toml").read_text(encoding="utf-8")
)
TINY = "tiny models: the path, not a result"
JUDGED = ("llava_in_the_wild", "mmvet")  # by a judge
MME = ("mme", "mme_cognition")  # in points, not per cent
LETTERS = "abcdefgh"  # of panels
SEED_PARTS = ("seedbench_image", "seedbench_video")  # drawn beside the whole
MEANS = ("mean", "mean_seedbench_image", "mean_without_seedbench")
_WIDE = 9  # benchmarks and means whose names have room in the usual size
_SHAPES = "osD^vPX<>hdp"  # of marks, every other one hollow
_RED: dict[str, Any] = {
    "color": CONTRAST,
    "markeredgecolor": CONTRAST,
    "markeredgewidth": 0.9,
    "linewidth": 0.9,
}


def title_of(name: str) -> str:
    """How a benchmark of 12 or an arm is called on figures."""
    return tick_of(name).replace("-\n", "-").replace("\n", " ")


def tick_of(name: str) -> str:
    """The same in two lines where it is long."""
    return str(REFERENCE["titles"].get(name, name.replace("_", " ")))


def scale_of(benchmark: str) -> int:
    """What an accuracy is multiplied by to be shown: per cent, or points as they are."""
    return 1 if benchmark in MME else 100


def load_scores(table: Path, show: Sequence[str]) -> Any:
    """The `scores` of 12 by model, for the arms `show` in that order; for all as in the table if it
    is empty.

    Raises InputError when one of them has no scores.
    """
    import pandas

    scores = pandas.read_parquet(table).dropna(
        subset=["accuracy"]
    )  # a mean without all of its benchmarks has none
    arms, models = (list(dict.fromkeys(scores[name])) for name in ("arm", "model"))
    if not arms or set(show) - set(arms):
        raise InputError(
            f"{table}: show is {list(show)}; arms with scores:"
            f" {', '.join(arms) or 'none, run 12 on some'}"
        )
    order = {name: n for n, name in enumerate(show or arms)}
    scores = scores[scores["arm"].isin(order)]
    places = scores["model"].map(models.index) * len(order) + scores["arm"].map(order)
    return scores.loc[places.sort_values(kind="stable").index].reset_index(drop=True)


def load_arms(tables: Sequence[Path]) -> Any:
    """Rows of the `arms` tables of 10: one per model, arm and seed."""
    import pandas

    return pandas.concat(
        [ARMS.empty_table().to_pandas(), *map(pandas.read_parquet, tables)], ignore_index=True
    )


def remarks(table: Path, scores: Any, *, paper: Sequence[str] = ()) -> str:
    """What small print says of the `scores` read from `table`: intervals, seeds, who judged, what
    is the paper's.
    """
    parameters = read_record(table.parent.parent).get("hashes", {}).get("parameters", {})
    said = [
        f"Lines: {100 * parameters.get('confidence', 0.95):g} % intervals over pages or images."
    ]
    if (seeds := int(scores["seeds"].max())) > 1:
        said.append(f"Marks: means of up to {seeds} seeds.")
    if judged := [title_of(name) for name in JUDGED if name in set(scores["benchmark"])]:
        said.append(
            f"Judge of {' and '.join(judged)}:"
            f" {parameters.get('judge') or 'its name is not known'}."
        )
    if set(paper) & set(scores["model"]):
        source = REFERENCE["viscon"]
        said.append(
            f"Red: {source['source']}, over its six benchmarks, judge {source['judge']},"
            f" {source['variant']}."
        )
    return " ".join(said)


def caveat(scores: Any, arms: Any) -> str:
    """What every figure of tiny models says beside its title; empty for other models."""
    return f" · {TINY}" if set(NAMES) & {*scores["model"], *arms["base"]} else ""


def paper_table(models: Sequence[str]) -> Any:
    """The averages that VisCon-100K reports of `models`, in columns of `scores`."""
    import pandas

    means = REFERENCE["viscon"]["means"]
    rows = [
        (f"{model} (paper)", arm, "mean", mean / 100)
        for model in models
        for arm, mean in means[model].items()
    ]
    return pandas.DataFrame(rows, columns=["model", "arm", "benchmark", "accuracy"])


def densefusion_table() -> Any:
    """What DenseFusion-1M reports, in columns of `scores`: its two tables, without and with."""
    import pandas

    paper = REFERENCE["densefusion"]
    rows = [
        ("paper", arm, name, value / scale_of(name))
        for part, labels in paper["labels"].items()
        for name, pair in paper[part].items()
        for arm, value in zip(labels, pair, strict=True)
    ]
    return pandas.DataFrame(rows, columns=["model", "arm", "benchmark", "accuracy"])


def marks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each of some arms is drawn in all panels of a figure; more than there are shapes is an
    InputError.
    """
    names = list(dict.fromkeys(names))
    if len(names) > len(_SHAPES):
        raise InputError(
            f"{len(names)} arms, but a figure tells {len(_SHAPES)} apart: name fewer in show"
        )
    same = {"markersize": 4, "markeredgewidth": 0.8, "elinewidth": 0.8}
    return {
        name: (
            same
            | {
                "marker": shape,
                "markerfacecolor": (EDGE, "white")[n % 2],
                "color": (EDGE, INK)[n % 2],
            }
        )
        for n, (name, shape) in enumerate(zip(names, _SHAPES, strict=False))
    }


def _dot(
    axes: Axes, place: float, row: Any, look: Mapping[str, Any], *, upright: bool, label: str
) -> None:
    """The accuracy of one row with its interval, at `place` of the other axis; per cent, or points
    as they are.
    """
    scale = scale_of(row.benchmark)
    reach = [
        [max(0.0, scale * by)] for by in (row.accuracy - row.low, row.high - row.accuracy)
    ]  # rounding: -1e-17
    where = (place, scale * row.accuracy) if upright else (scale * row.accuracy, place)
    new = label not in axes.get_legend_handles_labels()[1]
    more: dict[str, Any] = {
        **look,
        "yerr" if upright else "xerr": reach,
        "label": label if new else None,
    }
    axes.errorbar(*where, linestyle="", **more)


def legend(axes: Axes, title: str, *, columns: int) -> None:
    """The legend above the axes, off the data, and the title over it."""
    lines = -(-len(axes.get_legend_handles_labels()[1]) // columns)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": columns}
    if lines:
        axes.legend(columnspacing=1.2, handletextpad=0.3, handlelength=1.6, **place).set_in_layout(
            False
        )
    axes.set_title(title, pad=7 + 9.4 * lines)


def plot_models(panels: Sequence[Axes], scores: Any, *, paper: Sequence[str], caveat: str) -> None:
    """A panel per model (figures 3 and 4); beside the models named in `paper` stand VisCon-100K's
    averages.
    """
    if (models := scores["model"].nunique()) > len(LETTERS):
        raise InputError(
            f"scores has {models} models, a figure {len(LETTERS)} panels: give 12 fewer models at a"
            " time"
        )
    looks, by_model = marks(scores["arm"]), scores.groupby("model", sort=False)
    for axes, letter, (model, rows) in zip(panels, LETTERS, by_model, strict=False):
        means = REFERENCE["viscon"]["means"][model] if model in paper else {}
        plot_benchmarks(axes, rows, looks, title=f"({letter}) {model}{caveat}", paper=means)


def plot_benchmarks(
    axes: Axes, scores: Any, looks: Mapping[str, Any], *, title: str, paper: Mapping[str, float]
) -> None:
    """The arms of one model by benchmark in per cent, means apart.

    `paper`: averages of a paper's arms of these names, or none; they stand in a column of their
    own.
    """
    scores = scores[~scores["benchmark"].isin(MME)]
    arms, found = (list(dict.fromkeys(scores[name])) for name in ("arm", "benchmark"))
    tasks, means = ([b for b in found if (b in MEANS) is mean] for mean in (False, True))
    tasks.sort(
        key=lambda name: found.index("seedbench") if name in SEED_PARTS else found.index(name)
    )
    places = {b: n + 0.3 * (b in MEANS) for n, b in enumerate([*tasks, *means])}
    sizes = scores.groupby("benchmark")["n"].max()
    labels = [tick_of(b) + f"\nn = {sizes[b]:,}" * (b not in MEANS) for b in places]
    step = min(0.12, 0.8 / len(arms))
    for row in scores.itertuples():
        place = places[row.benchmark] + step * (arms.index(row.arm) - (len(arms) - 1) / 2)
        _dot(axes, place, row, looks[row.arm], upright=True, label=title_of(row.arm))
    borders, end = [len(tasks) - 0.35], len(places) + 0.5
    if paper:
        _plot_paper_means(axes, paper, looks, end)
        labels.append("mean in\nthe paper,\nSEED unknown")
        places["paper"], borders = end, [*borders, end - 0.65]
    for border in borders if means or paper else []:
        axes.axvline(border, color="0.8", linewidth=0.6)
    axes.set(xlim=(-0.6, max(places.values()) + 0.5 + 0.55 * bool(paper)), ylabel="Accuracy, %")
    small: dict[str, Any] = {"fontsize": 5.5} if len(places) > _WIDE else {}
    axes.set_xticks(list(places.values()), labels, **small)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    legend(axes, title, columns=8)


def _plot_paper_means(
    axes: Axes, means: Mapping[str, float], looks: Mapping[str, Any], place: float
) -> None:
    """Red marks of the paper's averages, in the shapes of our arms of those names, and the numbers
    beside them.
    """
    ranked = sorted(means.items(), key=lambda item: -item[1])
    for n, (arm, mean) in enumerate(ranked):
        shape = looks.get(arm, {"marker": "_"})["marker"]
        axes.plot(
            place - 0.4 + 0.12 * n,
            mean,
            marker=shape,
            markersize=4,
            markerfacecolor="white",
            **_RED,
        )
    text = "\n".join(f"{title_of(arm)} {mean:.2f}" for arm, mean in ranked)
    axes.text(
        place - 0.05,
        sum(means.values()) / len(means),
        text,
        color=CONTRAST,
        fontsize=5.5,
        va="center",
    )


def plot_densefusion(
    panels: Sequence[Axes], scores: Any, *, fusion: Sequence[str], caveat: str
) -> None:
    """Benchmarks in per cent, MME in points, and the ablation of priors: the paper's numbers, and
    our arms below them.

    `fusion`: arms whose captions were written without and with priors, which stand in the third
    panel too.
    """
    paper, scores = REFERENCE["densefusion"], scores[~scores["benchmark"].isin(MEANS)]
    several = scores["model"].nunique() > 1
    names = scores["arm"].map(title_of)
    scores = scores.assign(name=scores["model"] + ": " + names if several else names)
    looks, points = marks(scores["name"]), scores["benchmark"].isin(MME)
    asked = {
        *paper["fusion"],
        "seedbench",
        "seedbench_image",
    }  # which one the paper means is not known
    ablated = scores[scores["arm"].isin(fusion) & scores["benchmark"].isin(asked)]
    gains = {name: pair for name, pair in paper["gains"].items() if name not in MME}
    plot_gains(
        panels[0], gains, scores[~points], looks, x="Accuracy, %", labels=paper["labels"]["gains"]
    )
    plot_gains(
        panels[1],
        {"mme": paper["gains"]["mme"]},
        scores[points],
        looks,
        x="Points",
        labels=("", ""),
    )
    plot_gains(
        panels[2],
        paper["fusion"],
        ablated,
        looks,
        x="Accuracy, %",
        labels=paper["labels"]["fusion"],
    )
    legend(panels[0], f"(a) Benchmarks{caveat}", columns=2)
    panels[1].set_title("(b) MME")
    legend(panels[2], "(c) Priors in 100 K captions", columns=1)


def plot_gains(
    axes: Axes,
    pairs: Mapping[str, Sequence[float]],
    scores: Any,
    looks: Mapping[str, Any],
    *,
    x: str,
    labels: Sequence[str],
) -> None:
    """Benchmarks downwards: in red what a paper reports without and with its data (`labels`), below
    it our arms.

    `scores` has a column `name`, a key of `looks`. What only one side has is shown for that side
    alone.
    """
    y, ticks = 0.0, dict[str, float]()
    for benchmark in [*(b for b in dict.fromkeys(scores["benchmark"]) if b not in pairs), *pairs]:
        top = y
        if pair := pairs.get(benchmark):
            _plot_pair(
                axes, pair, y=y, labels=labels if benchmark == next(iter(pairs)) else ("", "")
            )
            y += 0.5
        for row in scores[scores["benchmark"] == benchmark].itertuples():
            _dot(axes, y, row, looks[row.name], upright=False, label=row.name)
            y += 0.5
        ticks[title_of(benchmark)] = (top + y - 0.5) / 2
        axes.axhline(y, color="0.88", linewidth=0.5)
        y += 0.5
    low, high = axes.get_xlim()
    axes.set(
        ylim=(y - 0.5, -0.5), xlim=(low, high + 0.16 * (high - low)), xlabel=x
    )  # room for the last numbers
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.tick_params(axis="y", length=0)


def _plot_pair(axes: Axes, pair: Sequence[float], *, y: float, labels: Sequence[str]) -> None:
    """Two numbers of a paper, hollow and filled, joined, and written out beside them."""
    for value, face, label in zip(pair, ("white", CONTRAST), labels, strict=True):
        look = {"marker": "o", "markersize": 4, "markerfacecolor": face, "label": label}
        axes.plot([value, sum(pair) / 2], [y, y], markevery=[0], **_RED | look)
    text = " → ".join(
        f"{value:.1f}" if isinstance(value, float) else f"{value:,}" for value in pair
    )
    place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (pair[1], y), fontsize=5.5, color=CONTRAST, **place)
