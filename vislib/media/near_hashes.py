"""Perceptual hashes of pictures and of their parts, and those few bits apart, found by DuckDB
without comparing all with all.

The hash is ImageHash's `phash`: the signs of an 8 x 8 corner of the DCT about their median. Two
64-bit hashes that differ in fewer bits than there are bands agree in one band at least
(pigeonhole), so that a join on bands finds every such pair; if one side also has each band with one
bit changed, fewer and longer bands do. Bands take every n-th bit: neighbouring frequencies of a
picture go together, and bands of them would fill few buckets.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.fft import dctn

from vislib.media.pixels import scaled

FLAT = 8  # bits: a picture without content, whose hash has fewer, resembles every other such one
_SIDES = (1.0, 0.9, 0.8, 0.7)  # of a part, as shares of width and height: the first part is all
_STEP = 0.1  # between parts: a crop lies half of it beside one at most
_PX = 128  # longest side that parts are cut from


def banded(table: str, bands: int, *, reach: bool = False) -> str:
    """SQL of `table` with a row per band of its column `hash` (UBIGINT), to be joined on `band`.

    With `reach` also a row for each band with one bit changed.
    """
    keys = []
    for band in range(bands):
        bits = [1 << bit for bit in range(band, 64, bands)]
        for flip in [0, *bits] if reach else [0]:
            key = f"xor(hash & {sum(bits)}::UBIGINT, {flip}::UBIGINT)"
            keys.append(f"{{'number': {band}, 'bits': {key}}}")
    content = f"bit_count(hash) BETWEEN {FLAT} AND {64 - FLAT}"
    return f"(SELECT *, unnest([{', '.join(keys)}]) AS band FROM {table} WHERE {content})"


def part_hashes(image: Image.Image) -> NDArray[np.uint64]:
    """Hashes of a picture mirrored, of all of it, and of its parts from half its size on."""
    small = scaled(image.convert("L"), _PX)
    tiles = [np.asarray(ImageOps.mirror(small).resize((32, 32), Image.Resampling.LANCZOS))]
    for across, down in product(_SIDES, _SIDES):
        # in tenths: sums of floats would lose the last place
        lefts, tops = (np.arange(round((1 - side) / _STEP) + 1) * _STEP for side in (across, down))
        for left, top in product(lefts, tops):
            edges = np.array([left, top, left + across, top + down]).clip(max=1) * (small.size * 2)
            tiles.append(np.asarray(small.resize((32, 32), Image.Resampling.LANCZOS, tuple(edges))))
    corner = dctn(np.stack(tiles).astype(float), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    signs = corner > np.median(corner, axis=1, keepdims=True)
    return np.packbits(signs, axis=1).view(">u8").ravel().astype(np.uint64)
