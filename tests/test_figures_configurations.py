"""Table 1: what it says of arms and their tests, what it leaves empty, and how it is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.test_figures_benchmarks import SHARE, SIX, scores_at, write
from vislib.figures import benchmarks, configurations
from vislib.runs.contract import ARMS, COMPARISONS
from vislib.runs.errors import InputError


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


def joined(
    tmp_path: Path, benchmark: str, sizes: Sequence[dict[str, Any]] = SIZES, **changes: Any
) -> Any:
    scores = benchmarks.load_scores(scores_at(tmp_path, SHARE, SIX | {"mme": 1500.0}), [])
    arms = benchmarks.load_arms([write(tmp_path / "arms", ARMS, sizes)])
    tests = pd.read_parquet(compared(tmp_path / "comparisons", benchmark, **changes))
    return configurations.join(scores, tests, arms, benchmark)


def test_the_table_says_what_was_tested_and_leaves_cells_empty_that_nobody_knows(
    tmp_path: Path,
) -> None:
    table = joined(tmp_path, "seedbench")
    shown = configurations.readable(table)
    assert table["arm"].tolist() == ["base", "captions", "leaky_mix"]
    base, captions, mix = shown.to_dict("records")
    assert base["accuracy"] == "70.0 [65.0, 75.0]"
    assert base["difference"] == captions["difference"] == "-12.0 [-20.0, -4.0]"
    assert (base["supervised tokens"], captions["supervised tokens"]) == ("1,000", "")
    assert (base["p"], base["p holm"]) == ("0.058", "1.0e-05")
    assert captions["p"] == captions["p holm"] == ""
    assert (base["b"], base["c"], base["reference"]) == ("11", "23", "leaky mix")
    assert (mix["difference"], mix["reference"], mix["b"]) == ("", "", "")


def test_columns_of_which_nothing_is_known_are_empty(tmp_path: Path) -> None:
    """As of one page alone: no interval, no difference that could be found."""
    table = joined(tmp_path, "seedbench", low=None, high=None, p=None, p_holm=None)
    table[["low", "high"]] = float("nan")
    base = configurations.readable(table).to_dict("records")[0]
    assert (base["accuracy"], base["difference"]) == ("70.0", "-12.0")
    assert base["p"] == base["p holm"] == ""


def test_arms_of_unequal_size_are_marked_and_their_sizes_said(tmp_path: Path) -> None:
    sizes = [
        {"model": "ShareGPT4V-7b", "arm": arm, "samples": 90, "supervised_tokens": tokens}
        for arm, tokens in (("base", 2_000_000), ("captions", 995_000), ("leaky_mix", 1_000_000))
    ]
    table = joined(tmp_path, "seedbench", sizes)
    unequal = dict(zip(table["arm"], table["unequal"], strict=True))
    assert unequal == {
        "base": "2,000,000 supervised tokens to 1,000,000",
        "captions": "",
        "leaky_mix": "",
    }
    assert configurations.readable(table)["arm"].tolist() == ["base †", "captions", "leaky mix"]
    said = " ".join(configurations.remarks(table, paper=[]))
    assert "† Unequal to the reference" in said
    assert "base 2,000,000 supervised tokens to 1,000,000." in said
    unknown = joined(tmp_path / "unknown", "seedbench")
    assert not any("†" in text for text in configurations.readable(unknown)["arm"])


def test_the_table_says_which_checkpoints_p_is_about_and_how_far_two_seeds_lie_apart(
    tmp_path: Path,
) -> None:
    table = joined(tmp_path / "a", "seedbench", claim="these two checkpoints")
    said = " ".join(configurations.remarks(table, paper=[]))
    assert "p is about these two checkpoints, not about arms trained again." in said
    assert "no A/A comparison" in said
    several = {
        "claim": "these 2 and 2 checkpoints",
        "aa_difference": 0.004,
        "aa_p": 0.41,
        "detectable": 0.02,
    }
    table = joined(tmp_path / "b", "seedbench", **several, p_clustered=0.2)
    said = " ".join(configurations.remarks(table, paper=[]))
    assert "A/A, two seeds of one arm compared in the same way: +0.4, p = 0.41." in said
    shown = configurations.readable(table)
    assert shown["detectable"].tolist() == ["2.0", "2.0", ""]
    assert shown["p clustered"].tolist() == ["0.200", "0.200", ""]


def test_the_papers_tests_are_marked_as_the_papers_and_stand_at_seed_alone(tmp_path: Path) -> None:
    paper = ["ShareGPT4V-7b"]
    said = configurations.remarks(joined(tmp_path / "a", "seedbench"), paper=paper)
    (line,) = [text for text in said if "paper" in text]
    assert (
        "on SEED, variant unknown: against base p = 2.118e-05, against captions p = 0.027" in line
    )
    other = configurations.remarks(joined(tmp_path / "b", "ai2d"), paper=paper)
    assert not any("paper" in text for text in other)


def test_points_are_no_shares_and_an_unknown_benchmark_is_named(tmp_path: Path) -> None:
    points = {"difference": 12.0, "low": -3.0, "high": 27.0, "b": None, "c": None}
    shown = configurations.readable(joined(tmp_path / "a", "mme", **points))
    assert "1500.0 [1500.0, 1500.1]" in shown["accuracy"].tolist()
    assert "+12.0 [-3.0, +27.0]" in shown["difference"].tolist()
    with pytest.raises(
        InputError,
        match="benchmark is 'gqa', which no arm was evaluated on; 12 has scores on seedbench",
    ):
        joined(tmp_path / "b", "gqa")


def test_the_table_is_written_as_csv_markdown_and_latex(tmp_path: Path) -> None:
    table = joined(tmp_path, "seedbench", seed_deviation=0.01)
    written = []
    for folder in (tmp_path / "x", tmp_path / "y"):
        folder.mkdir()
        files = configurations.save_table(table, folder, "26_configurations", ["a note"])
        assert [file.suffix for file in files] == [".csv", ".md", ".tex"]
        written.append([file.read_text(encoding="utf-8") for file in files])
    assert written[0] == written[1]
    csv, markdown, latex = written[0]
    assert "difference_low" in csv.splitlines()[0]
    assert "| 70.0 [65.0, 75.0] |" in markdown
    assert markdown.endswith("\n- a note\n")
    assert latex.startswith("\\begin{tabular}")
    assert "leaky mix" in latex
