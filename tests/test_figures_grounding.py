"""Figure 34: shares with intervals over samples, and the judge against labels."""

import numpy as np
import pandas as pd

from vislib.figures import grounding, new_figure

TWO = pd.DataFrame(
    {
        "kind": "contextual",
        "sample_id": [f"s{n // 10}" for n in range(100)],
        "verdict": ["image"] * 50 + ["both"] * 50,
    }
)


def test_claims_that_stand_alone_have_wilsons_interval_and_those_of_one_picture_a_wider_one():
    alone = TWO.assign(sample_id=[str(n) for n in range(100)])
    own, together = (grounding.shares(t).set_index("label").loc["image"] for t in (alone, TWO))
    assert own["value"] == together["value"] == 0.5
    assert np.allclose((own["low"], own["high"]), (0.4038, 0.5962), atol=1e-4)
    # ten samples, each of one verdict: no more than ten observations
    assert np.allclose((together["low"], together["high"]), (0.2366, 0.7634), atol=1e-4)
    none = grounding.shares(TWO).set_index("label").loc["neither"]
    assert (none["low"], none["value"]) == (0, 0)
    assert none["high"] > 0.2


def test_agreement_and_the_grid():
    labels = pd.DataFrame(
        {
            "label_a": ["image", "both", "neither", "context"],
            "label_b": ["image", "both", "neither", "both"],
            "verdict": ["image", "image", "neither", "both"],
        }
    )
    sure = grounding.agreed(labels)
    assert list(sure["label"]) == ["image", "both", "neither"]
    matrix = grounding.confusion(sure["label"], sure["verdict"])
    assert matrix.loc["both", "image"] == matrix.loc["image", "image"] == 1
    assert matrix.to_numpy().sum() == 3
    assert 0.6 < grounding.kappa(labels) < 0.7
    _, (left, right) = new_figure("(a)", "(b)", columns=2)
    grounding.plot_confusion(left, matrix, x="Verdict", y="Label")
    assert [text.get_text() for text in left.texts][:4] == ["1", "0", "0", "0"]
    empty = labels.assign(label_a=None, label_b=None)
    assert np.isnan(grounding.kappa(empty))
    assert grounding.agreed(empty).empty
    grounding.plot_confusion(right, grounding.confusion([], []), x="", y="")
    assert right.texts[0].get_text() == "no labelled claims"
