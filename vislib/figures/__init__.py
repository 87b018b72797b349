"""The papers' figures from the tables of a run: no GPU, no API, equal bytes on every rerun.

A module per family of figures, each of pure functions that draw a table into given axes; `query`
makes the tables, `save_figure` writes them.
"""

from vislib.figures.statistics import query
from vislib.figures.style import FILLED, HATCHED, LETTERS, new_figure, preview, save_figure
from vislib.figures.text import new_sheet, trim_sheet

DATA_VERSION = 1  # raised when a mended fault changes what comes out of this room
__all__ = [
    "FILLED",
    "HATCHED",
    "LETTERS",
    "new_figure",
    "new_sheet",
    "preview",
    "query",
    "save_figure",
    "trim_sheet",
]
