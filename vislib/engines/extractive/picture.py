"""What can be measured in a picture without a model: format, light, named colours and where they lie.

The honest visual part of the embedded baseline, which stands where VisCon-100K (section 3.2) has GPT-4V look at
the image. Every fact is a number; whoever speaks of it leaves a margin, and what lies inside is not said.
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
_TABLE: dict[str, Any] = tomllib.loads((Path(__file__).parent / "colours.toml").read_text(encoding="utf-8"))
NEIGHBOURS: dict[str, list[str]] = _TABLE["neighbours"]
_SIDE = 96  # px a side, at most, of the copy that is measured
_LEAST = 16  # px a side, below which colours and places mean nothing
CELLS = (
    "in the upper left", "at the top, in the middle", "in the upper right",
    "on the left", "in the centre", "on the right",
    "in the lower left", "at the bottom, in the middle", "in the lower right",
)  # fmt: skip


@dataclass(frozen=True)
class Colour:
    """One named colour of an area: its family, its usual shade there, and the part of the area that it covers."""

    family: str
    shade: str
    share: float


@dataclass(frozen=True)
class Picture:
    """Measured facts. `areas` names the colours of each area, widest first; light is mean luma of 0-255."""

    width: int
    height: int
    grey: bool
    light: float
    contrast: float  # standard deviation of luma
    even: float  # part of neighbouring pixels that are exactly equal: near 1 in drawings and screenshots
    areas: Mapping[str, tuple[Colour, ...]]  # all, border, and parts of the picture by name
    corners: Mapping[str, float]  # mean light of each quarter
    detail: Mapping[str, float]  # mean difference of neighbouring pixels in each quarter
    spots: Mapping[str, tuple[str, tuple[str, ...]]]  # family -> the one cell that holds it, and cells without it


def measure(image: Image.Image) -> Picture | None:
    """Facts of an RGB picture; None for one too small to speak of."""
    if min(image.size) < _LEAST:
        return None
    step = max(1, image.height // 48)
    rows = np.concatenate([np.asarray(image.crop((0, y, image.width, y + 1))) for y in range(0, image.height, step)])
    size = min(_SIDE, image.width), min(_SIDE, image.height)  # each side by itself: shares of the area stay
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.int16)
    luma, spread = pixels @ np.array([0.299, 0.587, 0.114]), np.ptp(pixels, axis=2)
    shades, quarters = _shades(pixels / 255), _quarters(luma)
    return Picture(
        width=image.width, height=image.height, light=float(luma.mean()), contrast=float(luma.std()),
        grey=bool(spread.mean() < 3 and np.percentile(spread, 99.5) < 16),
        even=float((np.diff(rows.astype(np.int16), axis=1) == 0).all(axis=2).mean()),
        areas=_areas(shades), spots=_spots(shades), corners={k: float(part.mean()) for k, part in quarters.items()},
        detail={k: float(sum(np.abs(np.diff(part, axis=i)).mean() for i in (0, 1))) for k, part in quarters.items()},
    )  # fmt: skip


def _shades(rgb: Array) -> Array:
    """The name of each pixel, values 0-1, by the first row of the table that holds."""
    r, g, b = (rgb[..., i] for i in range(3))
    value, chroma = rgb.max(axis=2), np.ptp(rgb, axis=2)
    c = np.maximum(chroma, 1e-6)
    hue = 60 * np.select([value == r, value == g], [((g - b) / c) % 6, (b - r) / c + 2], (r - g) / c + 4)
    saturation = np.where(chroma < 0.075, 0, chroma / np.maximum(value, 1e-6))
    masks = []
    for _, h0, h1, v0, v1, s0, s1 in _TABLE["shades"]:
        turn = (hue >= h0) & (hue < h1) | (hue + 360 >= h0) & (hue + 360 < h1)
        masks.append(turn & (value >= v0) & (value < v1) & (saturation >= s0) & (saturation < s1))
    return np.select(masks, [row[0] for row in _TABLE["shades"]], "grey")


def _colours(shades: Array) -> tuple[Colour, ...]:
    """The families of an area that cover at least a thousandth of it, widest first."""
    names, counts = np.unique(shades, return_counts=True)
    found: dict[str, list[tuple[int, str]]] = {}
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        found.setdefault(name.rpartition(" ")[2], []).append((count, name))
    colours = []
    for family, parts in found.items():
        total, (usual, name) = sum(count for count, _ in parts), max(parts)
        colours.append(Colour(family, name if usual > 0.6 * total else family, total / shades.size))
    return tuple(sorted((c for c in colours if c.share >= 0.001), key=lambda c: (-c.share, c.family)))


def _areas(shades: Array) -> dict[str, tuple[Colour, ...]]:
    rows, columns = np.array_split(shades, 3), np.array_split(shades, 3, axis=1)
    edge = max(1, min(shades.shape) // 12)
    border = [part.ravel() for part in (shades[:edge], shades[-edge:], shades[:, :edge], shades[:, -edge:])]
    areas = {
        "all": shades, "border": np.concatenate(border), "upper third": rows[0], "lower third": rows[2],
        "left third": columns[0], "right third": columns[2], "middle": np.array_split(rows[1], 3, axis=1)[1],
    }  # fmt: skip
    return {name: _colours(area) for name, area in areas.items()}


def _quarters(values: Array) -> dict[str, Array]:
    halves = zip(("upper", "lower"), np.array_split(values, 2), strict=True)
    return {
        f"{row} {side}": part for row, half in halves
        for side, part in zip(("left", "right"), np.array_split(half, 2, axis=1), strict=True)
    }  # fmt: skip


def _spots(shades: Array) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Families of 0.4 to 20 % of the picture, three quarters of them in one of nine cells."""
    cells = [cell for row in np.array_split(shades, 3) for cell in np.array_split(row, 3, axis=1)]
    spots = {}
    for family in set(NEIGHBOURS) - {"black", "white", "grey"}:  # these make edges everywhere
        counts = np.array([np.char.endswith(cell, family).sum() for cell in cells])
        if 0.004 <= counts.sum() / shades.size <= 0.2 and counts.max() >= 0.75 * counts.sum():
            without = tuple(CELLS[i] for i in np.flatnonzero(counts <= 0.03 * counts.sum()))
            spots[family] = (CELLS[int(counts.argmax())], without)
    return dict(sorted(spots.items()))
