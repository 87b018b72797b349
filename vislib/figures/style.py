"""One style for print (VisCon-100K, appendix B): colours, sizes from the column width, one saving.

Plots are pure functions `plot_x(axes, table)`; drawings are `Figure` objects, so that no state of
pyplot is involved. Black and white must tell the same as colour: filled against hatched or
outlined, solid against dashed, with values written out.
"""

import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("paper.mplstyle")
COLUMN, GUTTER = (
    3.25,
    0.25,
)  # inches: a column of a two-column page, and the space between two
PREVIEW_DPI = 110
LETTERS = "abcdefgh"  # of panels
INK, GREY, FILL, EDGE = "#1b1b1b", "#6b6b6b", "#9dbddb", "#3b6ea5"
CONTRAST = "#c2410c"  # what is a paper's, and what a page adds
Look = dict[str, Any]  # properties of an artist, passed on to matplotlib
FILLED: Look = {
    "fill": True,
    "facecolor": FILL,
    "edgecolor": EDGE,
    "linewidth": 0.6,
}
HATCHED: Look = {**FILLED, "facecolor": "white", "hatch": "//////"}
OUTLINED: Look = {
    "edgecolor": INK,
    "linewidth": 1.0,
    "linestyle": (0, (2, 1)),
}
_LEGEND_LINE = 9.4  # points


def figure_size(*, columns: int = 1, aspect: float = 0.62) -> tuple[float, float]:
    """Inches of a figure over 1 or 2 columns whose height is `aspect` times its width."""
    if columns not in (1, 2) or aspect <= 0:
        raise ValueError(
            f"columns={columns}, aspect={aspect}: a page has 1 or 2 columns, and a height above 0"
        )
    # a figure over both columns covers the space between them
    width = columns * COLUMN + (columns - 1) * GUTTER
    return width, width * aspect


def new_figure(
    *titles: str,
    columns: int = 1,
    aspect: float = 0.62,
    layout: str = "",
    stretch: float = 1,
    note: str = "",
    **ratios: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure of a panel per title, each `aspect` times as high as wide: side by side over two
    columns, else stacked. A `layout` ("ab;ac") places them by letter; `aspect` is then the
    figure's, `stretch` times as high where one column stacks what two have side by side.

    `note` is small print below; `ratios` are width_ratios and height_ratios of the layout.
    """
    start_style()
    # one column is too narrow for two panels
    down, across = (len(titles), 1) if columns == 1 else (1, len(titles))
    if layout:
        down = across = 1
    size = figure_size(columns=columns, aspect=aspect * stretch * down / across)
    figure = Figure(figsize=size, layout="constrained")
    if note:
        small: Look = {
            "x": 0.995,
            "ha": "right",
            "fontsize": 5.5,
            "color": "0.35",
        }
        figure.supxlabel(wrapped(note, columns), **small)
    # a mosaic in letters: rows are parted by semicolons
    between = ";" if columns == 1 else ""
    axes = figure.subplot_mosaic(layout or between.join(LETTERS[: len(titles)]), **ratios)
    panels = [axes[letter] for letter in sorted(axes)]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
    return figure, panels


def start_style() -> None:
    """Set our style over matplotlib's own defaults: a user's matplotlibrc changes no byte."""
    matplotlib.style.use(["default", str(STYLE)])


def wrapped(note: str, columns: int) -> str:
    """Small print in lines as wide as the figure."""
    return textwrap.fill(note, 74 * columns)


def finish(axes: Axes) -> None:
    """Lift a panel's title over a legend of what has a label, in as many columns as the panel is
    wide: both stand above the axes, off the data, and titles of a row stand level.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays the figure out, so that widths are known
    for columns in range(len(axes.get_legend_handles_labels()[1]), 0, -1):
        place: Look = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0)}
        legend = axes.legend(ncols=columns, columnspacing=1.0, handlelength=1.6, **place)
        legend.set_in_layout(False)  # else a wide one would squeeze the axes
        if legend.get_window_extent().x1 <= axes.bbox.x1:
            break
    # one legend of two lines lifts the titles beside it
    row = [other for other in figure.axes if _row(other) == _row(axes)]
    pad = 6 + _LEGEND_LINE * max(map(_legend_lines, row))
    for panel in row:
        panel.set_title(panel.get_title(loc="left"), pad=pad)


def _row(axes: Axes) -> int:
    place = axes.get_subplotspec()
    return place.rowspan.start if place else 0


def _legend_lines(axes: Axes) -> int:
    legend: Any = axes.get_legend()
    return -(-len(legend.get_texts()) // legend._ncols) if legend else 0


def say(axes: Axes, text: str) -> None:
    """A panel that has nothing to draw says why."""
    # axes without data would look like a result of 0
    axes.axis("off")
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        transform=axes.transAxes,
        color=GREY,
    )


def save_figure(figure: Figure, folder: Path, name: str, table: Any = None) -> list[Path]:
    """Write `<name>.pdf`, `<name>.png` (300 dpi) and the table (pandas) behind them as `<name>.csv`
    into `folder`.

    Equal figures and tables give equal bytes. Numbers in the CSV have six significant digits.
    """
    pdf, png, csv = (folder / f"{name}{ending}" for ending in (".pdf", ".png", ".csv"))
    # dates and versions would change the bytes of an equal figure
    figure.savefig(pdf, metadata={"CreationDate": None, "Title": name})
    figure.savefig(png, metadata={"Software": None})
    if table is None:
        return [pdf, png]
    write_csv(table, csv)
    return [pdf, png, csv]


def write_csv(table: Any, file: Path) -> None:
    """The table behind a figure: the same bytes on every system, numbers to six digits."""
    table.to_csv(
        file,
        index=False,
        float_format="%.6g",
        lineterminator="\n",
        encoding="utf-8",
    )


def preview(figure: Figure) -> Any:
    """The figure for a notebook, at screen resolution: executed notebooks stay small."""
    from IPython.display import Image

    # drawn once more at fewer dots: the file for print would swell the notebook
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PREVIEW_DPI)
    return Image(data=buffer.getvalue(), format="png")  # type: ignore[no-untyped-call]
