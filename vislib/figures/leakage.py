"""What answers the questions, and what a caption in sight does to a model (ours; VisCon-100K,
section 3.4, mixes both without asking).

Questions of one page are not independent: intervals have standard errors clustered by page.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vislib.figures.statistics import clustered, parameters_of, query
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
    """Accuracy (per cent) of the arms whose stages set `caption_visible`: label (that level), name
    (the model), value, low, high. Raises InputError if none of them has a score there.
    """
    levels = [
        {**row, "level": parameters_of(table).get("caption_visible", -1)}
        for table in arms
        for row in pd.read_parquet(table)[["model", "arm"]].to_dict("records")
    ]
    found = query(
        f"""SELECT format('{{:.0f}} %', 100 * level) AS label, model AS name,
            100 * accuracy AS value, 100 * low AS low, 100 * high AS high
        FROM scores JOIN levels USING (model, arm)
        WHERE level >= 0 AND benchmark = '{benchmark}' ORDER BY level, model""",
        scores=scores,
        levels=pd.DataFrame(levels, columns=["model", "arm", "level"]),
    )
    if found.empty:
        raise InputError(
            f"{scores}: no score on {benchmark} of an arm with caption_visible; name arms that 10"
            " trained with it and 12 evaluated"
        )
    return found
