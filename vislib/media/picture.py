"""What can be measured in a picture without a model: format, light and named colours.

The visual part of the baselines that stand where VisCon-100K (section 3.2) and DenseFusion-1M ask a
model: the `extractive` engine. Every fact is a number; what lies near a
bound is not said.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
_TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
NEIGHBOURS: dict[str, list[str]] = _TABLE["neighbours"]
_SIDE = 96  # px a side, at most, of the copy that is measured
_QUARTERS = ("upper left", "upper right", "lower left", "lower right")
_LEAST = 16  # px a side, below which colours and places mean nothing


@dataclass(frozen=True)
class Colour:
    """One named colour of a picture: its family, its usual shade, and its share (0-1)."""

    family: str
    shade: str
    share: float


@dataclass(frozen=True)
class Picture:
    """Measured facts."""

    width: int
    height: int
    grey: bool
    colours: tuple[Colour, ...]  # the widest first
    quarters: Mapping[str, float]  # mean luma of each quarter, 0-255


def measure(image: Image.Image) -> Picture | None:
    """Facts of an RGB picture; None for one too small to speak of."""
    if min(image.size) < _LEAST:
        return None
    size = min(_SIDE, image.width), min(_SIDE, image.height)
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.int16)
    luma = Image.fromarray(pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))
    light = np.asarray(luma.resize((2, 2), Image.Resampling.BOX)).ravel().tolist()
    spread = np.ptp(pixels, axis=2)
    return Picture(
        width=image.width,
        height=image.height,
        grey=bool(spread.mean() < 3 and np.percentile(spread, 99.5) < 16),
        colours=_colours(_shades(pixels / 255)),
        quarters=dict(zip(_QUARTERS, light, strict=True)),
    )


def _shades(rgb: Array) -> Array:
    """The name of each pixel, values 0-1, by the first row of the table that holds."""
    r, g, b = rgb[..., 0, None], rgb[..., 1, None], rgb[..., 2, None]
    value = rgb.max(axis=2, keepdims=True)
    chroma = np.ptp(rgb, axis=2, keepdims=True)
    # Hue of HSV, in sixths of a turn by which of the three is the largest.
    c = np.maximum(chroma, 1e-6)
    turns = np.select(
        [value == r, value == g], [((g - b) / c) % 6, (b - r) / c + 2], (r - g) / c + 4
    )
    hue = 60 * turns
    # A faint chroma is noise of the file's compression, and no colour.
    saturation = np.where(chroma < 0.075, 0, chroma / np.maximum(value, 1e-6))
    names, *bounds = zip(*_TABLE["shades"], strict=True)
    h0, h1, v0, v1, s0, s1 = map(np.array, bounds)
    holds = (hue >= h0) & (hue < h1)
    holds |= (hue + 360 >= h0) & (hue + 360 < h1)  # reds go on past 360 degrees
    holds &= (value >= v0) & (value < v1) & (saturation >= s0) & (saturation < s1)
    named: Array = np.array(names)[holds.argmax(axis=-1)]
    return named


def _colours(shades: Array) -> tuple[Colour, ...]:
    """The families that cover at least a thousandth of the picture, widest first."""
    names, counts = np.unique(shades, return_counts=True)
    found: dict[str, list[tuple[int, str]]] = {}
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        found.setdefault(name.rpartition(" ")[2], []).append((count, name))
    colours = []
    for family, parts in found.items():
        # "light blue" is said where it is most of the blue, else "blue".
        total = sum(count for count, _ in parts)
        usual, name = max(parts)
        shade = name if usual > 0.6 * total else family
        colours.append(Colour(family, shade, total / shades.size))
    kept = (colour for colour in colours if colour.share >= 0.001)
    return tuple(sorted(kept, key=lambda colour: (-colour.share, colour.family)))
