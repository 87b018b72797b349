"""`vislib.evaluation.statistics`: numbers that agree with hand-computed cases and with the
libraries.
"""

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from vislib.evaluation.statistics import Statistics, detectable, flip_test

COLUMNS = [
    "model",
    "arm",
    "seed",
    "benchmark",
    "sample_id",
    "correct",
    "parsed",
    "strictly_correct",
    "points",
]


def answers(flags: str, *, arm: str, model="m", seed=0, benchmark="ai2d") -> list[tuple]:
    """One row per flag: 1 right, 0 wrong, x not understood."""
    return [
        (model, arm, seed, benchmark, str(n), flag == "1", flag != "x", flag == "1", None)
        for n, flag in enumerate(flags)
    ]


def points(values: list[float], *, arm: str, benchmark: str, model="m") -> list[tuple]:
    return [
        (model, arm, 0, benchmark, str(n), None, None, None, value)
        for n, value in enumerate(values)
    ]


def statistics(
    rows: list[tuple], clusters: list[str] = (), kinds: list[str] = (), **options
) -> Statistics:
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.assign(cluster=clusters or "", question_type=kinds or "", lenient=None)
    return Statistics(
        results=table,
        **{"confidence": 0.95, **options},
    )


def by(rows, *names: str) -> dict:
    return {tuple(row[name] for name in names): row for row in rows}


def test_accuracy_of_one_seed_has_wilsons_interval():
    (row,) = statistics(answers("1101x00110", arm="base")).scores()
    assert row == {
        "model": "m",
        "arm": "base",
        "benchmark": "ai2d",
        "n": 10,
        "seeds": 1,
        "accuracy": 0.5,
        "low": pytest.approx(0.236593),
        "high": pytest.approx(0.763407),  # (p + z²/2n ± …) / (1 + z²/n), by hand
        "seed_deviation": None,
        "strict_accuracy": 0.5,
        "unparsed": pytest.approx(0.1),
        "lenient_accuracy": None,
        "clusters": 10,
    }
    assert (row["low"], row["high"]) == pytest.approx(proportion_confint(5, 10, method="wilson"))
    (narrow,) = statistics(answers("1101x00110", arm="base"), confidence=0.5).scores()
    assert row["low"] < narrow["low"] < 0.5 < narrow["high"] < row["high"]


def test_unscored_answers_do_not_count():
    rows = [*answers("10", arm="base"), ("m", "base", 0, "ai2d", "free", None, None, None, None)]
    (row,) = statistics(rows).scores()
    assert (row["n"], row["accuracy"]) == (2, 0.5)
    assert (
        list(
            statistics(
                [("m", "base", 0, "vislib_contextual", "free", None, None, None, None)]
            ).scores()
        )
        == []
    )


def test_mcnemar_counts_the_questions_on_which_two_arms_differ():
    rows = [*answers("1111000010", arm="mix"), *answers("0001100000", arm="base")]
    (row,) = statistics(rows).comparisons("base")
    assert (row["arm"], row["reference"], row["n"], row["b"], row["c"]) == ("mix", "base", 10, 4, 1)
    assert row["p"] == pytest.approx(0.375)  # 2 (C(5,0) + C(5,1)) / 2^5
    assert (
        row["p"]
        == pytest.approx(mcnemar([[1, 4], [1, 4]], exact=True).pvalue)
        == binomtest(4, 5).pvalue
    )
    assert row["difference"] == pytest.approx(0.3)
    assert row["low"] < 0.3 < row["high"]


