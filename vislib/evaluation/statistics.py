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

from vislib.runs.contract import BENCHMARK_SCORES, COMPARISONS
from vislib.runs.seeding import seeded
from vislib.runs.tables import Row

# The one that chose the paper's mix; which of its parts the paper means is not known.
SEED_BENCHMARK = "seedbench"
SEED_PARTS = ("image", "video")
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

        return cls(
            n=sum(part.n for part in parts),
            mean=float(np.mean([part.mean for part in parts])),
            sums=np.concatenate([part.sums for part in parts]) / len(parts),
            draws=np.mean([part.draws for part in parts], axis=0),
            by_seed=pandas.concat([part.by_seed for part in parts], axis=1).mean(axis=1),
            # A share that one benchmark lacks, as a judge's points lack a strict reading, has none.
            shares=pandas.concat([p.shares for p in parts], axis=1).mean(axis=1, skipna=False),
        )


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Scores and comparisons of `results` (the contract's columns), deterministic by `seed`.

    Without a column `cluster`, or where that is empty, a question stands for itself. `left_out`:
    benchmarks that are in no mean.
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
            cells = own.groupby("benchmark", sort=False)
            found = {name: self._score(cell, str(name)) for name, cell in cells}
            means = self._means(table[table["model"] == model])
            for name, row in self._with_means(found, means, self._score_columns):
                names = {"model": model, "arm": arm, "benchmark": name}
                yield _plain(BENCHMARK_SCORES, names | row)

    def comparisons(self, reference: str) -> Iterator[Row]:
        """Rows of the contract's `comparisons`: each arm against `reference` of its model, on the
        questions and seeds that both have (on all seeds where they share none).

        b: questions that the arm alone answers right; c: those that the reference alone does.
        `difference` is the arm's minus the reference's; p_holm is p_clustered, adjusted over the
        arms of one benchmark.
        """
        table = prepared(self.results)
        for model, own in table.groupby("model", sort=False):
            rows: list[Row] = []
            cells, arms = own.groupby("benchmark", sort=False), list(dict.fromkeys(own["arm"]))
            for arm in (name for name in arms if reference in arms and name != reference):
                found = {name: self._compare(cell, arm, reference, name) for name, cell in cells}
                for name, row in self._with_means(found, self._means(own), self._difference):
                    names = {"model": model, "arm": arm, "reference": reference}
                    rows.append(_plain(COMPARISONS, names | {"benchmark": name} | row))
            yield from _with_holm(rows)

    def _estimate(self, values: Any, cell: Any, name: str, by_seed: Any, shares: Any) -> Estimate:
        """The mean of questions' values (by sample_id) on the benchmark of a name."""
        grouped = values.groupby(_clusters(cell), sort=False)
        sums, sizes = np.asarray(grouped.sum(), np.float64), np.asarray(grouped.size())
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
        ends = np.quantile(found.draws, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return {
            "n": found.n,
            "low": float(ends[0]),
            "high": float(ends[1]),
            "clusters": len(found.sums),
            "seeds": len(found.by_seed),
            "seed_deviation": found.by_seed.std(ddof=1),
        }

    def _score_columns(self, found: Estimate) -> Row:
        shares: Row = found.shares.to_dict()
        return self._columns(found) | shares | {"accuracy": found.mean}

    def _score(self, cell: Any, name: str) -> tuple[Estimate, Row]:
        from statsmodels.stats.proportion import proportion_confint

        values = cell.groupby("sample_id", sort=False)["value"].mean()
        read = cell[["strictly_correct", "lenient", "parsed"]].mean()
        shares = read.set_axis(["strict_accuracy", "lenient_accuracy", "unparsed"])
        shares["unparsed"] = 1 - shares["unparsed"]
        by_seed = cell.groupby("seed")["value"].mean()
        found = self._estimate(values, cell, name, by_seed, shares)
        row, clusters = self._score_columns(found), len(found.sums)
        alone = len(by_seed) == 1 and clusters == found.n
        # Where all questions are alike there is nothing to draw.
        if cell["points"].isna().all() and (alone or found.mean in (0, 1)):
            right, alpha = round(found.mean * clusters), 1 - self.confidence
            ends = proportion_confint(right, clusters, alpha=alpha, method="wilson")
            row |= {"low": float(ends[0]), "high": float(ends[1])}
        return found, row

    def _means(self, own: Any) -> dict[str, list[str]]:
        """The benchmarks of each mean: those of any arm of a model, but for points; a mean has two
        or more. SEED is in it whole, with its images alone, or not at all.
        """
        image, *parts = (f"{SEED_BENCHMARK}_{part}" for part in SEED_PARTS)
        left_out = {image, *parts, *self.left_out}
        known = dict.fromkeys(own["benchmark"])
        names = [name for name in known if not name.startswith(MME) and name not in left_out]
        images = [image if name == SEED_BENCHMARK else name for name in names]
        without = [name for name in names if name != SEED_BENCHMARK]
        means = {"mean": names, "mean_seedbench_image": images if image in known else []}
        means["mean_without_seedbench"] = without
        return {mean: averaged for mean, averaged in means.items() if len(averaged) > 1}

    def _with_means(
        self,
        found: Mapping[str, tuple[Estimate | None, Row]],
        means: Mapping[str, list[str]],
        describe: Callable[[Estimate], Row],
    ) -> Iterator[tuple[str, Row]]:
        """Rows by benchmark, then by mean; one that lacks a benchmark has no number."""
        yield from ((name, row) for name, (_, row) in found.items())
        for mean, names in means.items():
            pairs = [found[name] for name in names if name in found]
            held = [estimate for estimate, _ in pairs if estimate is not None]
            row: Row = {"n": sum(estimate.n for estimate in held), "claim": ""}
            if len(held) == len(names):
                row = {"claim": pairs[0][1].get("claim")} | describe(Estimate.averaged(held))
            yield mean, row

    def _compare(
        self, cell: Any, arm: str, reference: str, name: str
    ) -> tuple[Estimate | None, Row]:
        from statsmodels.stats.contingency_tables import mcnemar

        wide = cell.pivot(index="sample_id", columns=["arm", "seed"], values="value")
        ours, theirs = (wide[one] if one in wide else wide.iloc[:, :0] for one in (arm, reference))
        shared = ours.columns.intersection(theirs.columns)
        if len(shared):
            ours, theirs = ours[shared], theirs[shared]
        gains = (ours.mean(axis=1, skipna=False) - theirs.mean(axis=1, skipna=False)).dropna()
        claim = _claim(len(ours.columns), len(theirs.columns))
        if gains.empty:
            return None, {"n": 0, "claim": claim}
        pointed = bool(cell["points"].notna().any())
        found = self._estimate(gains, cell, name, (ours - theirs)[shared].mean(), gains.iloc[:0])
        # Means of seeds are multiples of this.
        unit = None if pointed else 1 / lcm(len(ours.columns), len(theirs.columns)) / found.n
        row = self._difference(found, unit) | {"claim": claim}
        seeds = theirs if len(theirs.columns) > 1 else ours
        if len(seeds.columns) > 1:  # A/A: two seeds of one arm, compared as arms are
            same = (seeds.iloc[:, 0] - seeds.iloc[:, 1]).dropna()
            sums = np.asarray(same.groupby(_clusters(cell)).sum(), np.float64)
            p = flip_test(sums, unit=None if pointed else 1.0)
            row |= {"aa_difference": float(same.mean()), "aa_p": p}
        if not pointed:
            b, c = int((gains > _EQUAL).sum()), int((gains < -_EQUAL).sum())
            row |= {"b": b, "c": c, "p": float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)}
        return found, row

    def _difference(self, found: Estimate, unit: float | None = None) -> Row:
        return self._columns(found) | {
            "difference": found.mean,
            "p_clustered": flip_test(found.sums, unit=unit),
            "detectable": detectable(found.sums, 1, confidence=self.confidence),
        }


def prepared(results: Any) -> Any:
    """The results that count, with the `value` and `cluster` of each; SEED's parts stand as further
    benchmarks.
    """
    import pandas

    blank = {"cluster": "", "question_type": "", "lenient": None}
    table = pandas.DataFrame(results)
    table = table.assign(**{name: value for name, value in blank.items() if name not in table})
    numbers = ["points", "correct", "strictly_correct", "parsed", "lenient"]
    table[numbers] = table[numbers].astype(float)
    table["value"] = table["points"].fillna(table["correct"])
    table = table.dropna(subset="value")
    known = table["cluster"].fillna("").astype(str)
    table["cluster"] = known.where(known != "", "question " + table["sample_id"].astype(str))
    seed = (table["benchmark"] == SEED_BENCHMARK) & table["question_type"].isin(SEED_PARTS)
    parts = table[seed].assign(benchmark=SEED_BENCHMARK + "_" + table["question_type"])
    return pandas.concat([table, parts], ignore_index=True)


def _clusters(cell: Any) -> Any:
    return cell.groupby("sample_id")["cluster"].first()


def _claim(ours: int, theirs: int) -> str:
    """What a p of this many checkpoints of each arm is about."""
    two = ours == theirs == 1
    return "these two checkpoints" if two else f"these {ours} and {theirs} checkpoints"


def _plain(schema: Any, row: Row) -> Row:
    """A row with the columns of a table of the contract: None for what is not known."""
    known = {name: value for name, value in row.items() if value == value}
    return {name: known.get(name) for name in schema.names}


def _with_holm(rows: list[Row]) -> list[Row]:
    """The rows with `p_holm`: Holm's adjustment over the arms that one benchmark tests."""
    from statsmodels.stats.multitest import multipletests

    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == benchmark]
        tested = [row for row in own if row["p_clustered"] is not None]
        if tested:
            values = multipletests([row["p_clustered"] for row in tested], method="holm")[1]
            for row, value in zip(tested, values, strict=True):
                row["p_holm"] = float(value)
    return rows
