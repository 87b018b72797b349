"""What answers the questions, and what a caption in sight does to a model (ours; VisCon-100K,
section 3.4, mixes both without asking).

Questions of one page are not independent: intervals have standard errors clustered by page.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vislib.figures.charts import marks, plot_dots
from vislib.figures.statistics import clustered, parameters_of, query
from vislib.figures.style import finish, say
from vislib.runs import InputError

# In this order; what the judge was not given is left out.
SHOWN = {
    "caption": "its caption",
    "context": "its page",
    "image": "its picture",
    "nothing": "the question alone",
    "swapped": "another page's caption",
    "none": "none of its own",
}


def share_table(answerable: Any) -> Any:
    """Per cent of the questions of each type that each of `SHOWN` answers alone: label, name,
    value, low, high.
    """
    table = answerable.assign(none=answerable["verdict"] == "none")
    rows = []
    for column, label in SHOWN.items():
        for name, own in table.dropna(subset=column).groupby("question_type"):
            numbers = clustered(100 * own[column].astype(float), own["doc_id"])
            rows.append((label, name.replace("_", "-"), *np.clip(numbers, 0, 100)))
    return pd.DataFrame(rows, columns=["label", "name", "value", "low", "high"])


def dial_table(arms: Sequence[Path], scores: Path, benchmark: str) -> Any:
    """Accuracy (per cent) of the arms whose stages set `caption_visible`: model, level, value, low,
    high. Raises InputError if none of them has a score there.
    """
    levels = [
        {**row, "level": parameters_of(table).get("caption_visible", -1)}
        for table in arms
        for row in pd.read_parquet(table)[["model", "arm"]].to_dict("records")
    ]
    found = query(
        f"""SELECT model, level, 100 * accuracy AS value, 100 * low AS low, 100 * high AS high
        FROM scores JOIN levels USING (model, arm)
        WHERE level >= 0 AND benchmark = '{benchmark}' ORDER BY ALL""",
        scores=scores,
        levels=pd.DataFrame(levels, columns=["model", "arm", "level"]),
    )
    if found.empty:
        raise InputError(
            f"{scores}: no score on {benchmark} of an arm with caption_visible; name arms that 10"
            " trained with it and 12 evaluated"
        )
    return found


def plot_shares(axes: Axes, shares: Any) -> None:
    """A line per source, a mark per type of question."""
    plot_dots(axes, shares, marks(shares["name"]), x="Questions that it answers alone, %")


def plot_dial(axes: Axes, dial: Any) -> None:
    """Accuracy over the share of samples whose questions could attend to the caption."""
    if dial.empty:
        return say(axes, "no arms")
    looks = marks(dial["model"])
    for model, own in dial.groupby("model", sort=False):
        reach = [own["value"] - own["low"], own["high"] - own["value"]]
        # none is below 0 but by rounding
        reach = [length.clip(lower=0) for length in reach]
        axes.errorbar(own["level"], own["value"], reach, label=model, linewidth=0.8, **looks[model])
    axes.set(xlabel="Share of samples with the caption in sight", ylabel="Accuracy, %")
    axes.set_xticks(sorted(set(dial["level"])))
    axes.margins(0.1)
    finish(axes)
