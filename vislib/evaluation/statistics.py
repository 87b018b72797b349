"""Whether a difference between arms is real (VisCon-100K, section 5.3: McNemar's test; intervals and seeds are ours).

A question's value is 0 or 1, or its points where a benchmark gives points; with several seeds of an arm it is their
mean. What chance could do is drawn over questions (seeds stay as they are; their own spread stands beside). McNemar's
exact test counts the questions on which two arms differ; with several seeds a question counts for the arm that more
seeds answer right, so that it stays one sign per question: for one seed this is McNemar's test itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vislib.runs.seeding import seeded
from vislib.runs.tables import Row

SEED_BENCHMARK, MME = "seedbench", "mme"  # the one that chose the paper's mix; those in points, not in shares
Numbers = NDArray[np.float64]
_CELL = ["model", "arm"]


class Statistics:
    """Scores and comparisons of results (the contract's columns, by name), deterministic by `seed`.

    `left_out`: benchmarks that are in no mean.
    """

    def __init__(
        self, results: Mapping[str, Any], *, resamples: int, confidence: float, seed: int, left_out: tuple[str, ...]
    ) -> None:
        import pandas

        table = pandas.DataFrame(results)
        values = table["points"].astype(float).fillna(table["correct"].astype(float))
        self.results = table.assign(value=values)[values.notna()]
        self.resamples, self.confidence, self.seed, self.left_out = resamples, confidence, seed, left_out

    def scores(self) -> Iterator[Row]:
        """Rows of the contract's `scores`: each model and arm on each benchmark, then its means over benchmarks."""
        for (model, arm), own in self.results.groupby(_CELL, sort=False):
            rows, draws = {}, {}
            for benchmark, cell in own.groupby("benchmark", sort=False):
                draws[benchmark] = self._draws(_by_question(cell), str(benchmark))
                rows[benchmark] = self._score(cell, draws[benchmark])
            for mean, averaged in self._means(model).items():
                rows[mean] = self._mean_score(own, averaged, rows, draws)
            for benchmark, row in rows.items():
                yield {"model": model, "arm": arm, "benchmark": benchmark, **row}

    def comparisons(self, reference: str) -> Iterator[Row]:
        """Rows of the contract's `comparisons`: each arm against `reference` of its model, on the questions and seeds
        that both have. b: questions that the arm alone answers right; c: those that the reference alone does.
        `difference` is the arm's minus the reference's; p_holm is adjusted over the arms of one benchmark.
        """
        for model, own in self.results.groupby("model", sort=False):
            rows: list[Row] = []
            arms = list(dict.fromkeys(own["arm"]))
            for arm in (name for name in arms if reference in arms and name != reference):
                found, draws = {}, {}
                for benchmark, cell in own.groupby("benchmark", sort=False):
                    found[benchmark], draws[benchmark] = self._compare(cell, arm, reference, str(benchmark))
                for mean, averaged in self._means(model).items():
                    found[mean] = self._mean_comparison(averaged, found, draws)
                names = {"model": model, "arm": arm, "reference": reference}
                rows += [{**names, "benchmark": name, **row} for name, row in found.items()]
            yield from _with_holm(rows)

    def _draws(self, values: Any, benchmark: str) -> Numbers:
        """Means of the questions drawn with replacement: the same questions for every arm that has the same ones."""
        held = np.asarray(values, np.float64)
        rng = np.random.default_rng(seeded(self.seed, benchmark))
        return np.array([held[rng.integers(len(held), size=len(held))].mean() for _ in range(self.resamples)])

    def _interval(self, draws: Numbers) -> dict[str, float]:
        low, high = np.quantile(draws, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return {"low": float(low), "high": float(high)}

    def _score(self, cell: Any, draws: Numbers) -> Row:
        from statsmodels.stats.proportion import proportion_confint

        questions, by_seed = _by_question(cell), cell.groupby("seed")["value"].mean()
        interval = self._interval(draws)
        if len(by_seed) == 1 and cell["points"].isna().all():
            right, alpha = int(questions.sum()), 1 - self.confidence
            ends = proportion_confint(right, len(questions), alpha=alpha, method="wilson")
            interval = dict(zip(("low", "high"), map(float, ends), strict=True))
        return {
            "n": len(questions), "seeds": len(by_seed), "accuracy": float(questions.mean()), **interval,
            "seed_deviation": _deviation(by_seed), "strict_accuracy": _share(cell["strictly_correct"]),
            "unparsed": None if (parsed := _share(cell["parsed"])) is None else 1 - parsed,
        }  # fmt: skip

    def _means(self, model: object) -> dict[str, list[str]]:
        """The benchmarks of each mean: those of any arm of the model, but for points; a mean has two or more."""
        own = self.results.loc[self.results["model"] == model, "benchmark"]
        names = [name for name in dict.fromkeys(own) if not name.startswith(MME) and name not in self.left_out]
        without = [name for name in names if name != SEED_BENCHMARK]
        means = {"mean": names, "mean_without_seedbench": without}
        return {mean: averaged for mean, averaged in means.items() if len(averaged) > 1}

    def _mean_score(self, own: Any, averaged: list[str], rows: Mapping[str, Row], draws: Mapping[str, Numbers]) -> Row:
        """The mean of an arm; without a number where it lacks one of the benchmarks."""
        held = [name for name in averaged if name in draws]
        row: Row = dict.fromkeys(("accuracy", "low", "high", "seed_deviation", "strict_accuracy", "unparsed"))
        row |= {"n": sum(rows[name]["n"] for name in held), "seeds": own["seed"].nunique()}
        if held != averaged:
            return row
        by_seed = own[own["benchmark"].isin(held)].groupby(["seed", "benchmark"])["value"].mean().groupby("seed").mean()
        strict = [rows[name]["strict_accuracy"] for name in held]
        return {
            **row, "accuracy": float(np.mean([rows[name]["accuracy"] for name in held])),
            **self._interval(np.mean([draws[name] for name in held], axis=0)), "seed_deviation": _deviation(by_seed),
            "strict_accuracy": None if None in strict else float(np.mean(strict)),
        }  # fmt: skip

    def _compare(self, cell: Any, arm: str, reference: str, benchmark: str) -> tuple[Row, Numbers]:
        from statsmodels.stats.contingency_tables import mcnemar

        ours, theirs = (
            cell[cell["arm"] == name].pivot(index="sample_id", columns="seed", values="value")
            for name in (arm, reference)
        )
        gains = (ours - theirs)[ours.columns.intersection(theirs.columns)].mean(axis=1, skipna=False).dropna()
        row: Row = dict.fromkeys(("b", "c", "difference", "low", "high", "p")) | {"n": len(gains)}
        if gains.empty:
            return row, np.array([])
        draws = self._draws(gains, benchmark)
        row |= {"difference": float(gains.mean()), **self._interval(draws)}
        if cell["points"].isna().all():
            b, c = int((gains > 0).sum()), int((gains < 0).sum())
            row |= {"b": b, "c": c, "p": float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)}
        return row, draws

    def _mean_comparison(self, averaged: list[str], found: Mapping[str, Row], draws: Mapping[str, Numbers]) -> Row:
        held = [name for name in averaged if len(draws.get(name, ()))]
        row: Row = dict.fromkeys(("b", "c", "difference", "low", "high", "p"))
        row |= {"n": sum(found[name]["n"] for name in held)}
        if held == averaged:
            row["difference"] = float(np.mean([found[name]["difference"] for name in held]))
            row |= self._interval(np.mean([draws[name] for name in held], axis=0))
        return row


def _by_question(cell: Any) -> Any:
    return cell.groupby("sample_id", sort=False)["value"].mean()


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
        tested = [row for row in adjusted if row["benchmark"] == benchmark and row["p"] is not None]
        if tested:
            values = multipletests([row["p"] for row in tested], method="holm")[1]
            for row, value in zip(tested, values, strict=True):
                row["p_holm"] = float(value)
    return adjusted
