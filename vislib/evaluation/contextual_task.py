"""What lmms-eval calls for the local benchmark: it is copied beside the task's YAML file and needs
nothing of vislib.

The pictures lie beside it in `images/`; what lmms-eval logs is scored by the stage, by the same
rule as all else.
"""

import io
from functools import cache
from pathlib import Path
from typing import Any

NAME = "vislib_contextual"


@cache
def _images() -> dict[str, bytes]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(Path(__file__).with_name("images"))
    return dict(zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True))


def visual(doc: dict[str, Any]) -> list[Any]:
    """The question's picture."""
    from PIL import Image

    return [Image.open(io.BytesIO(_images()[doc["image_id"]])).convert("RGB")]


def text(doc: dict[str, Any], lmms_eval_specific_kwargs: object = None) -> str:
    """What is asked, after the picture."""
    return str(doc["question"])


def result(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, str]]:
    """The record that is logged for one question."""
    return {
        NAME: {"sample_id": doc["sample_id"], "answer": doc["answer"], "prediction": results[0]}
    }


def accuracy(records: list[dict[str, str]]) -> float:
    """Share of answers that are the right letter alone."""
    return sum(r["prediction"].strip().rstrip(".") == r["answer"] for r in records) / len(records)
