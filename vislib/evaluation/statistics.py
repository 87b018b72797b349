"""Whether a difference between arms is real (VisCon-100K, section 5.3: McNemar's test; all else is
ours).

A question's value is 0 or 1, or its points where a benchmark gives points; with several seeds of an
arm it is their mean. McNemar's exact test counts the questions on which two arms differ; with
several seeds a question counts for the arm that more seeds answer right, so that it stays one sign
per question: for one seed this is McNemar's test itself.

Questions about one page or picture are right and wrong together, so that a test which takes each
for itself finds differences between two seeds of one arm. What chance could do is therefore taken
over clusters: intervals have clustered standard errors (Miller 2024, arXiv 2411.00640), and
`flip_test` flips the sign of each cluster's difference; where no two questions share a cluster it
is McNemar's test. Seeds stay as they are in all of this: p is about the checkpoints at hand, the
spread of the difference over seeds stands beside it, and so does the same test of two seeds of one
arm (A/A).

A mean over benchmarks is one more benchmark, of all their questions, in which each of them (a
`stratum`) weighs alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import lcm, sqrt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from vislib.evaluation.benchmarks import CONTEXTUAL, SEED_PARTS
from vislib.runs.contract import BENCHMARK_SCORES, COMPARISONS
from vislib.runs.tables import Row

SEED_BENCHMARK = "seedbench"  # the one that chose the paper's mix
MME = "mme"  # in points, not in shares
POWER = 0.8  # of the difference that a comparison can detect
Numbers = NDArray[np.float64]
_EQUAL = 1e-9  # means of seeds differ by less through rounding alone


def flip_test(sums: Numbers, *, unit: float | None = 1.0) -> float:
    """Two-sided p of the clusters' summed differences (1-D), were each as likely to have the other
    sign.

    Exact where the sums are multiples of `unit`. None: by the normal distribution with the same
    variance, for points, which have no unit.
    """
    # Two-sided: which arm is the reference is a matter of the table.
    total = abs(sums.sum())
    if unit is None:
        spread = np.sqrt((sums**2).sum())
        return float(2 * norm.sf(total / spread)) if spread else 1.0
    steps = np.rint(np.abs(sums) / unit).astype(int)
    chances = np.ones(1)  # that the clusters which favour one side sum up to 0, 1, 2, … steps
    for step in steps[steps > 0]:
        coin = np.zeros(step + 1)
        coin[[0, step]] = 0.5
        chances = np.convolve(chances, coin)
    fewer = (steps.sum() - round(total / unit)) // 2
    return min(1.0, 2 * float(chances[: fewer + 1].sum()))


def detectable(sums: Numbers, *, confidence: float) -> float | None:
    """The smallest true mean difference that `POWER` of such comparisons find at 1 - `confidence`.

    `sums`: what each cluster adds to the mean difference, whose spread is taken for chance's. Where
    each question is its own cluster this is 2.8 · sqrt(discordance / questions), at 95 %. None
    where arms differ on no question.
    """
    # Those of the test's level and of its power, as in every formula for sample sizes.
    deviations = norm.ppf((1 + confidence) / 2) + norm.ppf(POWER)
    return float(deviations * np.sqrt((sums**2).sum())) or None


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Scores and comparisons of `results` (a frame with the contract's columns)."""

    results: Any
    confidence: float

    def scores(self) -> list[Row]:
        """Rows of the contract's `scores`: each model and arm on each benchmark, then its means
        over benchmarks.
        """
        rows = list[Row]()
        by_arm = prepared(self.results).groupby(["model", "arm"], sort=False)
        for (model, arm), own in by_arm:
            for name, cell in own.groupby("benchmark", sort=False):
                row = {"model": model, "arm": arm, "benchmark": name}
                rows.append(row | self._score(cell))
        return _table(rows, BENCHMARK_SCORES)

    def comparisons(self, reference: str) -> list[Row]:
        """Rows of the contract's `comparisons`: each arm against `reference` of its model, on the
        questions and seeds that both have (on all seeds where they share none).

        b: questions that the arm alone answers right; c: those that the reference alone does.
        `difference` is the arm's minus the reference's; p_holm is p_clustered, adjusted over the
        arms of one benchmark.
        """
        rows = list[Row]()
        for model, own in prepared(self.results).groupby("model", sort=False):
            arms = list(own["arm"].unique())
            if reference not in arms:
                continue
            arms.remove(reference)
            for arm, (name, cell) in product(arms, own.groupby("benchmark", sort=False)):
                row = {"model": model, "arm": arm, "reference": reference, "benchmark": name}
                rows.append(row | self._compare(cell, arm, reference))
        return _table(rows, COMPARISONS)

    def _score(self, cell: Any) -> Row:
        values = cell.groupby(["stratum", "cluster", "sample_id"])["value"].mean()
        strata = cell.groupby("stratum")
        if strata.ngroups < cell["strata"].iloc[0]:  # an arm that lacks a benchmark has no mean
            return {"n": len(values)}
        by_seed = cell.groupby(["stratum", "seed"])["value"].mean().groupby("seed").mean()
        row = self._interval("accuracy", values, by_seed)
        # What one benchmark lacks, as a judge's points lack a strict reading, the mean lacks.
        shares = strata[["strict_accuracy", "lenient_accuracy", "unparsed"]].mean()
        row |= dict(shares.mean(skipna=False))
        if cell["points"].notna().any():
            return row
        # No share of questions lies outside, whatever few clusters leave open.
        row["low"] = max(row["low"], 0.0)
        row["high"] = min(row["high"], 1.0)
        # One answer a cluster is what Wilson's interval is of; and where all questions are alike,
        # so are clusters, which says nothing of the next question.
        alone = len(by_seed) == strata.ngroups == 1 and row["clusters"] == row["n"]
        if alone or row["accuracy"] in (0, 1):
            row["low"], row["high"] = proportion_confint(
                round(row["accuracy"] * row["clusters"]),
                row["clusters"],
                alpha=1 - self.confidence,
                method="wilson",
            )
        return row

    def _compare(self, cell: Any, arm: str, reference: str) -> Row:
        wide = cell.pivot(
            index=["stratum", "cluster", "sample_id"],
            columns=["arm", "seed"],
            values="value",
        )
        # No column for an arm that was not asked.
        ours, theirs = (wide.get(name, wide.iloc[:, :0]) for name in (arm, reference))
        repeated = theirs if len(theirs.columns) > 1 else ours
        shared = ours.columns.intersection(theirs.columns)
        if len(shared):
            # Seeds pair: they share the order of rows and what dropout drops.
            ours = ours[shared]
            theirs = theirs[shared]
        gains = (ours.mean(axis=1, skipna=False) - theirs.mean(axis=1, skipna=False)).dropna()
        strata = cell["strata"].iloc[0]
        if gains.index.get_level_values("stratum").nunique() < strata:
            return {"n": len(gains), "claim": ""}
        n_ours = len(ours.columns)
        n_theirs = len(theirs.columns)
        claim = f"these {n_ours} and {n_theirs} checkpoints"
        if n_ours == n_theirs == 1:
            claim = "these two checkpoints"
        sums = _sums(gains)
        # Means of seeds are multiples of a unit; points have none, and neither has a mean.
        counted = strata == 1 and cell["points"].isna().all()
        unit = 1 / lcm(n_ours, n_theirs) if counted else None
        by_seed = (ours - theirs)[shared].groupby("stratum").mean().mean()
        row = self._interval("difference", gains, by_seed) | {
            "claim": claim,
            "p_clustered": flip_test(sums * len(gains), unit=unit),
            "detectable": detectable(sums, confidence=self.confidence),
        }
        if len(repeated.columns) > 1:  # A/A: two seeds of one arm, compared as arms are
            same = (repeated.iloc[:, 0] - repeated.iloc[:, 1]).dropna()
            sums = _sums(same)
            row["aa_difference"] = sums.sum()
            row["aa_p"] = flip_test(sums * len(same), unit=unit)
        if counted:
            # With several seeds a question counts for the arm that more of them answer right.
            b = (gains > _EQUAL).sum()
            c = (gains < -_EQUAL).sum()
            row |= {"b": b, "c": c, "p": mcnemar([[0, b], [c, 0]], exact=True).pvalue}
        return row

    def _interval(self, mean: str, values: Any, by_seed: Any) -> Row:
        """What scores and differences have in common, their `mean` by its name; of one cluster no
        interval is known.
        """
        off = _sums(values - values.groupby("stratum").transform("mean"))
        n = len(off)
        fewest = off.groupby("stratum").size().min()
        deviation = off.std() if fewest > 1 else np.nan
        half = t.ppf((1 + self.confidence) / 2, n - 1) * deviation * sqrt(n)
        middle = _weighted(values).sum()
        return {
            "n": len(values),
            "clusters": n,
            mean: middle,
            "low": middle - half,
            "high": middle + half,
            "seeds": len(by_seed),
            "seed_deviation": by_seed.std(),
        }


