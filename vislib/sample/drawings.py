"""Charts, signs and diagrams from their descriptions in `drawings.toml`: visible text for the pipeline to read.

A chart names its kind and numbers and is plotted by matplotlib. A drawing is a list of shapes, one per line,
in px from the top left: `box X Y W H FILL [TEXT [SIZE [INK]]]`, `circle X Y R FILL [TEXT [SIZE [INK]]]`,
`pie X Y R FROM TO FILL`, `poly FILL X Y …`, `line INK WIDTH X Y …`, `arrow INK WIDTH X Y …`,
`text X Y SIZE INK TEXT [ANCHOR]`. The same description gives the same bytes.
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_FINE = 3  # drawn three times as large, then reduced: smooth edges
_COLOURS = ("#2a6f97", "#e07a3f", "#4f9d69", "#8a5a9e", "#c9a227", "#7f8c8d", "#b23a48", "#3d5a80")


def encoded(entry: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    """A chart or drawing of `size` px as PNG, without time or software in it."""
    return _plot(entry, size) if "chart" in entry else _draw(entry, size)


def _draw(entry: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    picture = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), entry.get("paper", "white"))
    pen = ImageDraw.Draw(picture)
    for line in entry["draw"].strip().splitlines():
        verb, *words = shlex.split(line)
        _SHAPES[verb](pen, words)
    file = BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(file, format="png")
    return file.getvalue()


def _px(words: Sequence[str]) -> list[float]:
    return [float(word) * _FINE for word in words]


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size * _FINE, layout_engine=ImageFont.Layout.BASIC)


def _label(pen: ImageDraw.ImageDraw, at: tuple[float, float], words: Sequence[str]) -> None:
    if words:
        text, size, ink = (*words, *("", "16", "black")[len(words) :])
        lines = text.replace("|", "\n")
        pen.multiline_text(at, lines, fill=ink, font=_font(float(size)), anchor="mm", align="center")


def _box(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    x, y, w, h = _px(words[:4])
    pen.rectangle((x, y, x + w, y + h), fill=words[4], outline="#333333", width=_FINE)
    _label(pen, (x + w / 2, y + h / 2), words[5:])


def _circle(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    x, y, r = _px(words[:3])
    pen.ellipse((x - r, y - r, x + r, y + r), fill=words[3], outline="#333333", width=_FINE)
    _label(pen, (x, y), words[4:])


def _pie(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    x, y, r = _px(words[:3])
    pen.pieslice((x - r, y - r, x + r, y + r), float(words[3]), float(words[4]), fill=words[5])


def _poly(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    pen.polygon(_px(words[1:]), fill=words[0])


def _line(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    pen.line(_px(words[2:]), fill=words[0], width=round(float(words[1]) * _FINE), joint="curve")


def _arrow(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    _line(pen, words)
    x0, y0, x1, y1 = _px(words[-4:])
    length, angle = (6 + 3 * float(words[1])) * _FINE, math.atan2(y1 - y0, x1 - x0)
    sides = [(x1 - length * math.cos(angle + turn), y1 - length * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
    pen.polygon([(x1 + _FINE * math.cos(angle), y1 + _FINE * math.sin(angle)), *sides], fill=words[0])


def _text(pen: ImageDraw.ImageDraw, words: list[str]) -> None:
    x, y, ink, lines = *_px(words[:2]), words[3], words[4].replace("|", "\n")
    anchor = words[5] if len(words) > 5 else "mm"
    pen.multiline_text((x, y), lines, fill=ink, font=_font(float(words[2])), anchor=anchor, align="center")


_SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, list[str]], None]] = {
    "box": _box, "circle": _circle, "pie": _pie, "poly": _poly, "line": _line, "arrow": _arrow, "text": _text,
}  # fmt: skip


def _plot(entry: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    file = BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
        figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
        axes = figure.add_subplot()
        _PLOTS[entry["chart"]](axes, entry)
        axes.set_title(entry["title"])
        axes.set(**entry.get("axes", {}))
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _bars(axes: Any, entry: Mapping[str, Any]) -> None:
    names, values = list(entry["data"]), list(entry["data"].values())
    bars = axes.barh(names[::-1], values[::-1], color=_COLOURS[0])
    axes.bar_label(bars, labels=[f"{value:,}" for value in values[::-1]], padding=3)
    axes.margins(x=0.12)


def _columns(axes: Any, entry: Mapping[str, Any]) -> None:
    bars = axes.bar(list(entry["data"]), list(entry["data"].values()), color=_COLOURS[1])
    axes.bar_label(bars, labels=[f"{value:,}" for value in entry["data"].values()], padding=2)
    axes.margins(y=0.12)


def _lines(axes: Any, entry: Mapping[str, Any]) -> None:
    for (name, values), colour in zip(entry["data"].items(), _COLOURS, strict=False):
        axes.plot(entry["x"], values, entry.get("style", "o-"), color=colour, label=name)
    axes.grid(alpha=0.3)
    if len(entry["data"]) > 1:
        axes.legend(frameon=False)


def _slices(axes: Any, entry: Mapping[str, Any]) -> None:
    labels = [f"{name} {value} %" for name, value in entry["data"].items()]
    axes.pie(list(entry["data"].values()), labels=labels, colors=_COLOURS, startangle=90, counterclock=False)


_PLOTS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "bars": _bars, "columns": _columns, "lines": _lines, "slices": _slices,
}  # fmt: skip
