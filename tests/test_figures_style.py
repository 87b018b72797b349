"""Sizes, panels, notes, and equal bytes with searchable fonts, whatever a user's own settings."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.figure_layout import assert_readable
from vislib import figures
from vislib.figures import charts, statistics, style

WORDS = [("sea", 9), ("cause", 7), ("moon", 7), ("race", 3), ("wave", 1)]


def test_figures_follow_the_columns_and_are_no_longer_than_a_page() -> None:
    sizes = [
        tuple(figures.new_figure("", columns=columns, aspect=aspect)[0].get_size_inches())
        for columns, aspect in ((1, 0.5), (2, 1), (1, 9))
    ]
    assert sizes == [(3.25, 1.625), (6.75, 6.75), (3.25, style.PAGE)]


def test_panels_stand_side_by_side_or_stacked() -> None:
    wide, _ = figures.new_figure("(a)", "(b)", columns=2, aspect=0.5)
    tall, axes = figures.new_figure("(a)", "(b)", columns=1, aspect=0.5)
    assert tuple(wide.get_size_inches()) == (6.75, 6.75 * 0.25)
    assert tuple(tall.get_size_inches()) == (3.25, 3.25)
    assert [panel.get_title(loc="left") for panel in axes] == ["(a)", "(b)"]
    placed = figures.new_figure("(a)", "(b)", "(c)", columns=2, layout="ab;ac")[1]
    assert len({panel.get_position().x0 for panel in placed}) == 2


def test_long_notes_are_wrapped_inside_the_figure() -> None:
    note = "Captions: a-model-of-that-name. " * 5
    figure, _ = figures.new_figure("", columns=1, note=note)
    assert_readable(figure)
    (shown,) = [text.get_text() for text in figure.texts if "model" in text.get_text()]
    assert "".join(shown.split()) == "".join(note.split())  # a long name may break at a hyphen
    assert shown.count("\n") >= 1


def draw_everything(folder: Path, columns: int = 2) -> list[Path]:
    """One figure with every kind of mark, saved into `folder`."""
    titles = "(a)", "(b)", "(c)", "(d)"
    size = {"columns": columns, "aspect": 0.8, "layout": "ab;cd"}
    figure, panels = figures.new_figure(*titles, note="Captions: m.", **size)
    tokens = [30, 400, 401, 2000, 9000]
    groups = {"kept": tokens[:4], "above": tokens[4:]}
    table = statistics.histogram(groups, statistics.log_edges(tokens, through=2000.5, bins=8))
    of = {"x": "Tokens", "y": "Documents", "run": {"cap": 2000}, "paper": {"mean": 871.58}}
    charts.plot_histogram(panels[0], table, log=True, **of)
    bars = pd.DataFrame({"left": [12, 9], "set aside": [0, 3]}, index=["samples", "distinct"])
    charts.plot_bars(panels[1], bars)
    rows = pd.DataFrame(
        {"label": ["AI2D"], "name": ["base"], "value": [3], "low": [2], "high": [5]}
    )
    charts.plot_dots(panels[2], rows, charts.marks(["base"]), x="Accuracy, %")
    charts.plot_word_cloud(panels[3], WORDS, max_words=10, seed=0)
    assert_readable(figure)
    return figures.save_figure(figure, folder, "all", table)


@pytest.mark.parametrize("columns", [1, 2])
def test_every_chart_is_readable_over_one_and_two_columns(tmp_path: Path, columns: int) -> None:
    assert len(draw_everything(tmp_path, columns)) == 3


def test_saved_figures_are_equal_bytes_in_another_process(tmp_path: Path) -> None:
    files = draw_everything(tmp_path)
    assert [file.suffix for file in files] == [".pdf", ".png", ".csv"]
    again = tmp_path / "again"
    again.mkdir()
    module = "tests.test_figures_style"
    command = f"import pathlib, {module} as t; t.draw_everything(pathlib.Path({str(again)!r}))"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "MATPLOTLIBRC": str(again),
    }
    # a user's own settings must change nothing
    (again / "matplotlibrc").write_text("font.size: 30\n")
    subprocess.run([sys.executable, "-c", command], check=True, env=environment)
    for file in files:
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_pdf_has_type_42_fonts_and_no_date(tmp_path: Path) -> None:
    pdf = draw_everything(tmp_path)[0].read_bytes()
    assert b"CIDFontType2" in pdf or b"/TrueType" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
