"""Paragraphs with marked words in red (VisCon-100K, figures 1 and 8), set word by word.

Matplotlib sets a line in one colour; here a word that the page adds is red and underlined, so that
print without colour tells the same. A `new_sheet` is filled downwards, in points, by one
column or several.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox

from vislib.figures.statistics import stems
from vislib.figures.style import (
    CONTRAST,
    INK,
    Look,
    figure_size,
    start_style,
    wrapped,
)
from vislib.media import pixels
from vislib.media.words import WORD, words

SIZE, LEADING = 6.5, 1.32  # points of text; distance of lines in text sizes
IMAGE_DPI = 240  # of embedded pictures, as printed
NOTHING: frozenset[str] = frozenset()


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(text: str) -> bool:
    """Whether the font that matplotlib carries can set a text, word by word from left to right."""
    shown = set(text) - set(" \n\t\r")
    # right-to-left scripts need shaping, which matplotlib lacks
    directions = {unicodedata.bidirectional(character) for character in shown}
    return _glyphs().issuperset(map(ord, shown)) and directions.isdisjoint(("R", "AL", "AN"))


def marked(token: str, source: frozenset[str]) -> list[tuple[str, bool]]:
    """The pieces of a token, and whether each is a word all of whose stems are in `source`."""
    pieces, end = [], 0
    for match in WORD.finditer(token):
        found = stems(words(match[0])[0])
        # a stop word has no stem, and is nobody's addition
        is_marked = bool(found) and source.issuperset(found)
        pieces += [
            (token[end : match.start()], False),
            (match[0], is_marked),
        ]
        end = match.end()
    return [*pieces, (token[end:], False)]


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Points that a text takes on a line."""
    # measured as drawn: at the size of print, without hinting
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def shortened(text: str, width: float, size: float) -> str:
    """A text that is cut, with an ellipsis, to at most `width` points."""
    if text_width(text, size) <= width:
        return text
    cut = len(text)
    # from the end: texts are cut by a few letters mostly
    while cut and text_width(f"{text[:cut]}…", size) > width:
        cut -= 1
    return f"{text[:cut]}…"


def wrap(text: str, *, width: float, size: float = SIZE, max_lines: int = 99) -> list[str]:
    """Lines of at most `width` points; what is beyond `max_lines`, or of a word beyond a line,
    becomes "…".
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            # an address may be longer than a line
            word = shortened(word, width, size)
            if line and text_width(f"{line} {word}", size) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines += [line] if line else []
    return (
        lines if len(lines) <= max_lines else [*lines[: max_lines - 1], f"{lines[max_lines - 1]} …"]
    )


def new_sheet() -> tuple[Figure, "Column"]:
    """A two-column figure for text and images, bare, and the column that fills it."""
    start_style()
    # as high as wide at first; `trim_sheet` knows what was filled
    figure = Figure(figsize=figure_size(columns=2, aspect=1))
    width = figure.get_figwidth() * 72
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(width, 0), autoscale_on=False)
    axes.axis("off")
    return figure, Column(axes, 1, width - 2, 2)


def trim_sheet(figure: Figure, sheet: "Column", *, note: str) -> None:
    """Give a sheet the height that was drawn on it, and small print below."""
    for line in wrapped(note, 2).splitlines():
        left = sheet.width - text_width(line, 5.5)
        sheet.column(left, sheet.width).write(line, size=5.5, color="0.35")
        sheet.y += 7
    width, height = figure.get_figwidth() * 72, sheet.y + 4
    figure.set_size_inches(width / 72, height / 72)
    sheet.axes.set(xlim=(0, width), ylim=(height, 0))


@dataclass
class Column:
    """A column that is filled from `y` downwards; in units of its axes, which are points on a
    sheet.
    """

    axes: Axes
    x: float
    width: float
    y: float

    def column(self, x: float, width: float) -> "Column":
        """Another column, from this one's `y` on, `x` from this one's left edge."""
        return Column(self.axes, self.x + x, width, self.y)

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
        for line in wrap(text, width=self.width, size=size, max_lines=max_lines):
            style = {"fontsize": size, "color": INK, **look}
            _draw_line(self.axes, line, self.x, self.y + size, source, style)
            self.y += size * LEADING

    def draw(self, path: str, *, height: float) -> Bbox:
        """Draw an image as large as fits, at the left, in a hairline; returns where."""
        picture = pixels.read_image(path)
        # small pictures are enlarged too: what is shown must be seen
        scale = min(self.width / picture.width, height / picture.height)
        box = Bbox.from_bounds(self.x, self.y, picture.width * scale, picture.height * scale)
        # no more pixels than print shows: the file stays small whatever the photograph
        pixel = self.axes.transData.transform_bbox(box)
        inches = max(abs(pixel.width), abs(pixel.height)) / self.axes.figure.dpi
        shown = pixels.scaled(picture, round(inches * IMAGE_DPI))
        look: Look = {"aspect": "auto", "zorder": 2}
        self.axes.imshow(shown, extent=(box.x0, box.x1, box.y1, box.y0), **look)
        outline = box.corners()[[0, 1, 3, 2, 0]]
        self.axes.plot(*outline.T, color="0.5", linewidth=0.4, zorder=2)
        self.y = box.y1
        return box


def _draw_line(
    axes: Axes,
    line: str,
    x: float,
    base: float,
    source: frozenset[str],
    look: Look,
) -> None:
    plain = ""
    # the last, empty one sets what is still to be set
    for piece, is_marked in [*marked(line, source), ("", True)]:
        if not is_marked:
            plain += piece
            continue
        # what stands between two marked words is set in one go
        axes.text(x, base, plain, va="baseline", **look)
        left = x + text_width(plain, look["fontsize"], look.get("weight", "normal"))
        x, plain = left + text_width(piece, look["fontsize"]), ""
        if piece:
            axes.text(
                left,
                base,
                piece,
                va="baseline",
                **look | {"color": CONTRAST},
            )
            axes.plot([left, x], [base + 1.1] * 2, color=CONTRAST, linewidth=0.4)
