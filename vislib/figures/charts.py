"""The charts that all figures are made of: histograms, bars, dots with intervals, word clouds.

Each draws a table into given axes. A run's own numbers are dark or blue, a paper's are red; groups
differ in filling and pattern, not in colour alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont
from wordcloud import WordCloud

from vislib.figures.style import CONTRAST, EDGE, FILLED, HATCHED, INK, Look, finish, say
from vislib.figures.text import shortened
from vislib.runs import InputError

GROUPS: Sequence[Look] = (  # how up to four groups of a histogram are told apart
    FILLED,
    {"edgecolor": INK, "linewidth": 1.0, "linestyle": (0, (2, 1))},
    {"edgecolor": EDGE, "linewidth": 1.4},
    {"edgecolor": INK, "linewidth": 1.0, "linestyle": (0, (0.8, 0.8))},
)
_RUN_LINES = ("-", (0, (4, 1.2)))
_PAPER_LINES = ((0, (5, 1, 1, 1)), (0, (1, 1)))  # no run's line has these patterns

_SHAPES = "osD^vPX<>hdp"  # of marks
_STEPS = [1, 2, 5, 10]  # of ticks
_WIDTH_PX = 900  # of a cloud
_LEAST_PX = 16  # size of its smallest word, which is 4.2 points in one column


def plot_histogram(
    axes: Axes,
    table: Any,
    *,
    x: str,
    y: str,
    looks: Sequence[Look] = GROUPS,
    share: bool = False,
    log: bool = False,
    run: Mapping[str, float] = {},
    paper: Mapping[str, float] = {},
) -> None:
    """The groups of a `statistics.histogram` over one another, their totals in the legend.

    `share`: of the group's total, so that groups of unequal size compare. `run` and `paper` are
    numbers to mark by vertical lines, such as means; `log` is of the x axis.
    """
    if not table["count"].any():
        return say(axes, "nothing to count")
    # groups beyond the looks would be drawn alike: callers bound them
    for (label, bins), look in zip(table.groupby("group", sort=False), looks, strict=False):
        if total := bins["count"].sum():
            heights = bins["count"] / (total if share else 1)
            # an empty bin is not drawn: its line would lie on the axis
            edges = [*bins["from"], bins["to"].iloc[-1]]
            named = label and f"{label} ({total:,})"
            axes.stairs(heights.where(heights > 0), edges, label=named, **look)
    of_paper = {f"paper's {name}": value for name, value in paper.items()}
    for numbers, lines, color in ((run, _RUN_LINES, INK), (of_paper, _PAPER_LINES, CONTRAST)):
        for (name, value), line in zip(numbers.items(), lines, strict=False):
            label = f"{name} {round(value, 2):,.10g}"
            axes.axvline(value, color=color, linestyle=line, label=label)
    # the bars at the ends must not touch the axis
    axes.margins(x=0.02)
    axes.set(xlabel=x, ylabel=y, ylim=(0, None), xscale="log" if log else "linear")
    if not log:
        # whole numbers are counted, but for shares
        whole = np.ptp(axes.get_xlim()) > 1.5
        axes.locator_params("x", nbins=7, steps=_STEPS, integer=whole)
    axes.xaxis.set_major_formatter("{x:,g}")
    # numbers at every decade are enough: those between would overlap in one column
    axes.xaxis.set_minor_formatter("")
    axes.locator_params("y", nbins=5, steps=_STEPS, integer=not share)
    axes.yaxis.set_major_formatter("{x:.0%}" if share else "{x:,.0f}")
    finish(axes)


def plot_bars(axes: Axes, table: Any, *, form: str = "{:,.0f}") -> None:
    """A group of bars per row of a table, downwards, a bar per column, its number written out."""
    if table.empty:
        return say(axes, "nothing to count")
    # a fifth of the room stays free between groups
    height = 0.8 / len(table.columns)
    places = np.arange(len(table))
    for n, (name, look) in enumerate(zip(table.columns, (FILLED, HATCHED), strict=False)):
        # one series alone needs no legend
        label = name if len(table.columns) > 1 else ""
        bars = axes.barh(places + n * height, table[name], height, label=label, **look)
        axes.bar_label(bars, fmt=form, padding=2, fontsize=6)
    # long names would take the room of the bars
    names = [shortened(str(name), 90, 6.5) for name in table.index]
    axes.set_yticks(places + 0.4 - height / 2, names)
    axes.tick_params(axis="y", length=0)
    # one bar alone stays slim
    axes.set_ylim(max(len(table), 4) - height / 2, -0.2 - height / 2)
    axes.margins(x=0.18)  # room for the numbers
    # numbers are written out: an axis of them would say the same twice
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    finish(axes)


def marks(names: Iterable[str], *, paper: bool = False) -> dict[str, Look]:
    """How each of some groups, ours or a paper's, is marked in all panels of a figure, filled and
    hollow in turn; more than there are shapes is an InputError.
    """
    names = list(dict.fromkeys(names))
    if len(names) > len(_SHAPES):
        raise InputError(
            f"{len(names)} arms, but a figure tells {len(_SHAPES)} apart: name fewer in show"
        )
    looks = {}
    for number, name in enumerate(names):
        # the first of a paper is hollow, the first of ours filled: they differ in print too
        hollow = (number % 2 == 0) == paper
        edge = CONTRAST if paper else INK if hollow else EDGE
        face = "white" if hollow else edge
        looks[name] = {"marker": _SHAPES[number], "color": edge, "markerfacecolor": face}
    return looks


def plot_dots(axes: Axes, rows: Any, looks: Mapping[str, Look], *, x: str) -> None:
    """A line per `label` of `rows`, downwards, and on it a mark at `value` per `name`, with its
    interval from `low` to `high` where there is one.

    `looks` has the mark of each name, in the order in which they stand below one another.
    """
    if rows.empty:
        return say(axes, "nothing to count")
    # a panel's legend names only what it shows
    names = [name for name in looks if name in set(rows["name"])]
    # a number that was counted, or that a paper gives alone, has no interval
    rows = rows.fillna({"low": rows["value"], "high": rows["value"]})
    # in the order of the rows, which is the caller's
    rows["line"], labels = rows["label"].factorize()
    # marks of one line stand below one another, so that equal values are both seen
    step = min(0.25, 0.7 / len(names))
    for number, name in enumerate(names):
        own = rows[rows["name"] == name]
        # around the middle of the line, whatever the number of names
        places = own["line"] + step * (number - (len(names) - 1) / 2)
        axes.plot(own["value"], places, linestyle="", label=name, **looks[name])
        color = looks[name]["color"]
        axes.hlines(places, own["low"], own["high"], color, linewidth=0.8, zorder=1)
    # a hairline between lines leads the eye from name to mark
    for border in range(1, len(labels)):
        axes.axhline(border - 0.5, color="0.88", linewidth=0.5)
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel=x)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    finish(axes)


def plot_word_cloud(
    axes: Axes, counts: Sequence[tuple[str, int]], *, max_words: int, seed: int
) -> list[tuple[str, int]]:
    """Fill the axes with words, frequent ones larger and darker (VisCon-100K, figure 7); returns
    those that found a place.

    `counts` are sorted by count, then name: equal counts, axes and seed give the same picture.
    Words that matplotlib's DejaVu Sans cannot set are the caller's to leave out (`text.drawable`).
    Without a word the panel says so.
    """
    if not counts:
        say(
            axes,
            "no word to draw: none is left after stop words,\n"
            "or their script sets no blanks, or the font lacks it",
        )
        return []
    axes.axis("off")
    figure: Any = axes.get_figure(root=True)
    # lays the figure out, so that the cloud takes the shape of the axes
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    height = round(_WIDTH_PX * box.height / box.width)
    cloud = _cloud(dict(counts[:max_words]), height, seed=seed)
    axes.imshow(cloud.to_array(), aspect="auto", interpolation="none")
    drawn = {word for (word, _), *_ in cloud.layout_}
    return [item for item in counts if item[0] in drawn]


def _cloud(counts: Mapping[str, int], height: int, *, seed: int) -> Any:
    """The layout with the largest words of those that place nine in ten, or that of the
    smallest.
    """
    for part in (5, 6, 8, 10, 12, 15):
        cloud = WordCloud(
            width=_WIDTH_PX,
            height=height,
            scale=2,  # as fine as print
            background_color="white",
            color_func=_shade,
            font_path=findfont("DejaVu Sans"),
            max_words=len(counts),
            random_state=seed,
            prefer_horizontal=1.0,  # words that stand upright are hard to read
            relative_scaling=0.4,  # sizes grow slower than counts: the last word is legible
            max_font_size=height // part,
            min_font_size=_LEAST_PX,
            margin=5,
        )
        cloud.generate_from_frequencies(counts)
        if len(cloud.layout_) >= 0.9 * len(counts):
            break
    return cloud


def _shade(word: str, font_size: int, **_: Any) -> str:
    """Paler where a word is smaller, dark enough to be read."""
    return f"hsl(213, 55%, {max(18, 45 - font_size // 4)}%)"
