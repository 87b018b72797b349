"""What resembles what: perceptual hashes, k-means on unit vectors, and semantic de-duplication in
each cluster (DenseFusion-1M, selection; SemDeDup).

The rows of `vectors` are in order of image_id, and chance comes from the seed: the order of tables
changes nothing. Vectors stay on disk, mapped; memory holds the centres, twice, blocks of 64 MB and
the vectors of one cluster.
"""

import warnings
from array import array
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from vislib.media.image_vectors import Vectors

PER_CLUSTER = 280  # the paper's 14 M images in 50,000 clusters
_WHOLE = 16_384  # rows up to which k-means reads all of them in every step
_BATCH = 4096  # rows of one step beyond that, or as many as clusters
_PASSES = 4  # how often each is read
_PLUS_PLUS = 256  # clusters up to which k-means++ chooses the first centres of such batches
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
        block = slice(start, start + step)
        near = vectors[block] @ centres.T
        labels[block] = near.argmax(axis=1)
        distances[block] = np.maximum(1 - near.max(axis=1), 0)
    _, first, labels, sizes = np.unique(
        labels,
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    number = np.argsort(np.lexsort((first, -sizes)))
    return number[labels], distances


def _centres(vectors: Vectors, k: int, seed: int) -> Vectors:
    """Unit centres by k-means; beyond `_WHOLE` rows in batches."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    model = KMeans(k, n_init=1, max_iter=100, random_state=seed)
    if len(vectors) > _WHOLE:
        # The time of k-means++ grows with k squared: at 50,000 longer than k-means itself.
        model = MiniBatchKMeans(
            k,
            init="k-means++" if k <= _PLUS_PLUS else "random",
            batch_size=max(_BATCH, k),
            max_iter=_PASSES,
            n_init=1,
            compute_labels=False,
            random_state=seed,
        )
    # More than one thread would add up in any order; and of equal images some clusters stay empty,
    # with a warning.
    with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        centres: Vectors = np.asarray(model.fit(vectors).cluster_centers_, np.float32)
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    centres /= np.maximum(norms, np.finfo(np.float32).tiny)
    return centres


def semantic_duplicates(vectors: Vectors, members: Ints, epsilon: float) -> tuple[Ints, Vectors]:
    """For the `members` of one cluster in order: the kept row that each resembles, or -1; and 1 -
    cosine to it.

    A member goes if its cosine to one that stays is above 1 - `epsilon` (0: off); the most similar
    is named. SemDeDup itself compares with all members before, those already dropped too, so that a
    chain of small steps shrinks to its first: here what resembles only a dropped image stays. It
    also keeps the outermost first; here the most typical.
    """
    found = np.full(len(members), -1, np.int64)
    apart = np.zeros(len(members), np.float32)
    kept = np.empty((len(members), vectors.shape[1]), np.float32)
    rows: list[int] = []  # of those kept
    if epsilon == 0:
        return found, apart
    for place, row in enumerate(members.tolist()):
        cosines = kept[: len(rows)] @ vectors[row]
        nearest = cosines.max(initial=-np.inf)
        if nearest > 1 - epsilon:
            found[place] = rows[cosines.argmax()]
            apart[place] = max(1 - nearest, 0)
        else:
            kept[len(rows)] = vectors[row]
            rows.append(row)
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
    # Every n-th bit: the bits of neighbouring frequencies go together, and bands of them would fill
    # few buckets.
    masks = []
    for band in range(distance + 1):
        bits_of_band = range(band, 64, distance + 1)
        masks.append(sum(1 << bit for bit in bits_of_band))
    kept: defaultdict[tuple[int, int], array[int]] = defaultdict(lambda: array("q"))
    stands: dict[int, int] = {}  # of each hash that was met: the place that stays for it
    for place, value in enumerate(hashes.tolist()):
        if value in stands:
            found[place] = stands[value]
            continue
        buckets = [kept[mask, value & mask] for mask in masks]
        places = np.concatenate([np.frombuffer(bucket, np.int64) for bucket in buckets])
        bits = np.bitwise_count(hashes[places] ^ hashes[place])
        if bits.min(initial=65) <= distance:
            nearest = int(places[bits == bits.min()].min())
            found[place] = stands[value] = nearest
            continue
        stands[value] = place
        for bucket in buckets:
            bucket.append(place)
    return found
