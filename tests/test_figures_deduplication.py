"""The figure of 15's sweep, at one and at two columns."""

import pandas as pd
import pytest

from tests.figure_layout import assert_readable
from vislib import figures
from vislib.figures.deduplication import MEASURES, plot_legend, plot_sweep

SWEEP = pd.DataFrame(
    {
        "threshold": threshold,
        "minimum": minimum,
        "asked": 1000,
        "kept": kept,
        "share": kept / 1000,
        "nearest": 0.4 + threshold / 10,
        "distinct_1": 0.9 - threshold / 10,
        "distinct_2": 0.99 - threshold / 100,
        "balance": 0.8 + minimum / 40,
    }
    for minimum in (1, 2, 4)
    for threshold, kept in ((0.5, 700 + 20 * minimum), (0.8, 890), (0.9, 998), (0.95, 1000))
)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("rows", [slice(None), SWEEP["minimum"] == 2])
def test_every_label_can_be_read(columns, rows):
    look = {
        "columns": columns,
        "aspect": 0.62 if columns == 2 else 0.9,
        "layout": "abc;def",
        "note": "Embeddings: unknown.",
    }
    figure, panels = figures.new_figure(*MEASURES.values(), "", **look)
    for panel, measure in zip(panels, MEASURES, strict=False):
        plot_sweep(panel, SWEEP[rows], measure, threshold=0.9)
    plot_legend(panels[-1], panels[0])
    assert_readable(figure)
    assert len(panels[0].lines) == SWEEP[rows]["minimum"].nunique() + 1
