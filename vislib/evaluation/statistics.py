"""Whether a difference between arms is real (VisCon-100K, section 5.3: McNemar's test; all else is
ours).

A question's value is 0 or 1, or its points where a benchmark gives points; with several seeds of an
arm it is their mean. McNemar's exact test counts the questions on which two arms differ; with
several seeds a question counts for the arm that more seeds answer right, so that it stays one sign
per question: for one seed this is McNemar's test itself.

Questions about one page or picture are right and wrong together, so that a test which takes each
for itself finds differences between two seeds of one arm. What chance could do is therefore drawn
over clusters: intervals resample them, and `flip_test` flips the sign of each cluster's difference;
where no two questions share a cluster it is McNemar's test. Seeds stay as they are in all of this:
p is about the checkpoints at hand, the spread of the difference over seeds stands beside it, and so
does the same test of two seeds of one arm (A/A).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vislib.evaluation.benchmarks import SEED_PARTS
from vislib.runs.contract import BENCHMARK_SCORES, COMPARISONS
from vislib.runs.seeding import seeded
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
    from scipy.stats import binom, norm

    # Two-sided: which arm is the reference is a matter of the table.
    total = abs(float(sums.sum()))
    if unit is None:
        spread = float(np.sqrt((sums**2).sum()))
        return float(2 * norm.sf(total / spread)) if spread else 1.0
    steps = np.rint(np.abs(sums) / unit).astype(int)
    chances = np.ones(1)  # that the clusters which favour one side sum up to 0, 1, 2, … steps
    # Clusters of one size are a binomial: far fewer convolutions than clusters.
    for step, clusters in zip(*np.unique(steps[steps > 0], return_counts=True), strict=True):
        alike = np.zeros(step * clusters + 1)
        alike[::step] = binom.pmf(np.arange(clusters + 1), clusters, 0.5)
        chances = np.convolve(chances, alike)
    fewer = (int(steps.sum()) - round(total / unit)) // 2
    return min(1.0, 2 * float(chances[: fewer + 1].sum()))


def detectable(sums: Numbers, n: int, *, confidence: float) -> float | None:
    """The smallest true mean difference of `n` questions that `POWER` of such comparisons find at 1
    - `confidence`.

    `sums`: the clusters' summed differences, whose spread is taken for chance's. Where each
    question is its own cluster this is 2.8 · sqrt(discordance / n), at 95 %. None where arms differ
    on no question.
    """
    from scipy.stats import norm

    # Those of the test's level and of its power, as in every formula for sample sizes.
    deviations = norm.ppf((1 + confidence) / 2) + norm.ppf(POWER)
    return float(deviations * np.sqrt((sums**2).sum()) / n) or None


@dataclass(frozen=True)
class Estimate:
    """A mean over questions, or over benchmarks. `sums`: what each cluster adds to it; `draws`:
    means of clusters drawn with replacement; `by_seed`: the mean of each seed; `shares`: further
    columns of the contract's `scores`.
    """

    n: int
    mean: float
    sums: Numbers
    draws: Numbers
    by_seed: Any
    shares: Any

    @classmethod
    def averaged(cls, parts: Sequence["Estimate"]) -> "Estimate":
        """The mean over benchmarks, which weigh alike."""
        import pandas

        by_seed = pandas.concat([part.by_seed for part in parts], axis=1)
        shares = pandas.concat([part.shares for part in parts], axis=1)
        return cls(
            n=sum(part.n for part in parts),
            mean=float(np.mean([part.mean for part in parts])),
            sums=np.concatenate([part.sums for part in parts]) / len(parts),
            draws=np.mean([part.draws for part in parts], axis=0),
            by_seed=by_seed.mean(axis=1),
            # What one benchmark lacks, as a judge's points lack a strict reading, the mean lacks.
            shares=shares.mean(axis=1, skipna=False),
        )


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Scores and comparisons of `results` (a frame with the contract's columns), deterministic by
    `seed`. `left_out`: benchmarks that are in no mean.
    """

    results: Any
    resamples: int
    confidence: float
    seed: int
    left_out: tuple[str, ...]

    def scores(self) -> Iterator[Row]:
        """Rows of the contract's `scores`: each model and arm on each benchmark, then its means
        over benchmarks.
        """
        table = prepared(self.results)
        for (model, arm), own in table.groupby(["model", "arm"], sort=False):
            # An arm that lacks a benchmark of its model's has a row without the mean.
            means = self._means(table.loc[table["model"] == model, "benchmark"])
            cells = own.groupby("benchmark", sort=False)
            found = {name: self._score(cell, name) for name, cell in cells}
            for name, row in _with_means(found, means, self._score_columns):
                names = {"model": model, "arm": arm, "benchmark": name}
                yield _plain(BENCHMARK_SCORES, row | names)

    def comparisons(self, reference: str) -> Iterator[Row]:
        """Rows of the contract's `comparisons`: each arm against `reference` of its model, on the
        questions and seeds that both have (on all seeds where they share none).

        b: questions that the arm alone answers right; c: those that the reference alone does.
        `difference` is the arm's minus the reference's; p_holm is p_clustered, adjusted over the
        arms of one benchmark.
        """
        for model, own in prepared(self.results).groupby("model", sort=False):
            rows: list[Row] = []
            means = self._means(own["benchmark"])
            cells = own.groupby("benchmark", sort=False)
            arms = list(dict.fromkeys(own["arm"]))
            others = [arm for arm in arms if arm != reference]
            for arm in others if reference in arms else []:
                found = {name: self._compare(cell, arm, reference, name) for name, cell in cells}
                for name, row in _with_means(found, means, self._difference):
                    names = {"model": model, "arm": arm, "reference": reference, "benchmark": name}
                    rows.append(_plain(COMPARISONS, row | names))
            yield from _with_holm(rows)

    def _estimate(self, values: Any, name: str, by_seed: Any, shares: Any) -> Estimate:
        """The mean of questions' values (by cluster and sample_id) on the benchmark of a name."""
        grouped = values.groupby(level="cluster")
        sums = np.asarray(grouped.sum(), np.float64)
        sizes = np.asarray(grouped.size())
        draws = np.full(self.resamples, np.nan)  # of one cluster nothing can be drawn
        # Of the seed and the benchmark alone: arms with the same questions have the same draws.
        rng = np.random.default_rng(seeded(self.seed, name))
        for number in range(self.resamples if len(sums) > 1 else 0):
            drawn = rng.integers(len(sums), size=len(sums))
            draws[number] = sums[drawn].sum() / sizes[drawn].sum()
        n = len(values)
        return Estimate(n, float(values.mean()), sums / n, draws, by_seed, shares)

    def _columns(self, found: Estimate) -> Row:
        """What scores and differences have in common."""
        outside = (1 - self.confidence) / 2
        return {
            "n": found.n,
            "low": float(np.quantile(found.draws, outside)),
            "high": float(np.quantile(found.draws, 1 - outside)),
            "clusters": len(found.sums),
            "seeds": len(found.by_seed),
            "seed_deviation": found.by_seed.std(ddof=1),
        }

    def _score_columns(self, found: Estimate) -> Row:
        row = self._columns(found) | {"accuracy": found.mean}
        return row | found.shares.to_dict()  # type: ignore[no-any-return]

    def _score(self, cell: Any, name: str) -> tuple[Estimate, Row]:
        from statsmodels.stats.proportion import proportion_confint

        by_seed = cell.groupby("seed")["value"].mean()
        shares = cell[["strict_accuracy", "lenient_accuracy", "unparsed"]].mean()
        values = cell.groupby(["cluster", "sample_id"])["value"].mean()
        found = self._estimate(values, name, by_seed, shares)
        row = self._score_columns(found)
        clusters = len(found.sums)
        # One answer a cluster is what Wilson's interval is of; and where all questions are alike,
        # draws are too, which says nothing of the next question.
        alone = len(by_seed) == 1 and clusters == found.n
        if cell["points"].isna().all() and (alone or found.mean in (0, 1)):
            right = round(found.mean * clusters)
            alpha = 1 - self.confidence
            low, high = proportion_confint(right, clusters, alpha=alpha, method="wilson")
            row |= {"low": float(low), "high": float(high)}
        return found, row

    def _means(self, benchmarks: Any) -> dict[str, list[str]]:
        """The benchmarks of each mean: those of any arm of a model, but for points; a mean has two
        or more. SEED is in it whole, with its images alone, or not at all.
        """
        known = list(dict.fromkeys(benchmarks))
        left_out = (*self.left_out, *(f"{SEED_BENCHMARK}_{part}" for part in SEED_PARTS))
        # MME's points would outweigh every share.
        names = [name for name in known if not name.startswith(MME) and name not in left_out]
        image = f"{SEED_BENCHMARK}_image"
        means = {"mean": names}
        if image in known:
            means["mean_seedbench_image"] = [
                image if name == SEED_BENCHMARK else name for name in names
            ]
        means["mean_without_seedbench"] = [name for name in names if name != SEED_BENCHMARK]
        return {mean: averaged for mean, averaged in means.items() if len(averaged) > 1}

    def _compare(
        self, cell: Any, arm: str, reference: str, name: str
    ) -> tuple[Estimate | None, Row]:
        from statsmodels.stats.contingency_tables import mcnemar

        wide = cell.pivot(index=["cluster", "sample_id"], columns=["arm", "seed"], values="value")
        ours, theirs = _by_seed(wide, arm), _by_seed(wide, reference)
        shared = ours.columns.intersection(theirs.columns)
        if len(shared):
            # Seeds pair: they share the order of rows and what dropout drops.
            ours, theirs = ours[shared], theirs[shared]
        gains = (ours.mean(axis=1, skipna=False) - theirs.mean(axis=1, skipna=False)).dropna()
        seeds = (len(ours.columns), len(theirs.columns))
        claim = f"these {seeds[0]} and {seeds[1]} checkpoints"
        if seeds == (1, 1):
            claim = "these two checkpoints"
        row: Row = {"n": 0, "claim": claim}
        if gains.empty:
            return None, row
        pointed = bool(cell["points"].notna().any())
        found = self._estimate(gains, name, (ours - theirs)[shared].mean(), gains.iloc[:0])
        # Means of seeds are multiples of this; points have no unit.
        unit = None if pointed else 1 / lcm(*seeds) / found.n
        row |= self._difference(found, unit)
        several = theirs if seeds[1] > 1 else ours
        if len(several.columns) > 1:  # A/A: two seeds of one arm, compared as arms are
            same = (several.iloc[:, 0] - several.iloc[:, 1]).dropna()
            sums = np.asarray(same.groupby(level="cluster").sum(), np.float64)
            row["aa_difference"] = float(same.mean())
            row["aa_p"] = flip_test(sums, unit=None if pointed else 1.0)
        if not pointed:
            # With several seeds a question counts for the arm that more of them answer right.
            b = int((gains > _EQUAL).sum())
            c = int((gains < -_EQUAL).sum())
            tested = mcnemar([[0, b], [c, 0]], exact=True)
            row |= {"b": b, "c": c, "p": float(tested.pvalue)}
        return found, row

    def _difference(self, found: Estimate, unit: float | None = None) -> Row:
        return self._columns(found) | {
            "difference": found.mean,
            "p_clustered": flip_test(found.sums, unit=unit),
            "detectable": detectable(found.sums, 1, confidence=self.confidence),
        }


