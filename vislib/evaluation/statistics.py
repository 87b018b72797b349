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

from collections.abc import Iterator, Mapping
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vislib.runs.seeding import seeded
from vislib.runs.tables import Row

# the one that chose the paper's mix; which of its parts the paper means is not known
SEED_BENCHMARK = "seedbench"
SEED_PARTS = ("image", "video")
MME = "mme"  # in points, not in shares
POWER = 0.8  # of the difference that a comparison can detect
Numbers = NDArray[np.float64]
_CELL = ["model", "arm"]
_SCORED = (
    "accuracy",
    "low",
    "high",
    "seed_deviation",
    "strict_accuracy",
    "unparsed",
    "lenient_accuracy",
    "clusters",
)
_COMPARED = (
    "b",
    "c",
    "difference",
    "low",
    "high",
    "p",
    "clusters",
    "p_clustered",
    "detectable",
    "seed_deviation",
    "aa_difference",
    "aa_p",
)


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


class Statistics:
    """Scores and comparisons of results (the contract's columns, by name), deterministic by `seed`.

    Without a column `cluster`, or where that is empty, a question stands for itself. `left_out`:
    benchmarks that are in no mean.
    """

    def __init__(
        self,
        results: Mapping[str, Any],
        *,
        resamples: int,
        confidence: float,
        seed: int,
        left_out: tuple[str, ...],
    ) -> None:
        import pandas

        table = pandas.DataFrame(results)
        blank = {"cluster": "", "question_type": "", "lenient": None}
        table = table.assign(**{name: value for name, value in blank.items() if name not in table})
        values = table["points"].astype(float).fillna(table["correct"].astype(float))
        own = "question " + table["sample_id"].astype(str)
        known = table["cluster"].fillna("").astype(str)
        table = table.assign(value=values, cluster=known.where(known != "", own))[values.notna()]
        parts = table[
            (table["benchmark"] == SEED_BENCHMARK) & table["question_type"].isin(SEED_PARTS)
        ]
        parts = parts.assign(benchmark=SEED_BENCHMARK + "_" + parts["question_type"])
        self.results = pandas.concat([table, parts], ignore_index=True) if len(parts) else table
        self.resamples, self.confidence, self.seed, self.left_out = (
            resamples,
            confidence,
            seed,
            left_out,
        )

    def scores(self) -> Iterator[Row]:
        """Rows of the contract's `scores`: each model and arm on each benchmark, then its means
        over benchmarks.
        """
        for (model, arm), own in self.results.groupby(_CELL, sort=False):
            rows, draws = {}, {}
            for benchmark, cell in own.groupby("benchmark", sort=False):
                questions = cell.groupby("sample_id", sort=False).agg(
                    {"value": "mean", "cluster": "first"}
                )
                draws[benchmark] = self._draws(
                    questions["value"], questions["cluster"], str(benchmark)
                )
                rows[benchmark] = self._score(cell, questions, draws[benchmark])
            for mean, averaged in self._means(model).items():
                rows[mean] = self._mean_score(own, averaged, rows, draws)
            for benchmark, row in rows.items():
                yield {"model": model, "arm": arm, "benchmark": benchmark, **row}

    def comparisons(self, reference: str) -> Iterator[Row]:
        """Rows of the contract's `comparisons`: each arm against `reference` of its model, on the
        questions and seeds that both have (on all seeds where they share none). b: questions that
        the arm alone answers right; c: those that the reference alone does. `difference` is the
        arm's minus the reference's; p_holm is p_clustered, adjusted over the arms of one benchmark.
        """
        for model, own in self.results.groupby("model", sort=False):
            rows: list[Row] = []
            arms = list(dict.fromkeys(own["arm"]))
            for arm in (name for name in arms if reference in arms and name != reference):
                found, draws, sums = {}, {}, {}
                for benchmark, cell in own.groupby("benchmark", sort=False):
                    found[benchmark], draws[benchmark], sums[benchmark] = self._compare(
                        cell, arm, reference, str(benchmark)
                    )
                for mean, averaged in self._means(model).items():
                    found[mean] = self._mean_comparison(averaged, found, draws, sums)
                names = {"model": model, "arm": arm, "reference": reference}
                rows += [{**names, "benchmark": name, **row} for name, row in found.items()]
            yield from _with_holm(rows)

    def _draws(self, values: Any, clusters: Any, benchmark: str) -> Numbers:
        """Means of clusters drawn with replacement: the same ones for every arm that has the same
        questions.

        NaN where there is one cluster alone, of which nothing can be drawn.
        """
        grouped = values.groupby(clusters, sort=False)
        sums, sizes = np.asarray(grouped.sum(), np.float64), np.asarray(grouped.size())
        if len(sums) < 2:
            return np.full(self.resamples, np.nan)
        rng = np.random.default_rng(seeded(self.seed, benchmark))
        drawn = (rng.integers(len(sums), size=len(sums)) for _ in range(self.resamples))
        return np.array([sums[places].sum() / sizes[places].sum() for places in drawn])

    def _interval(self, draws: Numbers) -> dict[str, float | None]:
        ends = np.quantile(draws, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return {
            name: None if np.isnan(end) else float(end)
            for name, end in zip(("low", "high"), ends, strict=True)
        }

    def _score(self, cell: Any, questions: Any, draws: Numbers) -> Row:
        from statsmodels.stats.proportion import proportion_confint

        by_seed, clusters = cell.groupby("seed")["value"].mean(), questions["cluster"].nunique()
        interval, n = self._interval(draws), len(questions)
        share, alone = float(questions["value"].mean()), len(by_seed) == 1 and clusters == n
        if cell["points"].isna().all() and (alone or share in (0, 1)):  # all alike: nothing to draw
            right, alpha = round(share * clusters), 1 - self.confidence
            ends = proportion_confint(right, clusters, alpha=alpha, method="wilson")
            interval = dict(zip(("low", "high"), map(float, ends), strict=True))
        return {
            "n": n,
            "seeds": len(by_seed),
            "accuracy": share,
            **interval,
            "seed_deviation": _deviation(by_seed),
            "strict_accuracy": _share(cell["strictly_correct"]),
            "unparsed": None if (parsed := _share(cell["parsed"])) is None else 1 - parsed,
            "lenient_accuracy": _share(cell["lenient"]),
            "clusters": clusters,
        }

    def _means(self, model: object) -> dict[str, list[str]]:
        """The benchmarks of each mean: those of any arm of the model, but for points; a mean has
        two or more.

        SEED is in it whole, with its images alone, or not at all.
        """
        own = list(dict.fromkeys(self.results.loc[self.results["model"] == model, "benchmark"]))
        image, *parts = (f"{SEED_BENCHMARK}_{part}" for part in SEED_PARTS)
        names = [
            name
            for name in own
            if not name.startswith(MME) and name not in (image, *parts, *self.left_out)
        ]
        means = {"mean": names}
        if image in own:
            means["mean_seedbench_image"] = [
                image if name == SEED_BENCHMARK else name for name in names
            ]
        means["mean_without_seedbench"] = [name for name in names if name != SEED_BENCHMARK]
        return {mean: averaged for mean, averaged in means.items() if len(averaged) > 1}

    def _mean_score(
        self, own: Any, averaged: list[str], rows: Mapping[str, Row], draws: Mapping[str, Numbers]
    ) -> Row:
        """The mean of an arm; without a number where it lacks one of the benchmarks."""
        held = [name for name in averaged if name in draws]
        row: Row = dict.fromkeys(_SCORED) | {
            "n": sum(rows[name]["n"] for name in held),
            "seeds": own["seed"].nunique(),
        }
        if held != averaged:
            return row
        by_seed = (
            own[own["benchmark"].isin(held)]
            .groupby(["seed", "benchmark"])["value"]
            .mean()
            .groupby("seed")
            .mean()
        )
        for name in ("accuracy", "strict_accuracy", "lenient_accuracy"):
            shares = [rows[benchmark][name] for benchmark in held]
            row[name] = None if None in shares else float(np.mean(shares))
        row |= {
            "clusters": sum(rows[name]["clusters"] for name in held),
            "seed_deviation": _deviation(by_seed),
        }
        return row | self._interval(np.mean([draws[name] for name in held], axis=0))

    def _compare(
        self, cell: Any, arm: str, reference: str, benchmark: str
    ) -> tuple[Row, Numbers, Numbers]:
        """A row, draws of the difference, and the clusters' shares of it."""
        from statsmodels.stats.contingency_tables import mcnemar

        ours, theirs = (
            cell[cell["arm"] == name].pivot(index="sample_id", columns="seed", values="value")
            for name in (arm, reference)
        )
        shared = ours.columns.intersection(theirs.columns)
        if len(shared):
            ours, theirs = ours[shared], theirs[shared]
        gains = (ours.mean(axis=1, skipna=False) - theirs.mean(axis=1, skipna=False)).dropna()
        row: Row = dict.fromkeys(_COMPARED) | {
            "n": len(gains),
            "claim": _claim(len(ours.columns), len(theirs.columns)),
        }
        if gains.empty:
            return row, np.array([]), np.array([])
        clusters = cell.groupby("sample_id")["cluster"].first()
        draws, pointed = self._draws(gains, clusters, benchmark), bool(cell["points"].notna().any())
        sums = np.asarray(gains.groupby(clusters).sum(), np.float64)
        unit = None if pointed else 1 / lcm(len(ours.columns), len(theirs.columns))
        row |= {"difference": float(gains.mean()), **self._interval(draws), "clusters": len(sums)}
        row |= {
            "p_clustered": flip_test(sums, unit=unit),
            **_same_arm(theirs, ours, clusters, pointed=pointed),
        }
        row["detectable"] = detectable(sums, len(gains), confidence=self.confidence)
        row["seed_deviation"] = _deviation((ours - theirs).mean()) if len(shared) else None
        if not pointed:
            b, c = int((gains > _EQUAL).sum()), int((gains < -_EQUAL).sum())
            row |= {"b": b, "c": c, "p": float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)}
        return row, draws, sums / len(gains)

    def _mean_comparison(
        self,
        averaged: list[str],
        found: Mapping[str, Row],
        draws: Mapping[str, Numbers],
        sums: Mapping[str, Numbers],
    ) -> Row:
        held = [name for name in averaged if len(draws.get(name, ()))]
        row: Row = dict.fromkeys(_COMPARED) | {
            "n": sum(found[name]["n"] for name in held),
            "claim": "",
        }
        if held == averaged:
            parts = np.concatenate([sums[name] for name in held]) / len(held)
            row |= {
                "difference": float(np.mean([found[name]["difference"] for name in held])),
                "clusters": len(parts),
            }
            row |= self._interval(np.mean([draws[name] for name in held], axis=0))
            row |= {"p_clustered": flip_test(parts, unit=None), "claim": found[held[0]]["claim"]}
            row["detectable"] = detectable(parts, 1, confidence=self.confidence)
        return row


