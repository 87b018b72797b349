"""What lmms-eval calls for the local benchmark: it is copied beside the task's YAML file and needs
nothing of vislib.
"""

import io
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _images() -> dict[str, bytes]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(Path(__file__).with_name("images"))
    return dict(zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True))


def visual(doc: dict[str, Any]) -> list[Any]:
    """The question's picture, which several questions share."""
    from PIL import Image

    return [Image.open(io.BytesIO(_images()[doc["image_id"]])).convert("RGB")]
