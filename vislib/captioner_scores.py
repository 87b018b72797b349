"""BLEU and ROUGE-L of captions against held-out references, with intervals (VisCon-100K, section
5.6).

Corpus BLEU is sacrebleu's, ROUGE-L F1 the mean of rouge-score's over captions; both run from 0 to
100. Captions of one page resemble each other: the bootstrap draws pages with replacement, each with
all its captions, and the same pages for every system, so that a difference between two of them is a
paired one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vislib.runs.tables import Row

DRAWS = 1000  # of the bootstrap
_INTERVAL = (2.5, 97.5)  # percentiles
Numbers = NDArray[np.float64]
Pair = tuple[str, str]  # two systems: the first minus the second


class Metric(NamedTuple):
    """A score of many captions from parts that add up over captions, so that a draw of pages is a
    weighted sum of theirs.
    """

    name: str
    signature: str
    parts: Callable[[str, str], list[float]]  # of a caption and its reference
    score: Callable[[Numbers], float]  # of the sum of parts


def bleu() -> Metric:
    """Corpus BLEU. Parts: lengths of caption and reference, then n-grams that agree and all n-grams
    of the caption, by order.
    """
    from sacrebleu.metrics.bleu import BLEU

    corpus, single = BLEU(), BLEU(effective_order=True)  # the same counts, without its warning
    corpus.corpus_score([""], [[""]])  # a signature is had after scoring alone

    def parts(caption: str, reference: str) -> list[float]:
        found = single.sentence_score(caption, [reference])
        return [found.sys_len, found.ref_len, *found.counts, *found.totals]

    def score(total: Numbers) -> float:
        length, wanted, *counts = total.astype(int).tolist()
        half = len(counts) // 2
        smooth = corpus.smooth_method
        found = corpus.compute_bleu(
            counts[:half], counts[half:], length, wanted, smooth_method=smooth
        )
        return float(found.score)

    return Metric("bleu", str(corpus.get_signature()), parts, score)


def rouge_l() -> Metric:
    """Mean F1 of the longest common subsequence, on Porter stems of the words of ASCII letters and
    digits. Parts: F1 of one caption, and 1 for its number.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    signature = (
        f"mean:captions|scale:100|stemmer:porter|tok:a-z0-9|rouge-score:{version('rouge-score')}"
    )
    return Metric(
        "rougeL_f1",
        signature,
        lambda caption, reference: [scorer.score(reference, caption)["rougeL"].fmeasure, 1.0],
        lambda total: float(100 * total[0] / total[1]),
    )


def score_systems(
    captions: Mapping[str, Sequence[str]],
    references: Sequence[str],
    pages: Sequence[str],
    *,
    differences: Iterable[Pair] = (),
    seed: int,
    draws: int = DRAWS,
) -> list[Row]:
    """Rows of the contract's `scores`: each system's captions against `references`, then
    differences of systems.

    All sequences are in the order of the samples; `pages` names the page of each. Intervals hold 95
    % of the draws.
    """
    import pandas

    n_pages = len(set(pages))
    # How often each page stands in each draw; the first row is the captions as they are.
    drawn = np.random.default_rng(seed).multinomial(n_pages, np.full(n_pages, 1 / n_pages), draws)
    weights = np.vstack([np.ones(n_pages), drawn])
    rows: list[Row] = []
    for metric in (bleu(), rouge_l()):
        scores: dict[str, Numbers] = {}
        for system, texts in captions.items():
            parts = [metric.parts(*pair) for pair in zip(texts, references, strict=True)]
            sums = pandas.DataFrame(parts).groupby(list(pages), sort=False).sum().to_numpy()
            scores[system] = np.array([metric.score(total) for total in weights @ sums])
        for left, right in differences:
            scores[f"{left} - {right}"] = scores[left] - scores[right]
        signature = f"{metric.signature}|interval:95% of {draws} draws of {n_pages} pages"
        for system, values in scores.items():
            low, high = np.percentile(values[1:], _INTERVAL)
            row: Row = {"system": system, "metric": metric.name, "score": float(values[0])}
            row |= {"low": float(low), "high": float(high), "n": len(pages)}
            rows.append(row | {"signature": signature})
    return rows
