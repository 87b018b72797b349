"""What the charts draw of their tables: groups, marks, numbers, words."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from vislib import figures
from vislib.figures import charts, statistics
from vislib.runs.errors import InputError

WORDS = [("sea", 9), ("cause", 7), ("moon", 7), ("race", 3), ("wave", 1)]


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def panel() -> Axes:
    return figures.new_figure("(a)")[1][0]


def test_document_tokens_hatch_what_is_above_the_cap() -> None:
    axes = panel()
    values = [100, 2000, 2001, 9000]
    groups = {"kept": values[:2], "above the cap": values[2:]}
    edges = statistics.log_edges(values, through=2000.5, bins=6)
    table = statistics.histogram(groups, edges)
    looks = (figures.FILLED, figures.HATCHED)
    charts.plot_histogram(axes, table, x="", y="", looks=looks, run={"cap": 2000}, log=True)
    assert set(legend(axes)) == {"kept (2)", "above the cap (2)", "cap 2,000"}
    assert [bool(patch.get_hatch()) for patch in axes.patches] == [False, True]


def test_lines_of_run_and_paper_have_different_patterns() -> None:
    axes = panel()
    table = statistics.histogram({"": [500, 900]}, [0, 1000, 2000])
    marks = {"run": {"mean": 700, "median": 700.5}, "paper": statistics.PAPER_TOKENS}
    charts.plot_histogram(axes, table, x="", y="", **marks)
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["mean 700", "median 700.5", "paper's mean 871.58", "paper's median 781"]
    assert len({str(line._dash_pattern) for line in axes.lines}) == 4


def test_a_group_without_values_draws_none() -> None:
    axes = panel()
    groups = {"contextual": [0.4], "non-contextual": []}
    table = statistics.histogram(groups, np.linspace(0, 1, 5))
    marks = {"run": {"contextual mean": 0.4}, "paper": {"mean": statistics.PAPER_OVERLAP}}
    charts.plot_histogram(axes, table, x="", y="", **marks)
    assert legend(axes) == ["contextual (1)", "contextual mean 0.4", "paper's mean 0.24"]


def test_groups_of_unequal_size_compare_as_shares() -> None:
    axes = panel()
    table = statistics.histogram({"few": [0.5] * 2, "many": [0.5] * 50}, [0, 1, 2])
    charts.plot_histogram(axes, table, x="", y="", share=True)
    assert [patch.get_data().values[0] for patch in axes.patches] == [1, 1]
    assert legend(axes) == ["few (2)", "many (50)"]


def test_bars_have_their_numbers_and_one_alone_stays_slim() -> None:
    axes, empty = panel(), panel()
    table = pd.DataFrame({"left": [18, 2], "right": [17, 2]}, index=["usable", "lost: length"])
    charts.plot_bars(axes, table)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["usable", "lost: length"]
    assert [text.get_text() for text in axes.texts] == ["18", "2", "17", "2"]
    assert legend(axes) == ["left", "right"]
    low, high = axes.get_ylim()
    assert all(high < bar.get_y() and bar.get_y() + bar.get_height() < low for bar in axes.patches)
    charts.plot_bars(empty, table.head(0))
    assert [text.get_text() for text in empty.texts] == ["nothing to count"]


def test_dots_stand_below_one_another_and_an_end_that_rounding_moved_is_drawn() -> None:
    axes = panel()
    rows = pd.DataFrame(
        {
            "label": ["AI2D", "AI2D", "MMMU"],
            "name": ["base", "mix", "mix"],
            "value": [50.0, 60.0, 30.0],
            "low": [50.0 + 1e-15, 55.0, None],
            "high": [55.0, 65.0, None],
        }
    )
    looks = charts.marks(rows["name"])
    charts.plot_dots(axes, rows, looks, x="%")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["AI2D", "MMMU"]
    first, second = (line for line in axes.lines if line.get_marker() != "None")
    ends = [[list(map(float, line[:, 0])) for line in lc.get_segments()] for lc in axes.collections]
    assert ends == [[[50.0 + 1e-15, 55.0]], [[55.0, 65.0], [30.0, 30.0]]]  # no interval, no line
    assert first.get_ydata()[0] < second.get_ydata()[0] < 0.5
    assert first.get_marker() != second.get_marker()
    assert {first.get_markerfacecolor(), second.get_markerfacecolor()} >= {"white"}
    with pytest.raises(InputError, match="30 arms, but a figure tells"):
        charts.marks(map(str, range(30)))


def test_a_word_cloud_without_a_word_says_so() -> None:
    axes = panel()
    assert charts.plot_word_cloud(axes, [], max_words=120, seed=0) == []
    assert "no word to draw" in axes.texts[0].get_text()
    assert axes.get_title(loc="left") == "(a)"


def test_a_word_cloud_has_room_for_as_many_words_as_its_notebook_asks() -> None:
    _, panels = figures.new_figure("", "", columns=2, aspect=0.62)
    counts = [
        (f"word{chr(97 + n // 26)}{chr(97 + n % 26)}", 300 // (n + 1) + 1) for n in range(200)
    ]
    assert len(charts.plot_word_cloud(panels[0], counts, max_words=120, seed=0)) >= 108


def test_word_cloud_draws_words_whole_and_the_same_again() -> None:
    pictures = []
    for axes in (panel(), panel()):
        assert charts.plot_word_cloud(axes, WORDS, max_words=4, seed=3) == WORDS[:4]
        pictures.append(np.asarray(axes.images[0].get_array()))
    assert (pictures[0] == pictures[1]).all()
    ink = pictures[0].min(axis=2) < 255
    assert 0.02 < ink.mean() < 0.5
    assert not ink[[0, -1]].any()
    assert not ink[:, [0, -1]].any()  # no word is cut


def test_frequent_words_are_larger_and_darker() -> None:
    (frequent, *_, rare) = charts._cloud(dict(WORDS), 600, seed=3).layout_
    assert frequent[1] > rare[1]
    light = [int(charts._shade("", size).split(",")[2].strip(" %)")) for size in (120, 16)]
    assert light[0] < light[1] < 60
