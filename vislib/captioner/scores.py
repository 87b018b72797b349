"""BLEU and ROUGE-L of captions against held-out references, with intervals (VisCon-100K, section
5.6).

Corpus BLEU is sacrebleu's, ROUGE-L F1 the mean of rouge-score's over captions; both run from 0 to
100. Captions of one page resemble each other: the bootstrap draws pages with replacement, each with
all its captions, and the same pages for every system, so that a difference between two of them is a
paired one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vislib.runs.tables import Row

DRAWS = 1000  # of the bootstrap
_INTERVAL = (2.5, 97.5)  # percentiles
Numbers = NDArray[np.float64]
Pair = tuple[str, str]  # two systems: the first minus the second


class Bleu:
    """Corpus BLEU, from lengths and n-gram counts that add up over captions."""

    name = "bleu"

    def __init__(self) -> None:
        from sacrebleu.metrics.bleu import BLEU

        self._corpus, self._caption = (
            BLEU(),
            BLEU(effective_order=True),
        )  # its counts are the same, without a warning
        self._corpus.corpus_score([""], [[""]])  # a signature is had after scoring alone
        self.signature = str(self._corpus.get_signature())

    def parts(self, caption: str, reference: str) -> list[float]:
        """Lengths of caption and reference, then n-grams that agree and all n-grams of the caption,
        by order.
        """
        counts = self._caption.sentence_score(caption, [reference])
        return [counts.sys_len, counts.ref_len, *counts.counts, *counts.totals]

    def score(self, total: Numbers) -> float:
        """BLEU of the captions whose parts make up `total`."""
        (length, wanted), (right, made) = (
            total[:2].astype(int),
            total[2:].astype(int).reshape(2, -1).tolist(),
        )
        found = self._corpus.compute_bleu(
            right, made, length, wanted, smooth_method=self._corpus.smooth_method
        )
        return float(found.score)


class RougeL:
    """Mean F1 of the longest common subsequence, on Porter stems of the words of ASCII letters and
    digits.
    """

    name = "rougeL_f1"

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(["rougeL"], use_stemmer=True)
        self.signature = (
            "mean:captions|scale:100|stemmer:porter|tok:a-z0-9|"
            f"rouge-score:{version('rouge-score')}"
        )

    def parts(self, caption: str, reference: str) -> list[float]:
        """F1 of one caption, and 1 for its number."""
        return [self._scorer.score(reference, caption)["rougeL"].fmeasure, 1.0]

    def score(self, total: Numbers) -> float:
        """Mean F1 of the captions whose parts make up `total`."""
        return float(100 * total[0] / total[1])


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
    names, place = (
        list(captions),
        {page: number for number, page in enumerate(dict.fromkeys(pages))},
    )
    of_page = np.array([place[page] for page in pages])
    rows: list[Row] = []
    for metric in (Bleu(), RougeL()):
        sums = [_by_page(metric.parts, captions[name], references, of_page) for name in names]
        rng, whole = np.random.default_rng(seed), np.ones(len(place))
        drawn = (
            np.bincount(rng.integers(len(place), size=len(place)), minlength=len(place))
            for _ in range(draws)
        )
        weights = [whole, *(weight.astype(np.float64) for weight in drawn)]
        scores = {
            name: np.array([metric.score(weight @ part) for weight in weights])
            for name, part in zip(names, sums, strict=True)
        }
        scores |= {f"{left} - {right}": scores[left] - scores[right] for left, right in differences}
        signature = f"{metric.signature}|interval:95% of {draws} draws of {len(place)} pages"
        rows += [
            _row(name, metric.name, values, len(pages), signature)
            for name, values in scores.items()
        ]
    return rows


def _by_page(
    parts: Callable[[str, str], list[float]],
    captions: Sequence[str],
    references: Sequence[str],
    pages: NDArray[Any],
) -> Numbers:
    """Sums of the parts of the captions of each page."""
    found = np.array([parts(*pair) for pair in zip(captions, references, strict=True)], np.float64)
    sums = np.zeros((pages.max() + 1, found.shape[1]))
    np.add.at(sums, pages, found)
    return sums


def _row(system: str, metric: str, values: Numbers, n: int, signature: str) -> Row:
    """`values`: the score of all captions, then those of the draws."""
    low, high = np.percentile(values[1:], _INTERVAL)
    score = {"score": float(values[0]), "low": float(low), "high": float(high)}
    return {"system": system, "metric": metric, **score, "n": n, "signature": signature}
