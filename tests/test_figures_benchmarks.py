"""Arms on benchmarks: what is drawn of ours and of the papers, and what is an error."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.figure_layout import assert_readable
from tests.notebook_cells import run_section
from vislib import figures
from vislib.figures import benchmarks
from vislib.figures.style import CONTRAST
from vislib.runs.contract import ARMS, BENCHMARK_SCORES
from vislib.runs.errors import InputError
from vislib.training import tiny

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


def legend(axes: Any) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def rows_of(axes: Any) -> list[str]:
    return [tick.get_text() for tick in axes.get_yticklabels()]


def marks_of(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() != "None"]


def values(axes: Any, *, red: bool = False) -> list[float]:
    """The numbers that are drawn, of us or, in red, of a paper."""
    shown = [line for line in marks_of(axes) if (line.get_color() == CONTRAST) == red]
    return sorted(round(float(x), 2) for line in shown for x in line.get_xdata())


def models_figure(
    folder: Path, cells: Sequence[Cell], accuracies: dict[str, float], paper: Sequence[str]
) -> list[Any]:
    """The panels of section 2 of notebook 26."""
    table = scores_at(folder, cells, accuracies)
    results = benchmarks.load_scores(table, [])
    caveat = benchmarks.caveat(results, benchmarks.load_arms([]))
    names = {"results": results, "caveat": caveat, "paper": paper, "aspect": 0.5}
    figure = run_section("26_benchmarks", "## 2", {"scores": table}, **names)["figure"]
    assert_readable(figure)
    figures.save_figure(figure, folder, "models", results)
    return list(figure.axes)


def test_every_benchmark_has_a_place_and_means_stand_apart(tmp_path: Path) -> None:
    means = {"mean": 0.57, "mean_seedbench_image": 0.58, "mean_without_seedbench": 0.54}
    parts = {"seedbench_image": 0.75, "seedbench_video": 0.4}
    (axes,) = models_figure(tmp_path, SHARE, SIX | parts | means, [])
    assert [name.partition(" (n =")[0] for name in rows_of(axes)] == [
        "SEED all",
        "SEED image",
        "SEED video",
        "MMBench",
        "MMMU",
        "AI2D",
        "ScienceQA",
        "LLaVA-Bench",
        "mean, SEED all",
        "mean, SEED image",
        "mean without SEED",
    ]
    assert rows_of(axes)[0] == "SEED all (n = 100)"
    assert legend(axes) == ["base", "captions", "leaky mix"]
    assert not values(axes, red=True)
    assert values(axes) == sorted(
        round(100 * (value + n / 100), 2)
        for value in (SIX | parts | means).values()
        for n in range(3)
    )
    assert len({line.get_marker() for line in marks_of(axes)}) == 3


def test_the_papers_means_stand_beside_the_models_that_the_set_names_alone(tmp_path: Path) -> None:
    cells = [*SHARE, ("mine", "base")]
    named, other = models_figure(tmp_path, cells, SIX, ["ShareGPT4V-7b", "IDEFICS2-8b"])
    assert values(named, red=True) == [59.51, 60.35, 60.81]
    assert {"leaky mix (paper): 60.81", "base (paper): 60.35"} <= set(legend(named))
    assert not values(other, red=True)
    assert rows_of(named)[-1] == "paper's mean, SEED unknown"
    reported = benchmarks.paper_table("means", models=["ShareGPT4V-7b"])
    assert reported["arm"].tolist() == ["base", "non_contextual", "leaky_mix"]
    assert set(reported["benchmark"]) == {"mean"}


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
    drawn = scores.assign(benchmark="easy_vqa")
    assert "drawn shapes" in benchmarks.caveat(drawn, arms)
    assert "no statement about VLMs" in benchmarks.caveat(drawn, arms)
    assert benchmarks.caveat(scores, benchmarks.load_arms([])) == ""


def test_every_tiny_model_is_known_by_its_name() -> None:
    assert all(name.startswith("tiny-") for name in tiny.NAMES)


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
        ["b", "captions"],
        ["ShareGPT4V-7b", "base"],
        ["b", "base"],
    ]
    with pytest.raises(
        InputError, match=r"show is \['caption'\]; arms with scores: base, captions, leaky_mix"
    ):
        benchmarks.load_scores(table, ["caption"])


def test_a_number_of_the_papers_stands_beside_ours_of_the_same_part_of_seed_alone(
    tmp_path: Path,
) -> None:
    ours = {"seedbench": 0.6, "seedbench_image": 0.67, "seedbench_video": 0.4}
    (shares, priors), _ = densefusion(
        tmp_path, [("LLaVA-1.5-7B", "densefusion")], ours, ["densefusion"]
    )
    assert {"SEED all", "SEED image  66.2 → 70.1", "SEED video"} <= set(rows_of(shares))
    unknown = "SEED, variant unknown  60.3 → 60.8"
    assert {"SEED all", "SEED image", unknown} <= set(rows_of(priors))
    paper = benchmarks.paper_table("gains", "fusion").set_index("benchmark")["accuracy"]
    assert paper["seedbench_image"].tolist() == [0.662, 0.701]
    assert paper["seedbench_unknown"].tolist() == [0.603, 0.608]
    assert "seedbench" not in paper.index


def densefusion(
    folder: Path, cells: Sequence[Cell], accuracies: dict[str, float], fusion: Sequence[str]
) -> tuple[list[Any], list[bytes]]:
    """The panels of section 2 of notebook 27, and what is saved."""
    table = scores_at(folder, cells, accuracies)
    results = benchmarks.load_scores(table, [])
    names = {"results": results, "caveat": "", "fusion": fusion, "aspect": 0.75}
    held = run_section("27_densefusion_benchmarks", "## 2", {"scores": table}, **names)
    assert_readable(held["figure"])
    files = figures.save_figure(held["figure"], folder, "f", results)
    return held["panels"], [file.read_bytes() for file in files]


def test_ours_stand_beside_the_papers_numbers_and_mme_as_a_share_of_its_points(
    tmp_path: Path,
) -> None:
    cells = [("LLaVA-1.5-7B", "base"), ("LLaVA-1.5-7B", "densefusion")]
    ours = {"gqa": 0.6, "mme": 1500.0, "textvqa_val": 0.5, "mean": 0.5}
    (shares, priors), saved = densefusion(tmp_path / "a", cells, ours, ["densefusion"])
    assert densefusion(tmp_path / "b", cells, ours, ["densefusion"])[1] == saved
    assert {"GQA  62.0 → 64.0", "TextVQA  58.2 → 62.0", "MME  1510 → 1574"} <= set(rows_of(shares))
    assert [len(values(axes)) for axes in (shares, priors)] == [6, 1]
    assert {75.5, 78.7} <= set(values(shares, red=True))
    assert {"base", "densefusion"} <= set(legend(shares))
    assert not any(name.startswith("mean") for name in rows_of(shares))


def test_a_benchmark_of_ours_alone_stands_beside_the_reference_without_an_invented_cell(
    tmp_path: Path,
) -> None:
    (shares, priors), _ = densefusion(tmp_path, TINY, {"vislib_contextual": 0.2}, [])
    names = rows_of(shares)
    assert "contextual VQA" in names
    assert len(names) == 1 + 9
    assert len(values(shares)) == 3
    assert not values(priors)
    assert "tiny-idefics2: base" in legend(shares)
    reported = benchmarks.paper_table("gains", "fusion")
    assert len(reported) == 2 * (9 + 4)
    assert reported.loc[reported["benchmark"] != "mme", "accuracy"].between(0, 1).all()
