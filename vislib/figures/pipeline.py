"""The pipeline with a run's own counts (VisCon-100K, figure 2): what each step kept, what it set
aside and why.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.patches import FancyBboxPatch

from vislib.figures.statistics import query
from vislib.figures.style import ASIDE, EDGE, INK, Look
from vislib.figures.text import Column
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
_ARROW: Look = {
    "arrowstyle": "-|>",
    "color": INK,
    "linewidth": 0.8,
    "mutation_scale": 7,
    "shrinkA": 0,
    "shrinkB": 0,
}


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
    return query(COUNTS, **inputs, mixes=mixes, configurations=configurations)


def plot_pipeline(sheet: Column, table: Any) -> None:
    """Draw the steps as boxes, what was set aside below each.

    Rows run there and back, so that an arrow always joins neighbours.
    """
    # all boxes are as wide, so that columns line up over the rows
    width = (sheet.width - (_PER_ROW - 1) * _GAP) / _PER_ROW
    lowest = sheet.y
    start = (0.0, 0.0)
    patch = None
    for n, (step, rows) in enumerate(table.groupby("step", sort=False)):
        row, place = divmod(n, _PER_ROW)
        if n and not place:
            sheet.y = lowest + _GAP
        across = _PER_ROW - 1 - place if row % 2 else place
        box = sheet.column(across * (width + _GAP), width)
        before = patch
        patch = _plot_step(box, f"{n + 1} {step}", rows)
        middle = box.x + width / 2, sheet.y + 9
        if before:
            # from middle to middle, cut where the boxes end
            look = {**_ARROW, "patchA": before, "patchB": patch}
            sheet.axes.annotate("", middle, start, arrowprops=look)
        lowest = max(lowest, box.y)
        # down to the next row, the arrow begins below what was set aside
        start = (middle[0], box.y) if place == _PER_ROW - 1 else middle
    sheet.y = lowest


def _plot_step(box: Column, title: str, rows: Any) -> FancyBboxPatch:
    """A box with a step's counts, and below it a list of what was set aside; returns the box."""
    inside = box.column(6, box.width - 12)
    inside.y += 4
    inside.write(title, weight="bold")
    inside.y += 2
    inside.write(_lines(rows[rows["role"] == "kept"], "{:,} {}"))
    # drawn last, when its height is known; patches lie below texts all the same
    patch = FancyBboxPatch(
        (box.x, box.y),
        box.width,
        inside.y + 2 - box.y,
        boxstyle="round,pad=0,rounding_size=3",
        facecolor=_TINT,
        edgecolor=EDGE,
        linewidth=0.7,
    )
    box.axes.add_patch(patch)
    inside.y += 5
    # what was lost stands below its box, smaller: the way on is what is read first
    inside.write(_lines(rows[rows["role"] == "dropped"], "−{:,} {}"), **ASIDE)
    box.y = inside.y + 4
    return patch


def _lines(counts: Any, form: str) -> str:
    # kinds and types are hyphenated words, all other names are several
    names = counts["item"].str.replace("(free|multiple|non|fused)_", r"\1-", regex=True)
    return "\n".join(map(form.format, counts["count"], names.str.replace("_", " ")))
