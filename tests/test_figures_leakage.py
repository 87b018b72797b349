"""The figure of notebook 35: its intervals, its dial, and both layouts."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.figure_layout import assert_readable
from vislib import figures
from vislib.figures import charts, leakage, statistics
from vislib.runs import InputError
from vislib.runs.contract import ARMS, BENCHMARK_SCORES
from vislib.runs.tables import write_table


def answerable(pages: int = 12) -> pd.DataFrame:
    rows = [
        {
            "doc_id": f"d{page}",
            "question_type": kind,
            "caption": True,
            "context": page % 2 == 0,
            "swapped": False,
            "image": None,
            "nothing": None,
            "verdict": "several" if page % 2 == 0 else "caption",
        }
        for page in range(pages)
        for kind in ("free_form", "multiple_choice") * 4
    ]
    return pd.DataFrame(rows)


def test_intervals_are_of_pages_and_not_of_questions():
    shares = leakage.share_table(answerable()).set_index(["label", "name"])
    assert "its picture" not in shares.index.get_level_values("label")
    page = shares.loc["its page", "free-form"]
    assert page["value"] == pytest.approx(50)
    # all questions of a page are alike: 12 pages and not 48 questions
    one_each = statistics.clustered(np.arange(12) % 2 == 0, list("abcdefghijkl"))
    assert page["low"] == pytest.approx(100 * one_each[1], abs=0.5)
    assert shares.loc["its caption", "free-form"].tolist() == [100, 100, 100]


def test_the_dial_is_read_from_the_stages_that_trained_the_arms(tmp_path):
    for level in (0.0, 0.5, 1.0, -1.0):
        stage = tmp_path / f"10_finetuning.{level}"
        arm = dict.fromkeys(ARMS.names) | {"model": "tiny-llava", "arm": f"leak{level}"}
        write_table(stage / "data/arms", ARMS, [arm])
        record = {"hashes": {"parameters": {"caption_visible": level}}}
        (stage / "run.json").write_text(json.dumps(record))
    scores = [
        dict.fromkeys(BENCHMARK_SCORES.names)
        | {"model": "tiny-llava", "arm": f"leak{level}", "benchmark": "b"}
        | {"accuracy": 0.3 + level / 10, "low": 0.2, "high": 0.6}
        for level in (0.0, 0.5, 1.0, -1.0)
    ]
    write_table(tmp_path / "scores", BENCHMARK_SCORES, scores)
    arms = [path / "data/arms" for path in sorted(tmp_path.glob("10_*"))]
    dial = leakage.dial_table(arms, tmp_path / "scores", "b")
    assert dial["label"].tolist() == ["0 %", "50 %", "100 %"]  # not the one as shuffled
    assert dial["value"].tolist() == pytest.approx([30, 35, 40])
    with pytest.raises(InputError, match="no score on other of an arm with caption_visible"):
        leakage.dial_table(arms, tmp_path / "scores", "other")
    for columns in (1, 2):
        figure, panels = figures.new_figure("(a) What", "(b) In sight", columns=columns, aspect=0.8)
        for panel, rows in zip(panels, (leakage.share_table(answerable()), dial), strict=True):
            charts.plot_dots(panel, rows, charts.marks(rows["name"]), x="%")
        assert_readable(figure)
