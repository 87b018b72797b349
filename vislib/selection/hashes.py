"""Near-duplicates by perceptual hash: copies re-encoded, resized or slightly brightened
(DenseFusion-1M, selection).
"""

from array import array
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray


def near_duplicates(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """For 64-bit `hashes` in order of precedence: -1 where one stays, else the place of the kept
    one it resembles.

    One goes if it differs in at most `distance` bits (-1: off) from one that stays; of several the
    nearest, then the first, is named. Two such hashes agree in one of `distance` + 1 bands of bits,
    so only those that share a band are compared. Equal hashes count once: a hundred thousand blank
    images cost one comparison.
    """
    found = np.full(len(hashes), -1, np.int64)
    if distance < 0:
        return found
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    # every n-th bit: the bits of neighbouring frequencies go together, and bands of them would fill
    # few buckets
    masks = [sum(1 << bit for bit in range(band, 64, distance + 1)) for band in range(distance + 1)]
    buckets: list[defaultdict[int, array[int]]] = [defaultdict(lambda: array("q")) for _ in masks]
    for place in np.sort(first).tolist():
        value = int(hashes[place])
        met = [bucket.get(value & mask) for bucket, mask in zip(buckets, masks, strict=True)]
        if shared := [np.frombuffer(places, np.int64) for places in met if places]:
            places = np.concatenate(shared)
            bits = np.bitwise_count(hashes[places] ^ hashes[place])
            if (nearest := bits.min()) <= distance:
                found[place] = places[bits == nearest].min()
        if found[place] < 0:
            del met, shared  # an array that is looked into cannot grow
            for bucket, mask in zip(buckets, masks, strict=True):
                bucket[value & mask].append(place)
    equal = first[same]  # the first of those with the same hash, and what became of it
    copies = equal != np.arange(len(hashes))
    found[copies] = np.where(found[equal] < 0, equal, found[equal])[copies]
    return found
