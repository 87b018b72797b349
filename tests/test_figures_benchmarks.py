"""Arms on benchmarks: what is drawn of ours and of the papers, what the table says, and what is an
error.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from statsmodels.stats.proportion import proportion_confint

from vislib import figures
from vislib.figures import arm_table, benchmarks, plots
from vislib.runs.contract import ARMS, BENCHMARK_SCORES, COMPARISONS
from vislib.runs.errors import InputError

SIX = {
    "seedbench": 0.7,
    "mmbench_en_dev_static": 0.6,
    "mmmu_val": 0.3,
    "ai2d": 0.5,
    "scienceqa_img": 0.7,
    "llava_in_the_wild": 0.6,
}
Cell = tuple[str, str]  # model, arm
SHARE = [("ShareGPT4V-7b", arm) for arm in ("base", "captions", "leaky_mix")]
TINY = [("tiny-llava", "base"), ("tiny-llava", "leaky_mix"), ("tiny-idefics2", "base")]


def write(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    blank = {
        field.name: None if field.type == pa.float64() else 0 if field.type == pa.int64() else ""
        for field in schema
    }
    pq.write_table(
        pa.Table.from_pylist([blank | row for row in rows], schema=schema),
        folder / "part-00000.parquet",
    )
    return folder


def scores_at(
    folder: Path, cells: Sequence[Cell], accuracies: dict[str, float], **parameters: Any
) -> Path:
    """The `scores` of a stage 12 with these parameters; every arm is 1 % better than the one before
    it.
    """
    stage = folder / "12_evaluation"
    rows = [
        {
            "model": model,
            "arm": arm,
            "benchmark": name,
            "n": 100,
            "seeds": 1,
            "accuracy": value + n / 100,
            "low": value + n / 100 - 0.05,
            "high": value + n / 100 + 0.05,
        }
        for n, (model, arm) in enumerate(cells)
        for name, value in accuracies.items()
    ]
    table = write(stage / "data/scores", BENCHMARK_SCORES, rows)
    (stage / "run.json").write_text(json.dumps({"hashes": {"parameters": parameters}}))
    return table


def texts(axes: Any) -> list[str]:
    legend = axes.get_legend()
    return [t.get_text() for t in (*axes.texts, *(legend.get_texts() if legend else ()))]


def red(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_color() == plots.CONTRAST]


def models_figure(
    folder: Path, cells: Sequence[Cell], accuracies: dict[str, float], paper: Sequence[str]
) -> list[Any]:
    scores = benchmarks.load_scores(scores_at(folder, cells, accuracies), [])
    models = scores["model"].unique()
    figure, panels = figures.new_mosaic(
        ";".join(benchmarks.LETTERS[: len(models)]), columns=2, aspect=0.4
    )
    caveat = benchmarks.caveat(scores, benchmarks.load_arms([]))
    benchmarks.plot_models(panels, scores, paper=paper, caveat=caveat)
    figures.save_figure(figure, folder, "models", scores)
    return panels


def test_every_benchmark_has_a_place_and_means_stand_apart(tmp_path: Path) -> None:
    means = {"mean": 0.57, "mean_seedbench_image": 0.58, "mean_without_seedbench": 0.54}
    parts = {"seedbench_image": 0.75, "seedbench_video": 0.4}
    (axes,) = models_figure(tmp_path, SHARE, SIX | parts | means, [])
    names = [
        tick.get_text().replace("\n", " ").partition(" n =")[0] for tick in axes.get_xticklabels()
    ]
    assert names == [
        "SEED all",
        "SEED image",
        "SEED video",
        "MMBench",
        "MMMU",
        "AI2D",
        "ScienceQA",
        "LLaVA- Bench",
        "mean SEED all",
        "mean SEED image",
        "mean without SEED",
    ]
    assert axes.get_xticklabels()[0].get_text() == "SEED\nall\nn = 100"
    assert texts(axes) == ["base", "captions", "leaky mix"]
    assert not red(axes)
    shown = sorted(round(float(bar.lines[0].get_ydata()[0])) for bar in axes.containers)
    assert shown == sorted(
        round(100 * (value + n / 100)) for value in (SIX | parts | means).values() for n in range(3)
    )
    assert len({bar.lines[0].get_marker() for bar in axes.containers}) == 3


def test_an_end_that_rounding_puts_beyond_its_accuracy_is_drawn(tmp_path: Path) -> None:
    scores = benchmarks.load_scores(scores_at(tmp_path / "a", SHARE[:1], {"ai2d": 0.0}), [])
    low, high = proportion_confint(0, 7, method="wilson")
    assert low > 0
    panels = figures.new_mosaic("a", columns=2, aspect=0.4)[1]
    benchmarks.plot_models(panels, scores.assign(low=low, high=high), paper=[], caveat="")


def test_the_papers_means_stand_beside_the_models_that_the_set_names_alone(tmp_path: Path) -> None:
    cells = [*SHARE, ("mine", "base")]
    named, other = models_figure(tmp_path, cells, SIX, ["ShareGPT4V-7b", "IDEFICS2-8b"])
    assert {round(float(line.get_ydata()[0]), 2) for line in red(named)} == {60.35, 59.51, 60.81}
    assert "leaky mix 60.81\nbase 60.35\nnon-contextual 59.51" in texts(named)
    assert not red(other)
    assert "SEED unknown" in named.get_xticklabels()[-1].get_text()
    reported = benchmarks.paper_table(["ShareGPT4V-7b"])
    assert reported["model"].tolist() == ["ShareGPT4V-7b (paper)"] * 3
    assert set(reported["benchmark"]) == {"mean"}


def test_more_models_than_panels_are_refused(tmp_path: Path) -> None:
    cells = [(f"model {n}", "base") for n in range(len(benchmarks.LETTERS) + 1)]
    with pytest.raises(InputError, match="9 models, a figure 8 panels"):
        models_figure(tmp_path, cells, {"ai2d": 0.5}, [])


def test_what_is_not_a_result_says_so_on_every_figure(tmp_path: Path) -> None:
    panels = models_figure(tmp_path / "a", TINY, {"vislib_contextual": 0.2}, [])
    assert all(axes.get_title(loc="left").endswith(benchmarks.TINY) for axes in panels)
    scores = benchmarks.load_scores(
        scores_at(tmp_path / "b", [("renamed", "base")], {"vislib_contextual": 0.2}), []
    )
    arms = benchmarks.load_arms(
        [write(tmp_path / "arms", ARMS, [{"model": "renamed", "base": "tiny-llava"}])]
    )
    assert benchmarks.TINY in benchmarks.caveat(scores, arms)
    assert benchmarks.caveat(scores, benchmarks.load_arms([])) == ""


def test_small_print_names_the_judge_the_interval_and_whose_numbers_are_red(tmp_path: Path) -> None:
    table = scores_at(tmp_path / "a", SHARE, SIX, judge="some-judge", confidence=0.9)
    scores = benchmarks.load_scores(table, [])
    said = benchmarks.remarks(table, scores, paper=["ShareGPT4V-7b"])
    assert "Judge of LLaVA-Bench: some-judge." in said
    assert "90 % intervals" in said
    assert "LLaMA3-8b" in said
    plain = scores_at(tmp_path / "b", SHARE, {"ai2d": 0.5})
    assert "udge" not in benchmarks.remarks(
        plain, benchmarks.load_scores(plain, []), paper=["IDEFICS2-8b"]
    )


def test_arms_are_shown_in_the_order_asked_for_and_a_mean_without_a_number_is_not(
    tmp_path: Path,
) -> None:
    table = scores_at(
        tmp_path, [*SHARE, ("b", "base"), ("b", "captions")], {"ai2d": 0.5, "mean": float("nan")}
    )
    shown = benchmarks.load_scores(table, ["captions", "base"])
    assert shown[["model", "arm"]].to_numpy().tolist() == [
        ["ShareGPT4V-7b", "captions"],
        ["ShareGPT4V-7b", "base"],
        ["b", "captions"],
        ["b", "base"],
    ]
    with pytest.raises(
        InputError, match=r"show is \['caption'\]; arms with scores: base, captions, leaky_mix"
    ):
        benchmarks.load_scores(table, ["caption"])
    with pytest.raises(InputError, match="30 arms, but a figure tells"):
        benchmarks.marks(map(str, range(30)))


def test_a_number_of_the_papers_stands_beside_ours_of_the_same_part_of_seed_alone(
    tmp_path: Path,
) -> None:
    ours = {"seedbench": 0.6, "seedbench_image": 0.67, "seedbench_video": 0.4}
    (shares, _, priors), _ = densefusion(
        tmp_path, [("LLaVA-1.5-7B", "densefusion")], ours, ["densefusion"]
    )
    names = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in (shares, priors)]
    assert {"SEED all", "SEED image", "SEED video"} <= set(names[0])
    assert {"SEED all", "SEED image", "SEED, variant unknown"} <= set(names[1])
    paper = benchmarks.densefusion_table().set_index("benchmark")["accuracy"]
    assert paper["seedbench_image"].tolist() == [0.662, 0.701]
    assert paper["seedbench_unknown"].tolist() == [0.603, 0.608]
    assert "seedbench" not in paper.index


def compared(folder: Path, benchmark: str = "seedbench", **changes: Any) -> Path:
    row = {
        "model": "ShareGPT4V-7b",
        "arm": "base",
        "reference": "leaky_mix",
        "benchmark": benchmark,
        "n": 90,
        "b": 11,
        "c": 23,
        "difference": -0.12,
        "low": -0.2,
        "high": -0.04,
        "p": 0.0576,
        "p_holm": 0.00001,
    }
    return write(
        folder,
        COMPARISONS,
        [row | changes, row | changes | {"arm": "captions", "p": None, "p_holm": None}],
    )


SIZES = [
    {"model": "ShareGPT4V-7b", "arm": "base", "seed": seed, "supervised_tokens": 1000}
    for seed in (0, 1)
]


def sheet(
    tmp_path: Path,
    benchmark: str,
    paper: Sequence[str],
    sizes: Sequence[dict[str, Any]] = SIZES,
    **changes: Any,
) -> tuple[Any, list[str]]:
    scores = benchmarks.load_scores(scores_at(tmp_path, SHARE, SIX | {"mme": 1500.0}), [])
    arms = benchmarks.load_arms([write(tmp_path / "arms", ARMS, sizes)])
    tests = pd.read_parquet(compared(tmp_path / "comparisons", benchmark, **changes))
    table = arm_table.join(scores, tests, arms, benchmark)
    _, axes, width = figures.new_sheet()
    assert arm_table.plot(axes, table, width=width, paper=paper, caveat="") > 40
    return table, texts(axes)


def test_the_table_says_what_was_tested_and_leaves_cells_empty_that_nobody_knows(
    tmp_path: Path,
) -> None:
    table, said = sheet(tmp_path, "seedbench", [])
    assert table["arm"].tolist() == ["base", "captions", "leaky_mix"]
    assert "70.0 [65.0, 75.0]" in said
    assert said.count("−12.0 [−20.0, −4.0]") == 2
    assert said.count("1,000") == 1  # one arm's size is known
    assert said.count("0.058") == said.count("1.0e−05") == 1
    assert said.count("11") == said.count("23") == 2
    assert "difference\nto leaky mix" in said
    assert not any("paper" in text for text in said)


def test_arms_of_unequal_size_are_marked_and_their_sizes_said(tmp_path: Path) -> None:
    sizes = [
        {"model": "ShareGPT4V-7b", "arm": arm, "samples": 90, "supervised_tokens": tokens}
        for arm, tokens in (("base", 2_000_000), ("captions", 995_000), ("leaky_mix", 1_000_000))
    ]
    table, said = sheet(tmp_path, "seedbench", [], sizes)
    unequal = dict(zip(table["arm"], table["unequal"], strict=True))
    assert unequal == {"base": "2 M supervised tokens to 1 M", "captions": "", "leaky_mix": ""}
    assert {"base †", "captions", "leaky mix"} <= set(said)
    assert any(
        "† Unequal to the reference" in text and "base 2 M supervised tokens to 1 M." in text
        for text in said
    )
    assert not any("†" in text for text in sheet(tmp_path / "unknown", "seedbench", [])[1])


def test_the_table_says_which_checkpoints_p_is_about_and_how_far_two_seeds_lie_apart(
    tmp_path: Path,
) -> None:
    _, said = sheet(tmp_path / "a", "seedbench", [], claim="these two checkpoints")
    assert "p is about these two checkpoints, not about arms trained again." in said
    assert any("no A/A comparison" in text for text in said)
    several = {
        "claim": "these 2 and 2 checkpoints",
        "aa_difference": 0.004,
        "aa_p": 0.41,
        "detectable": 0.02,
    }
    _, said = sheet(tmp_path / "b", "seedbench", [], **several, p_clustered=0.2)
    assert "A/A, two seeds of one arm compared in the same way: +0.4, p = 0.41." in said
    assert said.count("2.0") == said.count("0.200") == 2


def test_the_papers_tests_are_marked_as_the_papers_and_stand_at_seed_alone(tmp_path: Path) -> None:
    _, said = sheet(tmp_path / "a", "seedbench", ["ShareGPT4V-7b"])
    (line,) = [text for text in said if "paper" in text]
    assert (
        "on SEED, variant unknown: against base p = 2.118e-05, against captions p = 0.027" in line
    )
    assert not any("paper" in text for text in sheet(tmp_path / "b", "ai2d", ["ShareGPT4V-7b"])[1])


def test_points_are_no_shares_and_an_unknown_benchmark_is_named(tmp_path: Path) -> None:
    _, said = sheet(tmp_path / "a", "mme", [], difference=12.0, low=-3.0, high=27.0, b=None, c=None)
    assert "1500.0 [1500.0, 1500.1]" in said
    assert "+12.0 [−3.0, +27.0]" in said
    with pytest.raises(
        InputError,
        match="benchmark is 'gqa', which no arm was evaluated on; 12 has scores on seedbench",
    ):
        sheet(tmp_path / "b", "gqa", [])


def densefusion(
    folder: Path, cells: Sequence[Cell], accuracies: dict[str, float], fusion: Sequence[str]
) -> tuple[list[Any], list[bytes]]:
    scores = benchmarks.load_scores(scores_at(folder, cells, accuracies), [])
    figure, panels = figures.new_mosaic("ab;ac", columns=2, aspect=0.7)
    benchmarks.plot_densefusion(panels, scores, fusion=fusion, caveat="")
    return panels, [file.read_bytes() for file in figures.save_figure(figure, folder, "f", scores)]


def test_ours_stand_below_the_papers_numbers_and_mme_on_a_scale_of_its_own(tmp_path: Path) -> None:
    cells = [("LLaVA-1.5-7B", "base"), ("LLaVA-1.5-7B", "densefusion")]
    ours = {"gqa": 0.6, "mme": 1500.0, "textvqa_val": 0.5, "mean": 0.5}
    (shares, points, priors), saved = densefusion(tmp_path / "a", cells, ours, ["densefusion"])
    assert densefusion(tmp_path / "b", cells, ours, ["densefusion"])[1] == saved
    assert "62.0 → 64.0" in texts(shares)
    assert "1,510 → 1,574" in texts(points)
    assert [len(axes.containers) for axes in (shares, points, priors)] == [4, 2, 1]
    assert points.get_xlim()[0] > 1400
    assert texts(shares)[-2:] == ["base", "densefusion"]
    assert "mean" not in [tick.get_text() for tick in shares.get_yticklabels()]


def test_a_benchmark_of_ours_alone_stands_beside_the_reference_without_an_invented_cell(
    tmp_path: Path,
) -> None:
    (shares, points, priors), _ = densefusion(tmp_path, TINY, {"vislib_contextual": 0.2}, [])
    names = [tick.get_text() for tick in shares.get_yticklabels()]
    assert names[0] == "contextual VQA"
    assert len(names) == 1 + 8
    assert len(shares.containers) == 3
    assert not points.containers
    assert not priors.containers
    assert "tiny-idefics2: base" in texts(shares)
    reported = benchmarks.densefusion_table()
    assert len(reported) == 2 * (9 + 4)
    assert reported.loc[reported["benchmark"] != "mme", "accuracy"].between(0, 1).all()
