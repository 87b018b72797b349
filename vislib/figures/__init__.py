"""Figures for print (VisCon-100K, appendix B): one style, sizes from the column width, one way to
save.

Plots are pure functions over tables. A figure is saved as PDF and PNG without timestamps, with the
table behind it, so that a rerun gives the same bytes; drawings are `Figure` objects, so that no
global state of pyplot is involved.
"""

import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DATA_VERSION = 1  # raised when a mended fault changes what comes out of this room

STYLE = Path(__file__).with_name("paper.mplstyle")
COLUMN, GUTTER = 3.25, 0.25  # inches: a column of a two-column page, and the space between two
PREVIEW_DPI = 110


def figure_size(*, columns: int = 1, aspect: float = 0.62) -> tuple[float, float]:
    """Width and height in inches of a figure over 1 or 2 columns whose height is `aspect` times its
    width.
    """
    if columns not in (1, 2) or aspect <= 0:
        raise ValueError(
            f"columns={columns}, aspect={aspect}: a page has 1 or 2 columns, and a height above 0"
        )
    width = columns * COLUMN + (columns - 1) * GUTTER
    return width, width * aspect


def new_figure(
    *, columns: int = 1, aspect: float = 0.62, panels: int = 1, note: str = ""
) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` axes, each `aspect` times as high as wide: side by side over 2 columns,
    else stacked.

    `note` is small print below them. The style starts from matplotlib's own defaults, so that a
    user's matplotlibrc changes no byte.
    """
    matplotlib.style.use(["default", str(STYLE)])
    down, across = (1, panels) if columns == 2 else (panels, 1)
    figure = Figure(
        figsize=figure_size(columns=columns, aspect=aspect * down / across), layout="constrained"
    )
    if note:
        figure.supxlabel(_wrapped(note, columns), x=0.995, ha="right", fontsize=5.5, color="0.35")
    return figure, list(figure.subplots(down, across, squeeze=False).flat)


def new_mosaic(
    layout: str, *, columns: int = 1, aspect: float = 0.62, note: str = "", **ratios: Any
) -> tuple[Figure, list[Axes]]:
    """A figure like `new_figure` over the whole of which axes stand as in `layout` ("ab;ac"), in
    order of letter.

    `ratios`: width_ratios and height_ratios of columns and rows.
    """
    figure, (whole,) = new_figure(columns=columns, aspect=aspect, note=note)
    whole.remove()
    panels = figure.subplot_mosaic(layout, **ratios)
    return figure, [panels[name] for name in sorted(panels)]


def head(axes: Axes, title: str, *, legend: bool = True) -> None:
    """Give axes their title, over the legend of what has a label: a line of it, or two over one
    column.

    Over two columns titles keep its room without a `legend` too, so that neighbours' stay level.
    """
    wide = axes.get_figure(root=True).get_figwidth() > figure_size(columns=1)[0]  # type: ignore[union-attr]
    lines = 1 if wide else 2 * legend
    axes.set_title(title, pad=6 + 9.4 * lines)
    if n := len(axes.get_legend_handles_labels()[1]):
        place: dict[str, Any] = {
            "loc": "lower left",
            "bbox_to_anchor": (-0.02, 1.0),
            "ncols": -(-n // lines),
        }
        made = axes.legend(columnspacing=1.0, handlelength=1.6, **place)
        made.set_in_layout(False)  # else a wide one would squeeze the axes


def new_sheet() -> tuple[Figure, Axes, float]:
    """A two-column figure for text and images: bare axes that fill it, in points downwards, and its
    width.
    """
    matplotlib.style.use(["default", str(STYLE)])
    figure = Figure(figsize=figure_size(columns=2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_autoscale_on(False)
    return figure, axes, figure.get_figwidth() * 72


def trim_sheet(figure: Figure, axes: Axes, height: float, *, note: str) -> None:
    """Give a sheet the height in points that was drawn on it, and small print below."""
    width, text = figure.get_figwidth(), _wrapped(note, 2)
    axes.text(width * 72 - 2, height + 2, text, va="top", ha="right", fontsize=5.5, color="0.35")
    height += 4 + 7 * (text.count("\n") + 1)
    figure.set_size_inches(width, height / 72)
    axes.set_xlim(0, width * 72)
    axes.set_ylim(height, 0)


def _wrapped(note: str, columns: int) -> str:
    return textwrap.fill(note, 74 * columns)


def save_figure(figure: Figure, folder: Path, name: str, table: Any = None) -> list[Path]:
    """Write `<name>.pdf`, `<name>.png` (300 dpi) and the table (pandas) behind them as `<name>.csv`
    into `folder`.

    Equal figures and tables give equal bytes. Numbers in the CSV have six significant digits.
    """
    pdf, png, csv = (folder / f"{name}{ending}" for ending in (".pdf", ".png", ".csv"))
    figure.savefig(pdf, metadata={"CreationDate": None, "Title": name})
    figure.savefig(png, metadata={"Software": None})
    if table is None:
        return [pdf, png]
    table.to_csv(csv, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    return [pdf, png, csv]


def preview(figure: Figure) -> Any:
    """The figure for a notebook, at screen resolution: executed notebooks stay small."""
    from IPython.display import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PREVIEW_DPI)
    return Image(data=buffer.getvalue(), format="png")  # type: ignore[no-untyped-call]