def prepared(results: Any) -> Any:
    """The results that count, with the `value` and `cluster` of each; a question without a cluster
    stands for itself. SEED's parts and the means over `strata` benchmarks are further benchmarks.
    """
    numbers = ("points", "correct", "strictly_correct", "lenient", "parsed")
    table = results.astype(dict.fromkeys(numbers, float))
    table = table.assign(
        value=table["points"].fillna(table["correct"]),
        # In a question for itself, no name of a page or picture: those have no blank.
        cluster=table["cluster"].replace("", None).fillna("question " + table["sample_id"]),
        strict_accuracy=table["strictly_correct"],
        lenient_accuracy=table["lenient"],
        unparsed=1 - table["parsed"],
    ).dropna(subset="value")
    parts = table[(table["benchmark"] == SEED_BENCHMARK) & table["question_type"].isin(SEED_PARTS)]
    parts = parts.assign(benchmark=SEED_BENCHMARK + "_" + parts["question_type"])
    table = pd.concat([table, parts])
    table = table.assign(stratum=table["benchmark"], strata=1)
    tables = [table]
    for _, own in table.groupby("model", sort=False):
        for mean, names in _means(set(own["benchmark"])).items():
            averaged = own[own["benchmark"].isin(names)]
            tables.append(averaged.assign(benchmark=mean, strata=len(names)))
    return pd.concat(tables, ignore_index=True)


