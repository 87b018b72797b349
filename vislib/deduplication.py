"""Unique questions of a sample, by the cosine similarity of their embeddings (VisCon-100K, section
3.4).

The paper keeps the most unique questions by their cosine similarity matrix and a minimum count per
type, without giving threshold, minimum or order. Here, while the largest similarity is at or above
the threshold, that pair loses the question with the higher mean similarity to the others, if its
type stands above the minimum. What other thresholds and minima would leave is a sweep, measured
sample by sample.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vislib.media.embeddings import Embeddings, SentenceEncoder, embed_texts
from vislib.media.words import words
from vislib.runs import Run, To, sql, tables
from vislib.runs.tables import Row

# Longest first (ties by text): little padding, and at once whether a batch fits memory.
_TEXTS = """
    SELECT DISTINCT question.question AS text
    FROM (SELECT unnest(questions) AS question FROM joined)
    WHERE question.status = 'ok'
    ORDER BY length(text) DESC, text
"""
# The questions of each sample and kind that 08 would compare; `{limit}` samples of all, by hash.
GROUPED = """
    SELECT sample_id, kind, list(row ORDER BY row) AS questions
    FROM questions SEMI JOIN (
        SELECT DISTINCT sample_id FROM questions ORDER BY {drawn} LIMIT {limit}
    ) USING (sample_id)
    WHERE status = 'ok' GROUP BY ALL ORDER BY min(row)
"""
# Decimals, since sums of floats depend on their order, which threads do not keep.
SWEEP = """
    SELECT threshold, minimum, count(*) AS samples, sum(asked)::BIGINT AS asked,
        sum(kept)::BIGINT AS kept,
        avg(nearest::DECIMAL(9, 6)) AS nearest,
        avg(distinct_1::DECIMAL(9, 6)) AS distinct_1,
        avg(distinct_2::DECIMAL(9, 6)) AS distinct_2,
        least(sum(free_form), sum(kept - free_form))
            / greatest(sum(free_form), sum(kept - free_form)) AS balance
    FROM swept GROUP BY ALL ORDER BY ALL
"""


class Unique(NamedTuple):
    """What `unique` makes of the questions of one sample."""

    kept: list[Row]  # in the order given
    dropped: list[tuple[Row, Row, float]]  # each with the one it resembles, and how much
    stuck: int  # similar pairs of which neither may go


def unique(
    questions: Sequence[Row], vectors: NDArray[np.float32], *, threshold: float, minimum: int
) -> Unique:
    """Drop questions of one sample and kind that say what another says.

    `vectors` are unit vectors, one per question: shape (n, dimension). Among equal similarities the
    pair with the smallest ids comes first; among equal means the larger id is dropped.
    """
    order = sorted(range(len(questions)), key=lambda place: questions[place]["question_id"])
    rows = [questions[place] for place in order]
    # By id, so that the order in which they come decides nothing.
    exact = vectors[order].astype(np.float64)
    # Four decimals are far above the noise of floating point: equal texts are at 1, ties are ties.
    similarity = np.round(exact @ exact.T, 4)
    np.fill_diagonal(similarity, 0)
    pairs = combinations(range(len(rows)), 2)
    near = [pair for pair in pairs if similarity[pair] >= threshold]
    near.sort(key=lambda pair: -similarity[pair])
    types = [row["question_type"] for row in rows]
    # How many of a type still stand: the minimum holds for each type by itself.
    left = Counter(types)
    standing = np.ones(len(rows), bool)
    dropped = []
    stuck = 0
    for pair in near:
        if not standing[list(pair)].all():
            continue
        free = [place for place in pair if left[types[place]] > minimum]
        if not free:
            stuck += 1
            continue
        means = similarity[:, standing].sum(axis=1) / (standing.sum() - 1)
        loser = max(free, key=lambda place: (round(means[place], 4), place))
        twin = sum(pair) - loser
        dropped.append((rows[loser], rows[twin], float(similarity[pair])))
        left[types[loser]] -= 1
        standing[loser] = False
    kept = sorted(np.array(order)[standing])
    return Unique([questions[place] for place in kept], dropped, stuck)


def embed_questions(run: Run, joined: Path, *, model: str, batch_size: int) -> Embeddings:
    """Vectors of every distinct question in `joined`, each embedded once; kept after a kill."""
    texts = run.sql(_TEXTS, into="distinct_questions", joined=joined)
    encoder = SentenceEncoder(model)
    count = tables.count_rows(texts)
    run.metrics["distinct_questions"] = count
    with run.progress(count, "questions embedded") as progress:
        return embed_texts(
            texts,
            encoder=encoder,
            folder=run.scratch,
            batch_size=batch_size,
            on_done=progress.update,
        )


def sweep(
    samples: Iterable[Row],
    *,
    vectors: Embeddings,
    thresholds: Sequence[float],
    minima: Sequence[int],
    into: str,
) -> Iterator[To]:
    """What every threshold with every minimum leaves of each sample's questions: rows of `SWEPT`
    for the table `into`.
    """
    for sample in samples:
        # vectors and words of a question are the same at every setting
        asked = sample["questions"]
        near = vectors.of([row["question"] for row in asked])
        spoken = [words(row["question"]) for row in asked]
        place = {row["question_id"]: number for number, row in enumerate(asked)}
        for threshold, minimum in product(thresholds, minima):
            kept = unique(asked, near, threshold=threshold, minimum=minimum).kept
            stay = [place[row["question_id"]] for row in kept]
            row = {name: sample[name] for name in ("sample_id", "kind")}
            row |= {"threshold": threshold, "minimum": minimum, "asked": len(asked)}
            row["kept"] = len(kept)
            row["free_form"] = sum(one["question_type"] == "free_form" for one in kept)
            yield To(into, row | _variety(near[stay], [spoken[number] for number in stay]))


def _variety(vectors: NDArray[np.float32], spoken: Sequence[Sequence[str]]) -> Row:
    """How far the questions of one sample differ, by vectors and words; None where there are too
    few to tell.
    """
    cosines = vectors @ vectors.T
    # none is its own nearest
    np.fill_diagonal(cosines, -1)
    found: Row = {"nearest": float(cosines.max(axis=1).mean()) if len(spoken) > 1 else None}
    # Within a sample, as de-duplication is: of a whole set the share falls as the set grows.
    for n in (1, 2):
        # n lists, each a word later than the one before: side by side they are the n-grams
        grams = [g for said in spoken for g in zip(*(said[k:] for k in range(n)), strict=False)]
        found[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else None
    return found


def similar_questions(run: Run, *, limit: int = 8) -> list[Row]:
    """A seeded handful of dropped questions, each beside the one that it resembles."""
    if not run.input("questions"):
        return []
    rows = sql.select(
        f"""
        SELECT lost.question, twin.question, split_part(detail, ' to ', 1)::DOUBLE
        FROM dropped JOIN questions AS lost ON lost.question_id = id
            JOIN questions AS twin ON twin.question_id = split_part(detail, ' to ', 2)
        WHERE dropped.reason = 'similar_question'
        ORDER BY {sql.drawn("id", run.seed)} LIMIT {limit}
        """,
        {"dropped": run.data / "dropped", "questions": run.table("questions")},
        run.scratch,
    )
    return [dict(zip(("dropped", "kept", "similarity"), row, strict=True)) for row in rows]
