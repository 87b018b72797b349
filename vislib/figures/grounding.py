"""How far captions are supported, and how far their judge can be trusted (figure 34; ours).

Sentences of one picture are right and wrong together. A share's interval is Wilson's for as many
claims as would vary as much if each stood alone: their number over the design effect, which is the
variance by samples over that of independent claims.
"""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import ConfusionMatrixDisplay, cohen_kappa_score, confusion_matrix
from statsmodels.stats.proportion import proportion_confint

from vislib.figures.style import finish, say

VERDICTS = ["image", "context", "both", "neither"]
COLUMNS = ["name", "label", "value", "low", "high", "claims", "samples"]


def shares(claims: Any) -> Any:
    """Share of each verdict by kind of caption, with 95 % intervals over samples: rows of `name`
    (kind), `label` (verdict), `value`, `low`, `high`, `claims`, `samples`.
    """
    rows = []
    for (kind, own), verdict in product(claims.groupby("kind"), VERDICTS):
        hit = (own["verdict"] == verdict).astype(float)
        share = hit.mean()
        off = hit - share
        sums = off.groupby(own["sample_id"]).sum()
        alone = off.pow(2).sum()
        # Below 1 it would be chance; and where all claims are alike, so are those of a sample.
        effect = max(1.0, sums.pow(2).sum() / alone) if alone else len(own) / len(sums)
        size = len(own) / effect
        low, high = proportion_confint(share * size, size, method="wilson")
        rows.append((kind, verdict, share, low, high, len(own), len(sums)))
    return pd.DataFrame(rows, columns=COLUMNS)


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
    """Counts in a grid, darker where there are more."""
    if not table.to_numpy().any():
        return say(axes, "no labelled claims")
    grid = ConfusionMatrixDisplay(table.to_numpy(), display_labels=table.columns)
    grid.plot(ax=axes, cmap="Blues", colorbar=False, im_kw={"aspect": "auto"})
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    finish(axes)
