"""The pipeline with a run's own counts (VisCon-100K, figure 2): what each step kept, what it set
aside and why.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from vislib.figures.sql import query
from vislib.figures.style import EDGE, GREY, INK, Look
from vislib.figures.text import Column, shortened, text_width
from vislib.runs.tables import count_rows

# Per step what went on and what was set aside. A reason stands before the first colon. What 08 says
# is malformed was counted where it was generated; questions and captions of all kinds are together.
COUNTS = """
WITH counted(number, step, role, item, count) AS (
    SELECT 1, 'Web documents', 'kept', 'valid', count(*) FROM documents
    UNION ALL SELECT 1, 'Web documents', 'kept', 'rows',
        (SELECT count(*) FROM documents) + (SELECT count(*) FROM quarantine)
    UNION ALL SELECT 1, 'Web documents', 'dropped', reason, 1 FROM quarantine
    UNION ALL SELECT 2, 'Token cap', 'kept', 'documents', count(*) FROM kept_documents
    UNION ALL SELECT 2, 'Token cap', 'dropped', reason, 1 FROM filtering_dropped
        WHERE reason = 'above_cap'
    UNION ALL SELECT 3, 'Image contexts', 'kept', 'samples', count(*) FROM samples
    UNION ALL SELECT 3, 'Image contexts', 'dropped', reason, 1 FROM filtering_dropped
        WHERE reason <> 'above_cap'
    UNION ALL SELECT 4, 'Images', 'kept', 'addresses', count(*) FROM images WHERE status = 'ok'
    UNION ALL SELECT 4, 'Images', 'dropped', reason, 1 FROM images_dropped
    UNION ALL SELECT 5, 'Captioning', 'kept', kind, 1 FROM captions WHERE status = 'ok'
    UNION ALL SELECT 5, 'Captioning', 'dropped', reason, 1 FROM captioning_dropped
    UNION ALL SELECT 6, 'Q&A generation', 'kept', question_type, 1 FROM questions
        WHERE status = 'ok'
    UNION ALL SELECT 6, 'Q&A generation', 'dropped', reason, 1 FROM qa_dropped
    UNION ALL SELECT 7, 'De-duplication', 'kept', source, 1
        FROM (SELECT unnest(sources) AS source FROM mixes) WHERE source <> 'caption'
    UNION ALL SELECT 7, 'De-duplication', 'dropped', reason, 1 FROM merging_dropped
        WHERE reason IN ('similar_question', 'sample_not_eligible')
    UNION ALL SELECT 8, 'Conversations per kind', 'kept', item, count FROM configurations
    UNION ALL SELECT 8, 'Conversations per kind', 'dropped', reason, 1 FROM merging_dropped
        WHERE reason NOT IN ('similar_question', 'sample_not_eligible', 'malformed'))
SELECT step, role, split_part(item, ':', 1) AS item, sum(count)::BIGINT AS count
FROM counted GROUP BY number, step, role, split_part(item, ':', 1)
ORDER BY number, role DESC, CASE role WHEN 'dropped' THEN -sum(count) END, item
"""
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
_PER_ROW, _GAP = 4, 20.0  # boxes in a row; points between boxes
_TINT = "#eef4fa"


def pipeline_table(inputs: Mapping[str, Path], conversations: Sequence[Path]) -> Any:
    """Counts of every step as rows of step, role (kept / dropped), item, count.

    `inputs`: the folder of each of `TABLES`. `conversations`: a folder of configurations per kind
    of caption; all kinds have the same samples, so the first one's are counted.
    """
    # footers alone are read: conversations are the largest tables
    folders = [(folder.name, count_rows(folder)) for folder in conversations[0].iterdir()]
    configurations = pd.DataFrame(folders, columns=["item", "count"])
    # the mix holds every question that was kept, once
    mixes = [kind / "leaky_mix" for kind in conversations]
    tables = {name: inputs[name] for name in TABLES}
    return query(COUNTS, **tables, mixes=mixes, configurations=configurations)


def plot_pipeline(sheet: Column, table: Any) -> None:
    """Draw the steps as boxes, what was set aside below each.

    Rows run there and back, so that an arrow always joins neighbours.
    """
    # all boxes are as wide, so that columns line up over the rows
    width = (sheet.width - (_PER_ROW - 1) * _GAP) / _PER_ROW
    before, bottom = sheet, sheet.y
    for n, (step, rows) in enumerate(table.groupby("step", sort=False)):
        row, place = divmod(n, _PER_ROW)
        if n and not place:
            sheet.y = bottom + _GAP
        across = _PER_ROW - 1 - place if row % 2 else place
        box = sheet.column(across * (width + _GAP), width)
        if place:
            start, end = (box.x + width + _GAP, box.x + width) if row % 2 else (box.x - _GAP, box.x)
            _plot_arrow(sheet.axes, (start, sheet.y + 9), (end, sheet.y + 9))
        elif n:
            middle = box.x + width / 2
            _plot_arrow(sheet.axes, (middle, before.y), (middle, sheet.y))
        _plot_step(box, rows, f"{n + 1} {step}")
        before, bottom = box, max(bottom, box.y)
    sheet.y = bottom


def _plot_step(box: Column, rows: Any, title: str) -> None:
    """A box with a step's counts, and below it a list of what was set aside."""
    # what was lost stands below its box, smaller: the way on is what is read first
    kept, dropped = (rows[rows["role"] == role] for role in ("kept", "dropped"))
    inside = box.column(6, box.width - 12)
    inside.y += 4
    inside.write(title, weight="bold")
    inside.y += 2
    _write_counts(inside, kept, size=6)
    inside.y += 2
    look: Look = {
        "boxstyle": "round,pad=0,rounding_size=3",
        "facecolor": _TINT,
        "edgecolor": EDGE,
    }
    # drawn last, when its height is known; patches lie below texts all the same
    frame = FancyBboxPatch((box.x, box.y), box.width, inside.y - box.y, linewidth=0.7, **look)
    box.axes.add_patch(frame)
    inside.y += 3
    _write_counts(inside, dropped, sign="−", size=5.5, color=GREY)
    box.y = inside.y + 4


def _write_counts(inside: Column, counts: Any, *, size: float, sign: str = "", **look: Any) -> None:
    for item, count in zip(counts["item"], counts["count"], strict=True):
        # kinds and types are hyphenated words, all other names are several
        hyphen = "-" if item.startswith(("free_", "multiple_", "non_", "fused_")) else " "
        number = f"{sign}{count:,}"
        right = inside.width - text_width(number, size)
        inside.column(right, inside.width).write(number, size=size, **look)
        name = shortened(item.replace("_", hyphen), right - 4, size)
        inside.write(name, size=size, **look)


def _plot_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": INK,
        "linewidth": 0.8,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", end, start, arrowprops={**style, "mutation_scale": 7})
