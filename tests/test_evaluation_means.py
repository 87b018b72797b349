"""`vislib.evaluation.statistics` over arms, seeds and benchmarks: Holm, pooling and means."""

import random

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from tests.test_evaluation_statistics import answers, by, points, statistics


def test_holm_adjusts_over_the_arms_of_one_benchmark():
    rows = answers("0" * 12, arm="base")
    for arm, right in (("a", 10), ("b", 7), ("c", 2)):
        rows += answers("1" * right + "0" * (12 - right), arm=arm)
        rows += answers("1", arm=arm, benchmark="pope")
    rows += answers("0", arm="base", benchmark="pope")
    found = by(statistics(rows).comparisons("base"), "arm", "benchmark")
    ours = [found[arm, "ai2d"] for arm in "abc"]
    assert [row["p"] for row in ours] == pytest.approx([2 / 2**10, 2 / 2**7, 2 / 2**2])
    assert [row["p_holm"] for row in ours] == pytest.approx(
        [6 / 2**10, 4 / 2**7, 2 / 2**2]
    )  # times 3, 2, 1
    assert [row["p_holm"] for row in ours] == pytest.approx(
        multipletests([r["p"] for r in ours], method="holm")[1]
    )
    assert found["a", "pope"]["p_holm"] == 1.0


def test_several_seeds_are_pooled_by_question():
    rows = [*answers("1100", arm="mix", seed=0), *answers("1010", arm="mix", seed=1)]
    rows += [*answers("0101", arm="base", seed=0), *answers("0010", arm="base", seed=1)]
    rows += answers("111", arm="base", seed=2)  # the other arm has no such seed
    scores = by(statistics(rows).scores(), "arm")
    assert (scores["mix",]["n"], scores["mix",]["seeds"], scores["mix",]["accuracy"]) == (4, 2, 0.5)
    assert scores["mix",]["seed_deviation"] == 0.0
    assert scores["base",]["seed_deviation"] == pytest.approx(np.std([0.5, 0.25, 1.0], ddof=1))
    (row,) = statistics(rows).comparisons(
        "base"
    )  # question 0: 2 to 0; 1: 1 to 1; 2: 1 to 1; 3: 0 to 1
    assert (row["n"], row["b"], row["c"], row["p"]) == (4, 1, 1, 1.0)
    assert row["difference"] == pytest.approx(0.125)


def test_means_weigh_benchmarks_alike_and_vary_as_their_benchmarks_do():
    rows = []
    for arm, right in (("base", 40), ("mix", 60)):
        rows += answers("1" * right + "0" * (100 - right), arm=arm, benchmark="seedbench")
        rows += answers("1" * 9 + "0", arm=arm, benchmark="ai2d")
        rows += points([0.2, 0.6], arm=arm, benchmark="llava_in_the_wild")
        rows += points([300.0, 100.0], arm=arm, benchmark="mme")  # points: in no mean
        rows += answers("1", arm=arm, benchmark="vislib_contextual")  # left out
    scores = by(statistics(rows).scores(), "arm", "benchmark")
    assert scores["mix", "mean"]["accuracy"] == pytest.approx((0.6 + 0.9 + 0.4) / 3)
    assert scores["mix", "mean_without_seedbench"]["accuracy"] == pytest.approx((0.9 + 0.4) / 2)
    assert scores["mix", "mean"]["n"] == 112
    assert scores["mix", "mme"]["accuracy"] == 200
    assert (
        scores["mix", "mean"]["strict_accuracy"] is None
    )  # the judge's points have no strict reading
    found = by(statistics(rows).comparisons("base"), "benchmark")
    assert found["mean",]["difference"] == pytest.approx(0.2 / 3)
    low, high = found["seedbench",]["low"], found["seedbench",]["high"]
    assert (found["mean",]["low"], found["mean",]["high"]) == pytest.approx(
        (low / 3, high / 3), rel=0.01
    )  # paired: others agree
    assert (
        found["mean_without_seedbench",]["difference"]
        == found["mean_without_seedbench",]["high"]
        == 0
    )
    assert [found[name,]["p"] for name in ("llava_in_the_wild", "mean", "mme")] == [None] * 3
    assert found["llava_in_the_wild",]["b"] is None


def test_a_mean_is_not_given_where_a_benchmark_is_missing():
    rows = [
        *answers("10", arm="mix"),
        *answers("11", arm="mix", benchmark="seedbench"),
        *answers("11", arm="base"),
    ]
    scores, compared = statistics(rows), by(statistics(rows).comparisons("base"), "benchmark")
    found = by(scores.scores(), "arm", "benchmark")
    assert found["mix", "mean"]["accuracy"] == 0.75
    assert found["base", "mean"]["accuracy"] is None
    assert compared["mean",]["difference"] is None
    assert (compared["seedbench",]["n"], compared["seedbench",]["p"]) == (0, None)
    assert ("mix", "mean_without_seedbench") not in found  # one benchmark has no mean


def test_arms_are_compared_within_their_model():
    rows = [
        *answers("11", arm="mix"),
        *answers("00", arm="base"),
        *answers("10", arm="mix", model="other"),
    ]
    assert [row["model"] for row in statistics(rows).comparisons("base")] == ["m"]


def test_intervals_hold_what_they_say():
    random.seed(1)
    flags = "".join(random.choice("0001") for _ in range(300))
    rows = [*answers(flags, arm="a", seed=0), *answers(flags[::-1], arm="a", seed=1)]
    (row,) = statistics(rows).scores()
    per_question = np.mean([[int(f) for f in flags], [int(f) for f in flags[::-1]]], axis=0)
    half = 1.96 * per_question.std() / np.sqrt(300)
    assert (row["low"], row["high"]) == pytest.approx(
        (row["accuracy"] - half, row["accuracy"] + half), abs=0.006
    )
