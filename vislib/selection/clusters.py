"""k-means on unit vectors, semantic de-duplication and the best of each cluster (DenseFusion-1M,
selection; SemDeDup).

The rows of `vectors` are in order of image_id, and chance comes from the seed: the order of tables
changes nothing. Vectors stay on disk; memory holds the centres, twice, and blocks of 64 MB. On
paper, 1 M images at 512 dimensions and the paper's 280 a cluster (k = 3,571): 2 GB of vectors,
mapped, so that the system takes them back when it needs to; centres 15 MB; columns of ids, links
and results 1 GB; transformers and the model 1.5 GB: below 6 GiB in all.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from vislib.selection.features import Vectors

PER_CLUSTER = 280  # the paper's 14 M images in 50,000 clusters
_WHOLE = 16_384  # rows up to which k-means reads all of them in every step
_BATCH, _PASSES = (
    4096,
    4,
)  # rows of one step beyond that (as many as clusters, or more), and how often each is read
_PLUS_PLUS = 256  # clusters up to which k-means++ chooses the first centres, among a batch of rows
_BLOCK = 2**24  # values of one block of similarities: 64 MB
Ints = NDArray[np.int64]


def cluster(vectors: Vectors, k: int, seed: int) -> tuple[Ints, NDArray[np.float32]]:
    """Cluster of each row, and its distance (1 - cosine) to the centre; clusters numbered by size,
    then first row.

    At most `k`, and no more than rows; those that stay empty have no number.
    """
    centres = _centres(vectors, min(k, len(vectors)), seed)
    labels, distances = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    step = max(1, _BLOCK // len(centres))
    for start in range(0, len(vectors), step):
        near = vectors[start : start + step] @ centres.T
        labels[start : start + step] = near.argmax(axis=1)
        distances[start : start + step] = np.maximum(1 - near.max(axis=1), 0)
    _, first, labels, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    return np.argsort(np.lexsort((first, -sizes)))[labels], distances


def _centres(vectors: Vectors, k: int, seed: int) -> Vectors:
    """Unit centres by k-means; beyond `_WHOLE` rows streamed in seeded shuffled batches, each read
    in order of rows.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
    from threadpoolctl import threadpool_limits

    chance = np.random.default_rng(seed)
    n, batch = len(vectors), max(_BATCH, k)
    some = vectors[np.sort(chance.choice(n, k if k > _PLUS_PLUS else min(n, batch), replace=False))]
    if (
        k <= _PLUS_PLUS
    ):  # its time grows with k squared: at k = 50,000 it takes longer than k-means itself
        some = kmeans_plusplus(some.astype(np.float64), k, random_state=seed)[0].astype(np.float32)
    if n <= _WHOLE:
        # more than two threads would add up in any order; and of equal images some clusters stay
        # empty, with a warning
        with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
            model = KMeans(k, init=some, n_init=1, max_iter=100).fit(vectors)
    else:
        model = MiniBatchKMeans(k, init=some, n_init=1, random_state=seed, compute_labels=False)
        for order in (chance.permutation(n) for _ in range(_PASSES)):
            for start in range(0, n, batch):
                model.partial_fit(vectors[np.sort(order[start : start + batch])])
    centres: Vectors = np.asarray(model.cluster_centers_, np.float32)
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return centres


def by_cluster(labels: Ints, distances: NDArray[np.float32]) -> list[Ints]:
    """Rows of each cluster, closest to the centre first, ties in order of rows."""
    order = np.lexsort((distances, labels))
    return np.split(order, np.searchsorted(labels[order], np.arange(1, labels.max(initial=0) + 1)))


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
    found, apart = np.full(len(members), -1, np.int64), np.zeros(len(members), np.float32)
    kept: list[int] = []  # places in `members`
    for start in range(0, len(members) if epsilon > 0 else 0, block):
        mine = vectors[members[start : start + block]]
        best, nearest = np.full(len(mine), -np.inf, np.float32), np.full(len(mine), -1, np.int64)
        for at in range(0, len(kept), block):
            places = np.array(kept[at : at + block])
            near = mine @ vectors[members[places]].T
            closer = near.max(axis=1) > best
            best[closer], nearest[closer] = (
                near.max(axis=1)[closer],
                places[near.argmax(axis=1)[closer]],
            )
        own = mine @ mine.T
        for row in range(len(mine)):
            if best[row] > 1 - epsilon:
                found[start + row], apart[start + row] = (
                    members[nearest[row]],
                    max(1 - best[row], 0),
                )
                continue
            kept.append(start + row)
            closer = own[row] > best
            best[closer], nearest[closer] = own[row][closer], start + row
    return found, apart
