"""Ids and seeded choices by hash, so that the order of rows and the number of workers never change
a result.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

Row = TypeVar("Row")


def short_hash(*parts: str | bytes) -> str:
    """First 16 hex digits of SHA-256 over `parts` joined by NUL: every id of the data contract."""
    # half a character, as broken pages hold, still has an id
    encoded = (p if isinstance(p, bytes) else p.encode("utf-8", "surrogatepass") for p in parts)
    # NUL between parts: ("ab", "c") and ("a", "bc") are two things
    return hashlib.sha256(b"\0".join(encoded)).hexdigest()[:16]


def seeded(seed: int, *parts: str) -> int:
    """A 64-bit integer drawn from `seed` and `parts`; equal input, equal output, on any machine."""
    return int(short_hash(str(seed), *parts), 16)


def choose(
    rows: Iterable[Row], limit: int, seed: int, *, key: Callable[[Row], str] = str
) -> list[Row]:
    """Choose `limit` rows by the hash of seed and key (0: all), in their original order."""
    # ranks by hash, not random.sample: a row keeps its rank whatever other rows are there
    kept = list(rows)
    if limit <= 0 or limit >= len(kept):
        return kept
    # the place breaks ties between equal keys
    ranked = sorted(range(len(kept)), key=lambda i: (seeded(seed, key(kept[i])), i))
    return [kept[i] for i in sorted(ranked[:limit])]
