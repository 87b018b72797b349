"""The figure of notebook 40, before there are votes and with them, and how they are tallied."""

from types import SimpleNamespace

import pandas as pd
import pytest

from tests.figure_layout import assert_readable
from tests.notebook_cells import run_section
from tests.test_comparison import _environment, compare, inputs  # noqa: F401
from vislib.figures import comparison


def test_the_figure_with_and_without_votes(inputs, tmp_path):  # noqa: F811
    """Section 5 of the notebook."""
    _, sides, pairs, _ = compare(inputs)
    known = comparison.side_table(sides)
    votes = pd.DataFrame({"for": ["model-one", "model-one", "tie"]})
    run = SimpleNamespace(figures=tmp_path)
    said = []
    for cast in (votes.head(0), votes):
        names = {"run": run, "sides": sides, "known": known, "pairs": pairs, "cast": cast}
        figure = run_section("40_comparison", "## 5", {}, **names)["figure"]
        assert_readable(figure)
        bars = figure.axes[1]
        labels = [text.get_text() for text in bars.get_yticklabels()]
        said.append((labels, {text.get_text() for text in bars.texts}))
    assert said[0] == (["usable", "lost: length"], {"18", "17", "2"})
    assert said[1] == (["model-one", "tie"], {"2", "1"})


def test_tally_by_known_numbers():
    votes = pd.DataFrame({"choice": ["left"] * 8 + ["right"] * 2 + ["tie", "both_bad"]})
    found = comparison.tally(votes)
    assert found["sign_test_p"] == pytest.approx(0.109375)  # 2 (1 + 10 + 45) / 1024
    assert (found["left_share"], found["from"], found["to"]) == pytest.approx(
        (0.8, 0.4902, 0.9433), abs=1e-4
    )
    assert comparison.tally(pd.DataFrame({"choice": ["left", "right"]}))["sign_test_p"] == 1
    assert comparison.tally(votes.tail(2)) == {"left": 0, "right": 0, "tie": 1, "both_bad": 1}