_EQUAL = 1e-9  # means of seeds differ by less through rounding alone


def _claim(ours: int, theirs: int) -> str:
    """What a p of this many checkpoints of each arm is about."""
    return (
        "these two checkpoints" if ours == theirs == 1 else f"these {ours} and {theirs} checkpoints"
    )


def _same_arm(theirs: Any, ours: Any, clusters: Any, *, pointed: bool) -> Row:
    """The first two seeds of the reference, else of the arm, compared as arms are: what training's
    chance makes.
    """
    for values in (theirs, ours):
        if len(values.columns) > 1:
            gains = (values.iloc[:, 0] - values.iloc[:, 1]).dropna()
            sums = np.asarray(gains.groupby(clusters).sum(), np.float64)
            p = flip_test(sums, unit=None if pointed else 1.0)
            return {"aa_difference": float(gains.mean()), "aa_p": p}
    return {}


def _deviation(by_seed: Any) -> float | None:
    """Standard deviation between seeds (of the sample), if there are several."""
    return float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None


def _share(flags: Any) -> float | None:
    held = flags.dropna()
    return float(held.astype(float).mean()) if len(held) else None


def _with_holm(rows: list[Row]) -> list[Row]:
    """The rows with `p_holm`: Holm's adjustment over the arms that one benchmark tests."""
    from statsmodels.stats.multitest import multipletests

    adjusted = [{**row, "p_holm": None} for row in rows]
    for benchmark in dict.fromkeys(row["benchmark"] for row in adjusted):
        tested = [
            row
            for row in adjusted
            if row["benchmark"] == benchmark and row["p_clustered"] is not None
        ]
        if tested:
            values = multipletests([row["p_clustered"] for row in tested], method="holm")[1]
            for row, value in zip(tested, values, strict=True):
                row["p_holm"] = float(value)
    return adjusted
