"""What resembles what: perceptual hashes, k-means on unit vectors, and semantic de-duplication in
each cluster (DenseFusion-1M, selection; SemDeDup).

The rows of `vectors` are in order of image_id, and chance comes from the seed: the order of tables
changes nothing. Vectors stay on disk; memory holds the centres, twice, and blocks of 64 MB. On
paper, 1 M images at 512 dimensions and the paper's 280 a cluster (k = 3,571): 2 GB of vectors,
mapped, so that the system takes them back when it needs to; centres 15 MB; columns of ids, links
and results 1 GB; transformers and the model 1.5 GB: below 6 GiB in all.
"""

import warnings
from array import array
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from vislib.selection.vectors import Vectors

PER_CLUSTER = 280  # the paper's 14 M images in 50,000 clusters
_WHOLE = 16_384  # rows up to which k-means reads all of them in every step
_BATCH = 4096  # rows of one step beyond that, or as many as clusters
_PASSES = 4  # how often each is read
_PLUS_PLUS = 256  # clusters up to which k-means++ chooses the first centres, among a batch of rows
_BLOCK = 2**24  # values of one block of similarities: 64 MB
Ints = NDArray[np.int64]


def cluster(vectors: Vectors, k: int, seed: int) -> tuple[Ints, NDArray[np.float32]]:
    """Cluster of each row, and its distance (1 - cosine) to the centre; clusters numbered by size,
    then first row.

    At most `k`, and no more than rows; those that stay empty have no number.
    """
    centres = _centres(vectors, min(k, len(vectors)), seed)
    labels = np.empty(len(vectors), np.int64)
    distances = np.empty(len(vectors), np.float32)
    step = max(1, _BLOCK // len(centres))
    for start in range(0, len(vectors), step):
        near = vectors[start : start + step] @ centres.T
        labels[start : start + step] = near.argmax(axis=1)
        distances[start : start + step] = np.maximum(1 - near.max(axis=1), 0)
    _, first, labels, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    number = np.argsort(np.lexsort((first, -sizes)))
    return number[labels], distances


def _centres(vectors: Vectors, k: int, seed: int) -> Vectors:
    """Unit centres by k-means; beyond `_WHOLE` rows streamed in seeded shuffled batches, each read
    in order of rows.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
    from threadpoolctl import threadpool_limits

    chance = np.random.default_rng(seed)
    n, batch = len(vectors), max(_BATCH, k)
    drawn = k if k > _PLUS_PLUS else min(n, batch)
    some = vectors[np.sort(chance.choice(n, drawn, replace=False))]
    # Its time grows with k squared: at k = 50,000 it takes longer than k-means itself.
    if k <= _PLUS_PLUS:
        first, _ = kmeans_plusplus(some.astype(np.float64), k, random_state=seed)
        some = first.astype(np.float32)
    if n <= _WHOLE:
        # More than two threads would add up in any order; and of equal images some clusters stay
        # empty, with a warning.
        with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
            model = KMeans(k, init=some, n_init=1, max_iter=100).fit(vectors)
    else:
        model = MiniBatchKMeans(k, init=some, n_init=1, random_state=seed, compute_labels=False)
        for _ in range(_PASSES):
            order = chance.permutation(n)
            for start in range(0, n, batch):
                model.partial_fit(vectors[np.sort(order[start : start + batch])])
    centres: Vectors = np.asarray(model.cluster_centers_, np.float32)
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    centres /= np.maximum(norms, np.finfo(np.float32).tiny)
    return centres


def by_cluster(labels: Ints, distances: NDArray[np.float32]) -> list[Ints]:
    """Rows of each cluster, closest to the centre first, ties in order of rows."""
    order = np.lexsort((distances, labels))
    begins = np.searchsorted(labels[order], np.arange(1, labels.max(initial=0) + 1))
    return np.split(order, begins)


def semantic_duplicates(
    vectors: Vectors, members: Ints, epsilon: float, block: int = 1024
) -> tuple[Ints, Vectors]:
    """For the `members` of one cluster in order: the kept row that each resembles, or -1; and 1 -
    cosine to it.

    A member goes if its cosine to one that stays is above 1 - `epsilon` (0: off); the most similar
    is named. SemDeDup itself compares with all members before, those already dropped too, so that a
    chain of small steps shrinks to its first: here what resembles only a dropped image stays. It
    also keeps the outermost first; here the most typical.
    """
    found = np.full(len(members), -1, np.int64)
    apart = np.zeros(len(members), np.float32)
    kept: list[int] = []  # places in `members`
    for start in range(0, len(members) if epsilon > 0 else 0, block):
        mine = vectors[members[start : start + block]]
        # The highest cosine of each row to one that stays, and which: first to those of the blocks
        # before, then row by row to those of its own.
        best = np.full(len(mine), -np.inf, np.float32)
        nearest = np.full(len(mine), -1, np.int64)
        for at in range(0, len(kept), block):
            places = np.array(kept[at : at + block])
            cosines = mine @ vectors[members[places]].T
            closer = cosines.max(axis=1) > best
            best[closer] = cosines.max(axis=1)[closer]
            nearest[closer] = places[cosines.argmax(axis=1)[closer]]
        own = mine @ mine.T
        for row in range(len(mine)):
            place = start + row
            if best[row] > 1 - epsilon:
                found[place] = members[nearest[row]]
                apart[place] = max(1 - best[row], 0)
                continue
            kept.append(place)
            closer = own[row] > best
            best[closer] = own[row][closer]
            nearest[closer] = place
    return found, apart


def near_duplicates(hashes: NDArray[np.uint64], distance: int) -> Ints:
    """Copies re-encoded, resized or slightly brightened.

    For 64-bit `hashes` in order of precedence: -1 where one stays, else the place of the kept
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
    # Every n-th bit: the bits of neighbouring frequencies go together, and bands of them would fill
    # few buckets.
    bands = range(distance + 1)
    masks = [sum(1 << bit for bit in range(band, 64, distance + 1)) for band in bands]
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
