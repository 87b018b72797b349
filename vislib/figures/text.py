"""Paragraphs with marked words in red (VisCon-100K, figures 1 and 8), set word by word.

Matplotlib sets a line in one colour; here a word that the page adds is red and underlined, so that
print without colour tells the same. A `new_sheet` is filled downwards, in points, by one
column or several.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

from vislib.figures.style import CONTRAST, GREY, INK, SMALL_PRINT, WIDTHS, start_style, wrapped
from vislib.media import pixels
from vislib.media.stems import marked

SIZE, LEADING = 6.5, 1.32  # points of text; distance of lines in text sizes
_TOP = 2.0  # points above the first line of a sheet
IMAGE_DPI = 240  # of embedded pictures, as printed
NOTHING: frozenset[str] = frozenset()
_GLYPHS = get_font(findfont("DejaVu Sans")).get_charmap().keys()


def drawable(text: str) -> bool:
    """Whether the font that matplotlib carries can set a text, word by word from left to right."""
    shown = set("".join(text.split()))
    # right-to-left scripts need shaping, which matplotlib lacks
    directions = set(map(unicodedata.bidirectional, shown))
    return set(map(ord, shown)) <= _GLYPHS and directions.isdisjoint(("R", "AL", "AN"))


def text_width(text: str, size: float) -> float:
    """Points that a text takes on a line."""
    # measured as drawn: at the size of print, without hinting
    font = FontProperties(family="DejaVu Sans", size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def shortened(text: str, width: float, size: float) -> str:
    """A text that is cut, with an ellipsis, to at most `width` points."""
    shown = text
    while text and text_width(shown, size) > width:
        # from the end: texts are cut by a few letters mostly
        text = text[:-1]
        shown = f"{text}…"
    return shown


def wrap(text: str, *, width: float, size: float = SIZE, max_lines: int = 99) -> list[str]:
    """Lines of at most `width` points; what is beyond `max_lines`, or of a word beyond a line,
    becomes "…".
    """
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if text_width(longer := f"{line} {word}".strip(), size) <= width:
                line = longer
            else:
                lines.append(line)
                # an address may be longer than a line
                line = shortened(word, width, size)
        lines.append(line)
    lines = list(filter(None, lines))
    if len(lines) > max_lines:
        lines[max_lines - 1 :] = [f"{lines[max_lines - 1]} …"]
    return lines


def new_sheet() -> tuple[Figure, "Column"]:
    """A two-column figure for text and images, bare, and the column that fills it."""
    start_style()
    # as high as wide at first; `trim_sheet` knows what was filled
    figure = Figure(figsize=(WIDTHS[2], WIDTHS[2]))
    width = WIDTHS[2] * 72
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(width, 0), autoscale_on=False)
    axes.axis("off")
    return figure, Column(axes, 1, width - 2, _TOP)


def trim_sheet(figure: Figure, sheet: "Column", *, note: str, otherwise: str = "") -> None:
    """Give a sheet the height that was drawn on it, and small print below; a sheet on which nothing
    was drawn says `otherwise`.
    """
    if sheet.y == _TOP:
        sheet.write(otherwise)
    small = wrapped(note, 2)
    sheet.axes.text(sheet.width + 1, sheet.y, small, va="top", **SMALL_PRINT)
    height = sheet.y + 12 + 7 * small.count("\n")
    figure.set_figheight(height / 72)
    sheet.axes.set_ylim(height, 0)


@dataclass
class Column:
    """A column of a sheet that is filled from `y` downwards, in points."""

    axes: Axes
    x: float
    width: float
    y: float

    def column(self, x: float, width: float) -> "Column":
        """Another column, from this one's `y` on, `x` from this one's left edge."""
        return Column(self.axes, self.x + x, width, self.y)

    def hang(self, heading: str, indent: float) -> None:
        """Set a heading `indent` points to the left of the line that is written next."""
        place = self.x - indent, self.y + 5.5
        self.axes.text(*place, heading, fontsize=5.5, weight="bold", color=GREY)

    def write(
        self,
        text: str,
        *,
        source: frozenset[str] = NOTHING,
        size: float = SIZE,
        max_lines: int = 99,
        **look: Any,
    ) -> None:
        """Set paragraphs, words whose stems are all in `source` red and underlined."""
        look = {"fontsize": size, "color": INK, **look}
        for line in wrap(text, width=self.width, size=size, max_lines=max_lines):
            left = self.x
            base = self.y + size
            for piece, is_marked in marked(line, source):
                right = left + text_width(piece, size)
                drawn = self.axes.text(left, base, piece, **look)
                if is_marked:
                    drawn.set_color(CONTRAST)
                    below = base + 1.1
                    self.axes.plot([left, right], [below, below], color=CONTRAST, linewidth=0.4)
                left = right
            self.y += size * LEADING

    def draw(self, path: str, *, height: float) -> Bbox:
        """Draw an image as large as fits, at the left, in a hairline; returns where."""
        picture = pixels.read_image(path)
        # small pictures are enlarged too: what is shown must be seen
        scale = min(self.width / picture.width, height / picture.height)
        box = Bbox.from_bounds(self.x, self.y, picture.width * scale, picture.height * scale)
        # no more pixels than print shows: the file stays small whatever the photograph
        shown = pixels.scaled(picture, round(max(box.size) / 72 * IMAGE_DPI))
        extent = box.x0, box.x1, box.y1, box.y0
        self.axes.imshow(shown, extent=extent, aspect="auto", zorder=2)
        outline = box.corners()[[0, 1, 3, 2, 0]]
        self.axes.plot(*outline.T, color="0.5", linewidth=0.4, zorder=2)
        self.y = box.y1
        return box