def made(
    rng, benchmarks: int, clusters: int, most: int, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Differences between two seeds of one arm: (benchmarks, clusters, questions), and which
    questions there are.

    Pictures have 1 to `most` questions; a seed is better or worse at all questions of a picture.
    """
    shape = (benchmarks, clusters, most)
    hardness, there = (
        rng.normal(0.5, 1, shape),
        np.arange(most) < rng.integers(1, most + 1, (*shape[:2], 1)),
    )
    seeds = [
        hardness + rng.normal(0, spread, (*shape[:2], 1)) + rng.logistic(size=shape) > 0
        for _ in range(2)
    ]
    return (seeds[0].astype(int) - seeds[1]) * there, there


@pytest.mark.parametrize(("clusters", "most"), [(24, 6), (60, 12)])
def test_two_seeds_of_one_arm_differ_as_often_as_the_level_says(clusters, most):
    gains, _ = made(np.random.default_rng(3), 2000, clusters, most, spread=1.5)
    rejected = np.mean([flip_test(sums) < 0.05 for sums in gains.sum(axis=2)])
    assert 0.03 <= rejected <= 0.07
    right, wrong = (gains > 0).sum(axis=(1, 2)), (gains < 0).sum(axis=(1, 2))
    alone = np.minimum(
        1, 2 * binom.cdf(np.minimum(right, wrong), right + wrong, 0.5)
    )  # McNemar's, each question alone
    assert np.mean(alone < 0.05) > 0.1


def test_points_of_few_pictures_keep_the_level_too():
    rng = np.random.default_rng(0)  # LLaVA-Bench: 24 pictures with two or three questions
    sums = rng.normal(0, 1, (2000, 24)) * rng.integers(2, 4, (2000, 24))
    assert 0.03 <= np.mean([flip_test(own, unit=None) < 0.05 for own in sums]) <= 0.07


def test_without_clusters_the_test_is_mcnemars_and_with_them_it_is_not():
    rows = [
        *answers("1" * 12 + "0" * 4 + "1" * 20, arm="mix"),
        *answers("0" * 12 + "1" * 4 + "1" * 20, arm="base"),
    ]
    (alone,) = statistics(rows).comparisons("base")
    assert alone["p_clustered"] == alone["p_holm"] == pytest.approx(alone["p"])
    assert alone["clusters"] == alone["n"] == 36
    assert alone == next(iter(statistics(rows, ["", None] * 36).comparisons("base")))
    pictures = [f"picture {n // 4}" for n in range(36)] * 2
    (row,) = statistics(rows, pictures).comparisons("base")
    assert (row["p"], row["b"], row["c"], row["clusters"]) == (alone["p"], 12, 4, 9)
    assert (
        row["p_clustered"] == row["p_holm"] == 0.625
    )  # of sums 4, 4, 4 and -4: 10 of 16 signs are as far off
    assert row["high"] - row["low"] > 1.2 * (alone["high"] - alone["low"])
    mixed, _ = statistics(rows, pictures).scores()
    single, _ = statistics(rows).scores()
    assert mixed["high"] - mixed["low"] > single["high"] - single["low"]


def test_an_interval_of_one_page_is_not_known():
    rows = [*answers("1101", arm="mix"), *answers("0101", arm="base")]
    scores, compared = (
        statistics(rows, ["a page"] * 8).scores(),
        statistics(rows, ["a page"] * 8).comparisons("base"),
    )
    assert {(row["clusters"], row["low"], row["high"]) for row in (*scores, *compared)} == {
        (1, None, None)
    }


def test_the_interval_of_a_share_of_few_pages_stays_between_none_and_all():
    rows = answers("111110", arm="mix")
    (row,) = statistics(rows, ["a", "a", "b", "b", "c", "c"]).scores()
    assert 0 < row["low"] < 5 / 6 < row["high"] == 1


def test_arms_without_a_right_answer_have_an_interval_and_no_power():
    rows = [*answers("0" * 8, arm="mix"), *answers("0" * 8, arm="base")]
    found = statistics(rows, [f"page {n // 2}" for n in range(8)] * 2)
    ends = [(row["low"], row["high"]) for row in found.scores()]
    assert ends == [pytest.approx(proportion_confint(0, 4, method="wilson"))] * 2
    assert [row["detectable"] for row in found.comparisons("base")] == [None]


def test_intervals_of_made_clusters_hold_the_truth():
    rng, held, size = np.random.default_rng(1), 0, 4
    pictures = [f"picture {n // size}" for n in range(160)]
    for _ in range(60):
        flags = "".join("01"[int(right)] * size for right in rng.random(160 // size) < 0.6)
        (row,) = statistics(answers(flags, arm="a"), pictures).scores()
        held += row["low"] <= 0.6 <= row["high"]
    assert held >= 51  # of 57 expected; unclustered, of four alike 40


def test_what_a_comparison_can_detect():
    rows = [
        *answers("1" * 12 + "0" * 8 + "1" * 80, arm="mix"),
        *answers("0" * 12 + "1" * 8 + "1" * 80, arm="base"),
    ]
    (row,) = statistics(rows).comparisons("base")
    assert row["detectable"] == pytest.approx(
        (1.959964 + 0.841621) * math.sqrt(0.2 / 100), rel=1e-5
    )
    rng, n = np.random.default_rng(0), 2000
    # 10 % of the questions differ
    least = detectable(np.sqrt(np.full(n, 0.1)) / n, confidence=0.95)
    b = rng.binomial(n, 0.05 + least / 2, 1000)
    c = rng.binomial(n - b, (0.05 - least / 2) / (1 - 0.05 - least / 2))
    found = np.minimum(1, 2 * binom.cdf(np.minimum(b, c), b + c, 0.5)) < 0.05
    assert 0.74 < found.mean() < 0.86


def test_p_says_which_checkpoints_it_is_about_and_has_an_aa_comparison_beside_it():
    one = [*answers("1100", arm="mix"), *answers("0101", arm="base")]
    (row,) = statistics(one).comparisons("base")
    assert row["claim"] == "these two checkpoints"
    assert row["aa_difference"] is row["aa_p"] is row["seed_deviation"] is None
    two = [*one, *answers("1111", arm="mix", seed=1), *answers("0111", arm="base", seed=1)]
    (row,) = statistics(two).comparisons("base")
    assert row["claim"] == "these 2 and 2 checkpoints"
    assert row["aa_difference"] == pytest.approx(-0.25)  # of the reference's two seeds
    assert row["aa_p"] == 1.0
    assert row["seed_deviation"] == pytest.approx(np.std([0.0, 0.25], ddof=1))
    # only one seed is shared, but the arm has two to be compared with each other
    (row,) = statistics([*one, *answers("1111", arm="mix", seed=1)]).comparisons("base")
    assert row["claim"] == "these two checkpoints"
    assert row["aa_difference"] == pytest.approx(-0.5)
    other = [
        *answers("1100", arm="mix", seed=4),
        *answers("0101", arm="base", seed=5),
    ]  # no seed in common
    (row,) = statistics(other).comparisons("base")
    assert (row["n"], row["b"], row["c"], row["claim"]) == (4, 1, 1, "these two checkpoints")


def test_seed_is_kept_apart_by_images_and_videos_and_stands_in_two_means():
    rows = [*answers("1110", arm="a", benchmark="seedbench"), *answers("10", arm="a")]
    kinds = ["image", "image", "video", "video", "x", "x"]
    found = by(statistics(rows, kinds=kinds).scores(), "benchmark")
    shares = {name: row["accuracy"] for (name,), row in found.items()}
    assert shares == {
        "seedbench": 0.75,
        "seedbench_image": 1.0,
        "seedbench_video": 0.5,
        "ai2d": 0.5,
        "mean": 0.625,
        "mean_seedbench_image": 0.75,
    }
    assert found["mean",]["n"] == 6
    rows += answers("11", arm="a", benchmark="pope")
    found = by(statistics(rows, kinds=[*kinds, "x", "x"]).scores(), "benchmark")
    assert found["mean_without_seedbench",]["accuracy"] == 0.75


def test_a_large_benchmark_is_tested_in_little_time():
    sums = np.random.default_rng(0).integers(-3, 4, 8000).astype(float)
    start = time.process_time()
    p = flip_test(sums)
    assert time.process_time() - start < 10
    assert p == pytest.approx(flip_test(sums, unit=None), abs=0.01)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (0, 6), (7, 2), (30, 12), (5, 5)])
def test_p_agrees_with_the_libraries(b, c):
    rows = [
        *answers("1" * b + "0" * c + "1" * 5, arm="mix"),
        *answers("0" * b + "1" * c + "1" * 5, arm="base"),
    ]
    (row,) = statistics(rows).comparisons("base")
    assert (row["b"], row["c"]) == (b, c)
    assert row["p"] == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0)