def _means(known: set[str]) -> dict[str, set[str]]:
    """The benchmarks of each mean: those of any arm of a model, but for points; a mean has two or
    more. SEED is in it whole, with its images alone, or not at all.
    """
    # The papers have none like our own.
    alone = {CONTEXTUAL, *(f"{SEED_BENCHMARK}_{part}" for part in SEED_PARTS)}
    # MME's points would outweigh every share.
    names = {name for name in known if not name.startswith(MME)} - alone
    others = names - {SEED_BENCHMARK}
    means = {
        "mean": names,
        "mean_seedbench_image": others | {f"{SEED_BENCHMARK}_image"},
        "mean_without_seedbench": others,
    }
    return {
        mean: averaged
        for mean, averaged in means.items()
        if len(averaged) > 1 and averaged <= known
    }


def _weighted(values: Any) -> Any:
    """What each question adds to the mean, in which every stratum weighs alike."""
    strata = values.groupby("stratum")
    return values / strata.transform("size") / strata.ngroups


def _sums(values: Any) -> Any:
    """What each cluster adds to it."""
    return _weighted(values).groupby(["stratum", "cluster"]).sum()


def _table(rows: Sequence[Row], schema: pa.Schema) -> list[Row]:
    """Rows with the columns of a table of the contract, None for what is not known or is NaN; with
    Holm's adjustment over the arms that one benchmark tests, where it has one.
    """
    frame = pd.DataFrame(rows, columns=schema.names)
    if "p_holm" in frame and rows:
        # Benchmarks are questions of their own; arms are tries at one of them.
        tested = frame.dropna(subset="p_clustered")
        tested = tested.groupby(["model", "benchmark"])["p_clustered"]
        frame["p_holm"] = tested.transform(lambda p: multipletests(p, method="holm")[1])
    return list(pa.Table.from_pandas(frame, schema, preserve_index=False).to_pylist())
