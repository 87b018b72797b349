"""The property figures (VisCon-100K, appendix B, figures 5 to 7): pure functions that draw a table
into given axes.

Black and white must tell the same as colour: filled against outlined or hatched, solid against
dashed lines, with values written out.
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import findfont
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, NullFormatter
from matplotlib.transforms import Affine2D

from vislib.figures.statistics import PAPER_OVERLAP

INK, FILL, CONTRAST, PAPER_GREY = "#1b1b1b", "#9dbddb", "#c2410c", "#6b6b6b"
EDGE = "#3b6ea5"
_LEAST_PX = 16  # size of the smallest word in a cloud of 900 px, which is 4.2 points in one column
_LEFT = -0.1  # of title and legend, in widths of the axes: above the label of the y axis
_RUN_LINES: Sequence[Any] = ("-", (0, (4, 1.2)))
_PAPER_LINES: Sequence[Any] = ((0, (5, 1, 1, 1)), (0, (1, 1)))


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _thousands(value: float, _: float) -> str:
    return f"{value:,.0f}"


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Labels, whole counts upwards, and the title over a legend that stands above the axes, off the
    data.
    """
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(_thousands)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(_LEFT - 0.01, 1.0), ncols=2, columnspacing=1.0
    )
    legend.set_in_layout(False)  # else a wide legend would squeeze the axes
    axes.set_title(title, x=_LEFT, pad=6 + 9.4 * -(-len(legend.get_texts()) // 2))


def say(axes: Axes, text: str, *, title: str = "") -> None:
    """A panel that has nothing to draw says why."""
    axes.axis("off")
    axes.set_title(title)
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        color=PAPER_GREY,
        wrap=True,
        transform=axes.transAxes,
    )


def _bins(axes: Axes, table: Any, label: str, **look: Any) -> None:
    """Draw a table of from, to, count; the label carries the total, and an empty table draws
    nothing.
    """
    if table["count"].sum():
        style = {"fill": True, "facecolor": FILL, "edgecolor": EDGE, "linewidth": 0.6, **look}
        total = f"{label} ({_number(table['count'].sum())})" if label else None
        axes.stairs(table["count"], [*table["from"], table["to"].iloc[-1]], label=total, **style)


def _marks(axes: Axes, values: Mapping[str, float], *, paper: bool = False) -> None:
    """Vertical lines, dark for this run and red for the paper, each in a pattern of its own."""
    patterns, color, whose = (
        (_PAPER_LINES, CONTRAST, "paper's ") if paper else (_RUN_LINES, INK, "")
    )
    for (name, value), pattern in zip(values.items(), patterns, strict=False):
        label = f"{whose}{name} {_number(value)}"
        axes.axvline(value, color=color, linestyle=pattern, linewidth=1.1, label=label)


def plot_document_tokens(
    axes: Axes, table: Any, *, cap: int, label: str = "cap", title: str = ""
) -> None:
    """All documents by tokens, on a logarithmic axis; bins above the cap are hatched.

    `table` is a `histogram` with an edge right above the cap.
    """
    within = table["from"] < cap
    _bins(axes, table[within], "kept")
    _bins(axes, table[~within], "above the cap", facecolor="white", hatch="//////")
    axes.axvline(cap, color=INK, label=f"{label} {cap:,}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_minor_formatter(NullFormatter())
    _finish(axes, title, "Tokens of a document's text", "Documents")


def plot_context_tokens(
    axes: Axes, table: Any, *, run: Mapping[str, float], paper: Mapping[str, float], title: str = ""
) -> None:
    """Samples by tokens of their context (figure 5a), with this run's and the paper's mean and
    median.
    """
    _bins(axes, table, "")
    _marks(axes, run)
    _marks(axes, paper, paper=True)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(_thousands)
    _finish(axes, title, "Tokens of a sample's context", "Samples")


def plot_overlap(
    axes: Axes, table: Any, control: Any, *, run: Mapping[str, float], title: str = ""
) -> None:
    """Contextual captions by overlap with their page (figure 5b), and non-contextual ones as a
    dashed outline.

    `run` has the mean of each kind.
    """
    _bins(axes, table, "contextual")
    _bins(
        axes,
        control,
        "non-contextual",
        fill=False,
        edgecolor=INK,
        linewidth=1.0,
        linestyle=(0, (2, 1)),
    )
    _marks(axes, {f"{kind.replace('_', '-')} mean": value for kind, value in run.items()})
    _marks(axes, {"mean": PAPER_OVERLAP}, paper=True)
    axes.set_xlim(0, 1)
    _finish(axes, title, "Share of a caption's words that stand on its page", "Captions")


def plot_pairs(axes: Axes, table: Any, generated: Any, *, paper_mode: int, title: str = "") -> None:
    """Samples by number of pairs (figure 6): hatched as generated, filled after de-duplication."""
    bars: dict[str, Any] = {"width": 0.4, "edgecolor": EDGE, "linewidth": 0.6}
    axes.bar(
        generated["pairs"] - 0.2,
        generated["samples"],
        facecolor="white",
        hatch="//////",
        label="generated",
        **bars,
    )
    axes.bar(
        table["pairs"] + 0.2, table["samples"], facecolor=FILL, label="after de-duplication", **bars
    )
    _marks(axes, {"mode": paper_mode}, paper=True)
    last = int(max(table["pairs"].max(), generated["pairs"].max(), paper_mode))
    axes.set_xticks(range(last + 1))
    axes.set_xlim(-0.6, last + 0.6)
    _finish(axes, title, "Pairs of a sample", "Samples")


def plot_word_cloud(
    axes: Axes, counts: Sequence[tuple[str, int]], *, max_words: int, seed: int, title: str = ""
) -> list[tuple[str, int]]:
    """Fill the axes with words, frequent ones larger and darker (figure 7); returns those that
    found a place.

    Sizes grow slower than counts, and are small enough to place nine words in ten. Without a word
    the panel says so.

    `counts` are sorted by count, then name: equal counts, axes and seed give the same picture.
    Words that matplotlib's DejaVu Sans cannot set are the caller's to leave out
    (`typeset.drawable`). Glyphs are drawn as outlines.
    """
    if not counts:
        say(
            axes,
            "no word to draw: none is left after stop words,\nor their script sets no blanks, or"
            " the font lacks it",
            title=title,
        )
        return []
    axes.axis("off")
    axes.set_title(title)
    figure = axes.get_figure(root=True)
    assert figure is not None
    # lays the figure out, so that the cloud takes the shape of the axes
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    width, height = 900, round(900 * box.height / box.width)
    cloud = _cloud(counts[:max_words], width, height, seed=seed)
    for (word, _), size, (top, left), _, _ in cloud.layout_:
        glyphs = TextPath((0, 0), word, size=size)
        ink_top = glyphs.get_extents().y1  # wordcloud's `top`; its `left` is the pen's origin
        path = (
            Affine2D()
            .translate(0, -ink_top)
            .scale(1, -1)
            .translate(left, top)
            .transform_path(glyphs)
        )
        shade = 0.5 * (1 - (size / cloud.layout_[0][1]) ** 0.5)
        color = tuple(dark + (1 - dark) * shade for dark in (0.06, 0.18, 0.33))
        axes.add_patch(PathPatch(path, facecolor=color, edgecolor="none"))
    axes.set(xlim=(0, width), ylim=(height, 0))
    drawn = {word for (word, _), *_ in cloud.layout_}
    return [(word, count) for word, count in counts if word in drawn]


def _cloud(counts: Sequence[tuple[str, int]], width: int, height: int, *, seed: int) -> Any:
    """The layout with the largest words of those that place nine in ten, or that of the
    smallest.
    """
    from wordcloud import WordCloud

    spread = log(counts[0][1] / counts[-1][1])
    for part in (5, 6, 7, 8, 9, 10, 12, 15):
        # A word is (n / n of the word before) ** scaling as large as that one: the last one is to
        # be legible.
        scaling = max(0.0, min(0.5, log(height / part / _LEAST_PX) / spread)) if spread else 0.0
        cloud = WordCloud(
            width=width,
            height=height,
            font_path=findfont("DejaVu Sans"),
            max_words=len(counts),
            random_state=seed,
            prefer_horizontal=1.0,
            relative_scaling=scaling,
            max_font_size=height // part,
            min_font_size=_LEAST_PX,
            margin=5,
        )
        cloud.generate_from_frequencies(dict(counts))
        if len(cloud.layout_) >= 0.9 * len(counts):
            break
    return cloud
