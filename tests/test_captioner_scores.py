"""Scores of captions agree with cases computed by hand and with the libraries; intervals with
another bootstrap.
"""

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats

from vislib.captioner_scores import score_systems

REFERENCES = [
    "A red lighthouse stands on the rocks at Dunmore, built in 1908.",
    "Two people walk along the quay in front of a lightship.",
    "The chart shows visitors per year, with 41,000 in 2022.",
    "Eine Karte von Wien.",
]
CAPTIONS = [
    "A red lighthouse on the rocks, built in 1908.",
    "Two people walked along the quays.",
    "The chart shows visitors.",
    "",
]


def by_name(rows: list[dict]) -> dict[tuple[str, str], dict]:
    return {(row["system"], row["metric"]): row for row in rows}


def scored(captions: dict, references=REFERENCES, pages="abcd", **options) -> dict:
    return by_name(
        score_systems(captions, references, list(pages), **{"seed": 0, "draws": 200} | options)
    )


def test_cases_counted_by_hand():
    rows = scored({"s": ["the cat sat on the mat"] * 2}, ["the cat sat on a mat"] * 2, "ab")
    bleu, rouge = rows["s", "bleu"], rows["s", "rougeL_f1"]
    assert bleu["score"] == pytest.approx(
        100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    )  # 1- to 4-grams, no brevity
    assert rouge["score"] == pytest.approx(
        100 * 5 / 6
    )  # the, cat, sat, on, mat: 5 of 6 words of both
    assert [row[end] for row in (bleu, rouge) for end in ("low", "high")] == pytest.approx(
        [bleu["score"]] * 2 + [rouge["score"]] * 2
    )
    short = scored({"s": ["the cat sat on"] * 2}, ["the cat sat on a mat"] * 2, "ab")
    assert short["s", "bleu"]["score"] == pytest.approx(100 * np.exp(1 - 6 / 4))  # brevity alone
    assert short["s", "rougeL_f1"]["score"] == pytest.approx(100 * 2 * (1 * 4 / 6) / (1 + 4 / 6))


def test_the_libraries_agree_and_are_named():
    rows = scored({"s": CAPTIONS})
    bleu = sacrebleu.metrics.BLEU()
    assert rows["s", "bleu"]["score"] == pytest.approx(
        bleu.corpus_score(CAPTIONS, [REFERENCES]).score
    )
    assert rows["s", "bleu"]["signature"].startswith(str(bleu.get_signature()))
    assert f"version:{sacrebleu.__version__}" in rows["s", "bleu"]["signature"]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(REFERENCES, CAPTIONS, strict=True)
    mean = np.mean(
        [scorer.score(reference, caption)["rougeL"].fmeasure for reference, caption in pairs]
    )
    assert rows["s", "rougeL_f1"]["score"] == pytest.approx(100 * mean)
    assert "stemmer:porter" in rows["s", "rougeL_f1"]["signature"]
    assert all(
        "95% of 200 draws of 4 pages" in row["signature"] and row["n"] == 4 for row in rows.values()
    )


def test_nothing_written_scores_nothing():
    rows = scored({"mute": [""] * 4, "wrong": ["zzz"] * 4}, differences=[("mute", "wrong")])
    assert {(row["score"], row["low"], row["high"]) for row in rows.values()} == {(0.0, 0.0, 0.0)}
    assert ("mute - wrong", "bleu") in rows


def some_captions(n: int) -> tuple[list[str], list[str]]:
    """References of ten words, and captions that share between none and all of them."""
    rng = np.random.default_rng(1)
    words = [[f"w{number}x{place}" for place in range(10)] for number in range(n)]
    kept = [
        [word if rng.random() < share else "other" for word in w]
        for w in words
        for share in [rng.random()]
    ]
    return [" ".join(w) for w in words], [" ".join(w) for w in kept]


def test_intervals_are_those_of_another_bootstrap():
    references, captions = some_captions(60)
    row = scored({"s": captions}, references, map(str, range(60)), draws=4000)["s", "rougeL_f1"]
    shares = [100 * sum(w != "other" for w in caption.split()) / 10 for caption in captions]
    assert row["score"] == pytest.approx(np.mean(shares))
    theirs = stats.bootstrap(
        (shares,), np.mean, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (row["low"], row["high"]) == (
        pytest.approx(theirs.low, abs=width / 20),
        pytest.approx(theirs.high, abs=width / 20),
    )


def test_captions_of_one_page_are_drawn_together():
    """Every caption twice says no more than once: intervals stay, where a bootstrap of captions
    would narrow them.
    """
    references, captions = some_captions(20)
    pages = [str(number) for number in range(20)]
    once = scored({"s": captions}, references, pages)
    twice = scored({"s": captions * 2}, references * 2, pages * 2)
    for key in once:
        assert [twice[key][name] for name in ("score", "low", "high")] == pytest.approx(
            [once[key][name] for name in ("score", "low", "high")]
        )
    assert twice["s", "bleu"]["n"] == 40


def test_differences_are_paired():
    references, captions = some_captions(40)
    better = [
        f"{caption} {reference.split()[-1]}"
        for caption, reference in zip(captions, references, strict=True)
    ]
    pages = list(map(str, range(40)))
    systems = {"a": better, "b": captions, "c": captions}
    rows = scored(systems, references, pages, differences=[("a", "b"), ("b", "c")])
    for metric in ("bleu", "rougeL_f1"):
        gain, a, b = (rows[name, metric] for name in ("a - b", "a", "b"))
        assert gain["score"] == pytest.approx(a["score"] - b["score"])
        assert gain["high"] - gain["low"] < 0.7 * (a["high"] - a["low"])  # the same pages in both
        assert [rows["b - c", metric][name] for name in ("score", "low", "high")] == [0, 0, 0]


def test_the_same_seed_gives_the_same_rows():
    assert scored({"s": CAPTIONS}, draws=50) == scored({"s": CAPTIONS}, draws=50)
    lows = {
        scored({"s": CAPTIONS}, draws=20, seed=seed)["s", "rougeL_f1"]["low"] for seed in range(4)
    }
    assert len(lows) > 1
