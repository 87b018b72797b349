"""Perceptual hashes that are few bits apart, found by DuckDB without comparing all with all.

Two 64-bit hashes within `distance` bits agree in one of `distance` + 1 bands of bits at least
(pigeonhole), so that a join on bands finds every such pair. Bands take every n-th bit: neighbouring
frequencies of a picture go together, and bands of them would fill few buckets.
"""

FLAT = 8  # bits: a picture without content, whose hash has fewer, resembles every other such one


def banded(table: str, distance: int) -> str:
    """SQL of `table` with a row per band of its column `hash` (UBIGINT), to be joined on `band`."""
    bands = []
    for band in range(distance + 1):
        mask = sum(1 << bit for bit in range(band, 64, distance + 1))
        bands.append(f"{{'number': {band}, 'bits': hash & {mask}}}")
    content = f"bit_count(hash) BETWEEN {FLAT} AND {64 - FLAT}"
    return f"(SELECT *, unnest([{', '.join(bands)}]) AS band FROM {table} WHERE {content})"
