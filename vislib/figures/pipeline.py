"""The pipeline with a run's own counts (VisCon-100K, figure 2): what each step kept, what it set
aside and why.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from vislib.figures.plots import EDGE, INK, PAPER_GREY
from vislib.figures.typeset import draw_text, shortened
from vislib.runs import tables

TABLES = (
    "documents",
    "quarantine",
    "kept_documents",
    "filtering_dropped",
    "samples",
    "images",
    "images_dropped",
    "captions",
    "captioning_dropped",
    "questions",
    "qa_dropped",
    "merging_dropped",
)
_PER_ROW, _GAP, _LINE = (
    4,
    20.0,
    8.0,
)  # boxes in a row; points between boxes, and from one line to the next
_TINT = "#eef4fa"


def _count(table: Path, column: str, *, good: bool = False) -> Counter[str]:
    """Rows of a table by the values of a column, up to a colon: all of them, or those of status
    ok.
    """
    rows = tables.read_rows(table, [column, "status"] if good else [column])
    return Counter(
        row[column].partition(":")[0] for row in rows if not good or row["status"] == "ok"
    )


def _taken(counts: Counter[str], *names: str) -> Counter[str]:
    """Move the counts of `names` out of `counts`."""
    return Counter({name: counts.pop(name) for name in names if name in counts})


def pipeline_table(inputs: Mapping[str, Path], conversations: Sequence[Path]) -> Any:
    """Counts of every step, all kinds of captions together, as rows of step, role (kept / dropped),
    item, count.

    `inputs`: the folder of each of `TABLES`.
    `conversations`: a folder of configurations per kind of caption; all kinds have the same
    samples.
    """
    import pandas

    n = {
        name: tables.count_rows(inputs[name])
        for name in ("documents", "quarantine", "kept_documents", "samples")
    }
    filtering, merging = (
        _count(inputs[name], "reason") for name in ("filtering_dropped", "merging_dropped")
    )
    del merging["malformed"]  # counted where they were generated
    mixes = (
        row for kind in conversations for row in tables.read_rows(kind / "leaky_mix", ["sources"])
    )
    unique = Counter(source for row in mixes for source in row["sources"] if source != "caption")
    talks = {folder.name: tables.count_rows(folder) for folder in conversations[0].iterdir()}
    steps: dict[str, tuple[Mapping[str, int], Counter[str]]] = {
        "Web documents": (
            {"rows": n["documents"] + n["quarantine"], "valid": n["documents"]},
            _count(inputs["quarantine"], "reason"),
        ),
        "Token cap": ({"documents": n["kept_documents"]}, _taken(filtering, "above_cap")),
        "Image contexts": ({"samples": n["samples"]}, filtering),
        "Images": (
            {"addresses": _count(inputs["images"], "status")["ok"]},
            _count(inputs["images_dropped"], "reason"),
        ),
        "Captioning": (
            _count(inputs["captions"], "kind", good=True),
            _count(inputs["captioning_dropped"], "reason"),
        ),
        "Q&A generation": (
            _count(inputs["questions"], "question_type", good=True),
            _count(inputs["qa_dropped"], "reason"),
        ),
        "De-duplication": (unique, _taken(merging, "similar_question", "sample_not_eligible")),
        "Conversations per kind": (talks, merging),
    }
    rows = []
    for step, (kept, dropped) in steps.items():
        rows += [(step, "kept", item, count) for item, count in sorted(kept.items())]
        rows += [(step, "dropped", item, count) for item, count in dropped.most_common()]
    return pandas.DataFrame(rows, columns=["step", "role", "item", "count"])


def plot_pipeline(axes: Axes, table: Any, *, width: float) -> float:
    """Draw the steps as boxes with arrows, what was set aside below each; returns the height in
    points.
    """
    steps = list(dict.fromkeys(table["step"]))
    box = (width - 14 - (_PER_ROW - 1) * _GAP) / _PER_ROW
    top = 2.0
    for first in range(0, len(steps), _PER_ROW):
        below = top
        for place, step in enumerate(steps[first : first + _PER_ROW]):
            x = 1 + place * (box + _GAP)
            below = max(
                below, _plot_step(axes, table, step, first + place + 1, x=x, y=top, width=box)
            )
            if place:
                _plot_arrow(axes, [(x - _GAP, top + 9), (x - 1, top + 9)])
        if first + _PER_ROW < len(steps):
            end, middle = 1 + _PER_ROW * (box + _GAP) - _GAP, 1 + box / 2
            down = [
                (end + 9, top + 9),
                (end + 9, below + 6),
                (middle, below + 6),
                (middle, below + 17),
            ]
            _plot_arrow(axes, [(end, top + 9), *down])
        top = below + 18
    return top - 14


def _plot_step(
    axes: Axes, table: Any, step: str, number: int, *, x: float, y: float, width: float
) -> float:
    """A box with a step's counts, and below it a list of what was set aside; returns the y below
    it.
    """
    kept, dropped = (
        table[(table["step"] == step) & (table["role"] == role)] for role in ("kept", "dropped")
    )
    bottom = y + 19 + _LINE * len(kept)
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            bottom - y,
            boxstyle="round,pad=0,rounding_size=3",
            facecolor=_TINT,
            edgecolor=EDGE,
            linewidth=0.7,
        )
    )
    draw_text(axes, f"{number} {step}", x=x + 6, y=y + 4, width=width + 20, weight="bold")
    _plot_counts(axes, kept, x=x + 6, y=y + 21, right=x + width - 6, fontsize=6)
    _plot_counts(
        axes,
        dropped,
        x=x + 10,
        y=bottom + 9,
        right=x + width - 6,
        sign="−",
        fontsize=5.5,
        color=PAPER_GREY,
    )
    end = bottom + 2 + _LINE * len(dropped)
    if len(dropped):
        axes.plot([x + 6] * 2, [bottom, end], color=PAPER_GREY, linewidth=0.6)
    return end


def _plot_counts(
    axes: Axes, counts: Any, *, x: float, y: float, right: float, sign: str = "", **look: Any
) -> None:
    hyphenated = ("free_form", "multiple_choice", "non_contextual")
    for line, (item, count) in enumerate(zip(counts["item"], counts["count"], strict=True)):
        name = item.replace("_", "-" if item in hyphenated else " ")
        axes.text(x, y + _LINE * line, shortened(name, right - x - 28, look["fontsize"]), **look)
        axes.text(right, y + _LINE * line, f"{sign}{count:,}", ha="right", **look)


def _plot_arrow(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=0.8)
    head = {
        "arrowstyle": "-|>",
        "color": INK,
        "linewidth": 0.8,
        "shrinkA": 0,
        "shrinkB": 0,
        "mutation_scale": 7,
    }
    axes.annotate("", points[-1], points[-2], arrowprops=head)
