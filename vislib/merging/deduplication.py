"""Selection of the most unique questions of one sample (VisCon-100K, section 3.4).

The paper keeps the most unique questions by their cosine similarity matrix and a minimum count per
type, without giving threshold, minimum or order. Here, while the largest similarity is at or above
the threshold, that pair loses the question with the higher mean similarity to the others, if its
type stands above the minimum.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Question = Mapping[str, Any]  # a row of the contract's `questions`


class Unique(NamedTuple):
    """What `unique` makes of the questions of one sample."""

    kept: list[Question]  # in the order given
    dropped: list[tuple[Question, Question, float]]  # each with the one it resembles, and how much
    stuck: int  # similar pairs of which neither may go


def unique(
    questions: Sequence[Question], vectors: NDArray[np.float32], *, threshold: float, minimum: int
) -> Unique:
    """Drop questions of one sample and kind that say what another says.

    `vectors` are unit vectors, one per question: shape (n, dimension). Among equal similarities the
    pair with the smallest ids comes first; among equal means the larger id is dropped.
    """
    order = sorted(range(len(questions)), key=lambda i: questions[i]["question_id"])
    rows, ranked = [questions[i] for i in order], vectors[order].astype(np.float64)
    # Four decimals are far above the noise of floating point: equal texts are at 1, ties are ties.
    similarity = np.round(ranked @ ranked.T, 4)
    np.fill_diagonal(similarity, 0)
    pairs = [pair for pair in combinations(range(len(rows)), 2) if similarity[pair] >= threshold]
    left = Counter(row["question_type"] for row in rows)
    standing = np.ones(len(rows), bool)
    dropped, stuck = [], 0
    for pair in sorted(pairs, key=lambda pair: -similarity[pair]):
        if not standing[list(pair)].all():
            continue
        free = [i for i in pair if left[rows[i]["question_type"]] > minimum]
        if not free:
            stuck += 1
            continue
        means = np.round(similarity[:, standing].sum(axis=1) / (standing.sum() - 1), 4)
        loser = max(free, key=lambda i: (means[i], i))
        winner = sum(pair) - loser
        dropped.append((rows[loser], rows[winner], float(similarity[pair])))
        left[rows[loser]["question_type"]] -= 1
        standing[loser] = False
    return Unique([questions[i] for i in sorted(np.array(order)[standing])], dropped, stuck)
