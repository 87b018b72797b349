"""Selection of the most unique questions of one sample (VisCon-100K, section 3.4).

The paper keeps the most unique questions by their cosine similarity matrix and a minimum count per
type, without giving threshold, minimum or order. Here, while the largest similarity is at or above
the threshold, that pair loses the question with the higher mean similarity to the others, if its
type stands above the minimum.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DECIMALS = (
    4  # far above the noise of floating point (1e-7): equal texts are at 1, and ties are ties
)


@dataclass(frozen=True)
class Duplicate:
    """A question (by position) that is dropped for its `similarity` to another, which stood when it
    was dropped.
    """

    question: int
    other: int
    similarity: float


def find_duplicates(
    vectors: NDArray[np.float32],
    types: Sequence[str],
    ids: Sequence[str],
    *,
    threshold: float,
    minimum: int,
) -> tuple[list[Duplicate], int]:
    """Which questions of one sample to drop, in order, and how many pairs stay because neither may
    go.

    `vectors` are unit vectors, shape (n, dimension); `types` and `ids` have n entries. Among equal
    similarities the pair with the smallest ids comes first; among equal means the larger id is
    dropped.
    """
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    ranked = np.asarray(vectors, np.float64)[order]
    similarity = np.round(ranked @ ranked.T, _DECIMALS)
    pairs = np.where(np.triu(np.ones(similarity.shape, bool), 1), similarity, -np.inf)
    np.fill_diagonal(similarity, 0)
    standing = np.ones(len(ids), bool)
    counts = Counter(types)
    dropped: list[Duplicate] = []
    stuck = 0
    while pairs.size and pairs.max() >= threshold:
        pair = [int(i) for i in np.unravel_index(pairs.argmax(), pairs.shape)]
        free = [i for i in pair if counts[types[order[i]]] > minimum]
        if not free:
            stuck += 1
            pairs[pair[0], pair[1]] = -np.inf
            continue
        means = np.round(similarity[:, standing].sum(axis=1) / (standing.sum() - 1), _DECIMALS)
        loser = max(free, key=lambda i: (means[i], i))
        winner = pair[0] + pair[1] - loser
        dropped.append(Duplicate(order[loser], order[winner], float(similarity[loser, winner])))
        counts[types[order[loser]]] -= 1
        standing[loser] = False
        pairs[loser, :] = pairs[:, loser] = -np.inf
    return dropped, stuck
