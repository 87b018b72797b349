"""How far captions are supported, and how far their judge can be trusted (figure 34; ours).

Sentences of one picture are right and wrong together. A share's interval is Wilson's for as many
claims as would vary as much if each stood alone: their number over the design effect, which is the
variance by samples over that of independent claims.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from statsmodels.stats.proportion import proportion_confint

from vislib.figures.style import INK, finish, say

VERDICTS = ["image", "context", "both", "neither"]


def shares(claims: Any) -> Any:
    """Share of each verdict by kind of caption, with 95 % intervals over samples: rows of `name`
    (kind), `label` (verdict), `value`, `low`, `high`, `claims`, `samples`.
    """
    rows = []
    for (kind, own), verdict in (
        (group, verdict) for group in claims.groupby("kind") for verdict in VERDICTS
    ):
        hit = (own["verdict"] == verdict).astype(float)
        n, share = len(own), hit.mean()
        spread = (hit - share).groupby(own["sample_id"]).sum()
        alone = n * share * (1 - share)
        # below 1 it would be chance: an interval is never narrower than that of single claims
        effect = max(1.0, (spread**2).sum() / alone) if alone else n / len(spread)
        size = n / effect
        low, high = proportion_confint(share * size, size, method="wilson")
        known = {"name": kind, "label": verdict, "value": share, "low": low, "high": high}
        rows.append(known | {"claims": n, "samples": len(spread)})
    return pd.DataFrame(rows)


def agreed(labelled: Any) -> Any:
    """The labelled claims on whose label both passes agree, with it as `label`."""
    same = labelled[labelled["label_a"] == labelled["label_b"]]
    return same.assign(label=same["label_a"]).dropna(subset="label")


def confusion(true: Any, said: Any) -> Any:
    """How often each verdict was said (columns) of claims of each true one (rows)."""
    counts = confusion_matrix(true, said, labels=VERDICTS) if len(true) else np.zeros((4, 4), int)
    return pd.DataFrame(counts, index=VERDICTS, columns=VERDICTS)


def kappa(labelled: Any) -> float:
    """Cohen's kappa of the two labels; NaN where there are none."""
    rows = labelled.dropna(subset=["label_a", "label_b"])
    return float(cohen_kappa_score(rows["label_a"], rows["label_b"])) if len(rows) else np.nan


def plot_confusion(axes: Axes, table: Any, *, x: str, y: str) -> None:
    """Counts in a grid, shaded by their share of the row."""
    if not table.to_numpy().any():
        return say(axes, "no labelled claims")
    by_row = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    axes.imshow(by_row, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(by_row.to_numpy()):
        color = "white" if share > 0.6 else INK
        text = f"{table.iloc[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(table)), table.columns)
    axes.set_yticks(range(len(table)), table.index)
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    finish(axes)
