"""One style for print (VisCon-100K, appendix B): colours, sizes from the column width, one saving.

Plots are pure functions `plot_x(axes, table)`; drawings are `Figure` objects, so that no state of
pyplot is involved. Black and white must tell the same as colour: filled against hatched or
outlined, solid against dashed, with values written out.
"""

import textwrap
from math import ceil
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("paper.mplstyle")
WIDTHS = {1: 3.25, 2: 6.75}  # inches over one and two columns, with 0.25 between them
PAGE = 9.2  # inches, a text's height
LETTERS = ascii_lowercase  # of panels
INK = "#1b1b1b"
GREY = "#6b6b6b"
FILL = "#9dbddb"
EDGE = "#3b6ea5"
CONTRAST = "#c2410c"  # what is a paper's, and what a page adds
Look = dict[str, Any]  # properties of an artist, passed on to matplotlib
FILLED: Look = {"fill": True, "facecolor": FILL, "edgecolor": EDGE, "linewidth": 0.6}
HATCHED: Look = {**FILLED, "facecolor": "white", "hatch": "//////"}
SMALL_PRINT: Look = {"ha": "right", "fontsize": 5.5, "color": "0.35"}
ASIDE: Look = {"size": 5.5, "color": GREY}  # what is read second
_LEGEND_LINE = 9.4  # points


def start_style() -> None:
    """Set our style over matplotlib's own defaults: a user's matplotlibrc changes no byte."""
    matplotlib.style.use(["default", str(STYLE)])


def wrapped(note: str, columns: int) -> str:
    """Small print in lines as wide as the figure."""
    return textwrap.fill(note, 74 * columns)


def new_figure(
    *titles: str,
    columns: int = 1,
    aspect: float = 0.62,
    layout: str = "",
    note: str = "",
    **ratios: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure of a panel per title, each `aspect` times as high as wide, side by side.

    A `layout` ("ab;ac") places them by letter, with `ratios` such as height_ratios; `aspect` is
    then the figure's. One column is too narrow for two panels: they are stacked, at most a page.
    `note` is small print below.
    """
    start_style()
    letters = LETTERS[: len(titles)]
    if columns == 1:
        # what stands in a row on two columns takes about three times the height on one
        aspect *= 3 if layout else len(titles)
        layout = ";".join(letters)
        ratios = {}
    elif not layout:
        layout = letters
        aspect /= len(titles)
    width = WIDTHS[columns]
    figure = Figure(figsize=(width, min(width * aspect, PAGE)), layout="constrained")
    if note:
        figure.supxlabel(wrapped(note, columns), x=0.995, **SMALL_PRINT)
    panels = list(figure.subplot_mosaic(layout, **ratios).values())
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
    return figure, panels


def finish(axes: Axes) -> None:
    """Put a legend of what has a label over the axes, off the data, in as many columns as fit, and
    the titles of the figure above it, so that those of a row stand level.
    """
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()  # lays the figure out, so that widths are known
    for columns in range(len(axes.get_legend_handles_labels()[1]), 0, -1):
        legend = axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(-0.01, 1.0))
        legend.set_in_layout(False)  # else a wide one would squeeze the axes
        if legend.get_window_extent().x1 <= axes.bbox.x1:
            break
    legends: list[Any] = [panel.get_legend() for panel in figure.axes]
    lines = [ceil(len(one.get_texts()) / one._ncols) for one in legends if one]
    for panel in figure.axes:
        panel.set_title(panel.get_title(loc="left"), pad=6 + _LEGEND_LINE * max(lines, default=0))


def say(axes: Axes, text: str) -> None:
    """A panel that has nothing to draw says why."""
    # axes without data would look like a result of 0
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY)


def save_figure(figure: Figure, folder: Path, name: str, table: Any) -> list[Path]:
    """Write `<name>.pdf`, `<name>.png` (300 dpi) and the table (pandas) behind them as `<name>.csv`
    into `folder`; equal figures and tables give equal bytes.
    """
    pdf, png, csv = (folder / f"{name}{ending}" for ending in (".pdf", ".png", ".csv"))
    # dates and versions would change the bytes of an equal figure
    figure.savefig(pdf, metadata={"CreationDate": None, "Title": name})
    figure.savefig(png, metadata={"Software": None})
    write_csv(table, csv)
    return [pdf, png, csv]


def write_csv(table: Any, file: Path) -> None:
    """The table behind a figure: the same bytes on every system, numbers to six digits."""
    table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")


def preview(figure: Figure) -> Any:
    """The figure for a notebook, at screen resolution: executed notebooks stay small."""
    from IPython.core.pylabtools import print_figure
    from IPython.display import Image

    return Image(print_figure(figure, bbox_inches=None))  # type: ignore[no-untyped-call]
