"""Paragraphs with marked words in red (VisCon-100K, figures 1 and 8), set word by word on
matplotlib axes.

A word is marked when it is no stop word and its stem is one of those given: what a page adds. It is
underlined too, so that print without colour tells the same. Coordinates are points, downwards, on
the axes of a `new_sheet`.
"""

import unicodedata
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

from vislib.figures.plots import CONTRAST, INK
from vislib.figures.statistics import stems
from vislib.media import pixels
from vislib.media.words import WORD, words

SIZE, LEADING = 6.5, 1.32  # points of text; distance of lines in text sizes
IMAGE_SIDE = 480  # px of an embedded image's longest side: about 300 dpi as printed
NOTHING: frozenset[str] = frozenset()
Piece = tuple[str, bool]  # text, whether it is a grounded word


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(text: str) -> bool:
    """Whether the font that matplotlib carries can set a text, word by word from left to right."""
    shown = set(text) - set(" \n\t\r")
    return all(
        ord(c) in _glyphs() and unicodedata.bidirectional(c) not in ("R", "AL", "AN") for c in shown
    )


def grounded(token: str, source: frozenset[str]) -> list[Piece]:
    """The pieces of a token: words, with whether all their stems are in `source`, and what stands
    between.
    """
    pieces, end = [], 0
    for match in WORD.finditer(token):
        found = stems(words(match[0])[0])
        pieces += [
            (token[end : match.start()], False),
            (match[0], bool(found) and source.issuperset(found)),
        ]
        end = match.end()
    return [piece for piece in (*pieces, (token[end:], False)) if piece[0]]


def wrap(
    text: str, source: frozenset[str], *, width: float, size: float = SIZE, max_lines: int = 99
) -> list[list[Piece]]:
    """Lines of at most `width` points; what is beyond `max_lines`, or of a token beyond a line,
    becomes "…".
    """
    lines: list[list[Piece]] = []
    space = _width("n n", size) - _width("nn", size)
    for paragraph in text.splitlines():
        room = 0.0
        for token in paragraph.split():
            token = shortened(token, width, size)
            length = _width(token, size)
            if length + space <= room:
                lines[-1].append((" ", False))
            elif len(lines) == max_lines:
                lines[-1].append((" …", False))
                return lines
            else:
                lines.append([])
                room = width + space
            lines[-1] += grounded(token, source)
            room -= length + space
    return lines


def _width(text: str, size: float, weight: str = "normal") -> float:
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def shortened(token: str, width: float, size: float) -> str:
    """A text that is cut, with an ellipsis, to at most `width` points."""
    if _width(token, size) <= width:
        return token
    return next(
        cut
        for n in range(len(token), -1, -1)
        if _width(cut := f"{token[:n]}…", size) <= width or not n
    )


def draw_text(
    axes: Axes,
    text: str,
    *,
    x: float,
    y: float,
    width: float,
    source: frozenset[str] = NOTHING,
    size: float = SIZE,
    max_lines: int = 99,
    **look: Any,
) -> float:
    """Set paragraphs from the top `y` down, words grounded in `source` red and underlined; returns
    the y below.
    """
    for line in wrap(text, source, width=width, size=size, max_lines=max_lines):
        start, base = x, y + size
        for marked, pieces in groupby(line, key=lambda piece: piece[1]):
            for run in [p for p, _ in pieces] if marked else ["".join(p for p, _ in pieces)]:
                end = start + _width(run, size, look.get("weight", "normal"))
                style = {"color": INK, **look, **({"color": CONTRAST} if marked else {})}
                axes.text(start, base, run, fontsize=size, va="baseline", **style)
                if marked:
                    axes.plot([start, end], [base + 1.1] * 2, color=CONTRAST, linewidth=0.4)
                start = end
        y += size * LEADING
    return y


def draw_image(axes: Axes, path: Path, *, x: float, y: float, width: float, height: float) -> float:
    """Draw an image as large as fits into the box, at its top left, in a hairline; returns the y
    below it.
    """
    picture = pixels.scaled(pixels.read_image(path), IMAGE_SIDE)
    scale = min(width / picture.width, height / picture.height)
    right, bottom = x + picture.width * scale, y + picture.height * scale
    axes.imshow(picture, extent=(x, right, bottom, y), aspect="auto")
    axes.plot([x, right, right, x, x], [y, y, bottom, bottom, y], color="0.6", linewidth=0.4)
    return bottom