def prepared(results: Any) -> Any:
    """The results that count, with the `value` and `cluster` of each; a question without a cluster
    stands for itself, and SEED's parts as further benchmarks.
    """
    import pandas

    table = results.assign(
        value=results["points"].astype(float).fillna(results["correct"].astype(float)),
        # In a question for itself, no name of a page or picture: those have no blank.
        cluster=results["cluster"].replace("", None).fillna("question " + results["sample_id"]),
        strict_accuracy=results["strictly_correct"].astype(float),
        lenient_accuracy=results["lenient"].astype(float),
        unparsed=1 - results["parsed"].astype(float),
    )
    table = table.dropna(subset="value")
    seed = (table["benchmark"] == SEED_BENCHMARK) & table["question_type"].isin(SEED_PARTS)
    parts = table[seed].assign(benchmark=SEED_BENCHMARK + "_" + table["question_type"])
    return pandas.concat([table, parts], ignore_index=True)


def _by_seed(wide: Any, arm: str) -> Any:
    """The values of an arm, a column for each seed; none where it was not asked."""
    return wide[arm] if arm in wide else wide.iloc[:, :0]


def _with_means(
    found: Mapping[str, tuple[Estimate | None, Row]],
    means: Mapping[str, list[str]],
    describe: Callable[[Estimate], Row],
) -> Iterator[tuple[str, Row]]:
    """Rows by benchmark, then by mean; the mean of an arm that lacks a benchmark has no number."""
    for name, (_, row) in found.items():
        yield name, row
    for mean, names in means.items():
        pairs = [found[name] for name in names if name in found]
        held = [estimate for estimate, _ in pairs if estimate is not None]
        if len(held) == len(names):
            yield mean, {"claim": pairs[0][1].get("claim")} | describe(Estimate.averaged(held))
        else:
            yield mean, {"n": sum(estimate.n for estimate in held), "claim": ""}


def _plain(schema: Any, row: Row) -> Row:
    """A row with the columns of a table of the contract: None for what is not known."""
    # NaN alone differs from itself.
    known = {name: value for name, value in row.items() if value == value}
    return {name: known.get(name) for name in schema.names}


def _with_holm(rows: list[Row]) -> list[Row]:
    """The rows with `p_holm`: Holm's adjustment over the arms that one benchmark tests."""
    from statsmodels.stats.multitest import multipletests

    tested: dict[str, list[Row]] = {}
    for row in rows:
        if row["p_clustered"] is not None:
            tested.setdefault(row["benchmark"], []).append(row)
    # Benchmarks are questions of their own; arms are tries at one of them.
    for own in tested.values():
        adjusted = multipletests([row["p_clustered"] for row in own], method="holm")[1]
        for row, value in zip(own, adjusted, strict=True):
            row["p_holm"] = float(value)
    return rows
