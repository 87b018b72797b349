"""Perceptual hashes of pictures and of their parts, and those few bits apart, found by DuckDB
without comparing all with all.

Two 64-bit hashes that differ in fewer bits than there are bands agree in one band at least
(pigeonhole), so that a join on bands finds every such pair; if one side also has each band with one
bit changed, fewer and longer bands do. Bands take every n-th bit: neighbouring frequencies of a
picture go together, and bands of them would fill few buckets.
"""

from itertools import product

import numpy as np
from PIL import Image, ImageOps

from vislib.media.pixels import scaled

FLAT = 8  # bits: a picture without content, whose hash has fewer, resembles every other such one
# Parts in tenths of width and height, all of it first: a crop lies half a tenth beside one at most.
_PARTS = [
    (left, top, left + across, top + down)
    for across, down in product((10, 9, 8, 7), repeat=2)
    for left, top in product(range(11 - across), range(11 - down))
]


def banded(table: str, bands: int, *, reach: bool = False) -> str:
    """SQL of `table` with a row per band of its column `hash` (UBIGINT), to be joined on `band`.

    With `reach` also a row for each band with one bit changed.
    """
    keys = []
    for band in range(bands):
        bits = [1 << bit for bit in range(band, 64, bands)]
        flips = [0]  # none first: the band as it is
        if reach:
            flips += bits
        for flip in flips:
            key = f"xor(hash & {sum(bits)}::UBIGINT, {flip}::UBIGINT)"
            # with its number: equal bits of two bands mean nothing
            keys.append(f"{{'number': {band}, 'bits': {key}}}")
    content = f"bit_count(hash) BETWEEN {FLAT} AND {64 - FLAT}"
    return f"(SELECT *, unnest([{', '.join(keys)}]) AS band FROM {table} WHERE {content})"


def part_hashes(image: Image.Image) -> list[int]:
    """Hashes (ImageHash's `phash`) of a picture mirrored, of all of it, and of its parts from half
    its area on.
    """
    import imagehash

    # phash looks at 32 pixels a side, and a part is half of it at least
    small = scaled(image.convert("L"), 128)
    width, height = small.size
    tenths = np.array([width, height, width, height]) / 10
    tiles = [ImageOps.mirror(small)]
    for left, top, right, bottom in np.array(_PARTS) * tenths:
        tiles.append(small.crop((left, top, right, bottom)))
    return [int(str(imagehash.phash(tile)), 16) for tile in tiles]
