"""What lmms-eval itself says of the items and pictures of a log; run by the Python of its
environment, without vislib.

    python item_scores.py FILE [FOLDER]

FILE holds JSON, by task: `items`, for each its metric and its samples' records, and `limit`. It
gets `scores`, what the harness's own aggregation gives for each item alone, and `pictures`, by
number of a question a hash of what it shows. FOLDER holds YAML files of tasks beside the harness's
own.
"""

import hashlib
import inspect
import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def picture_id(pictures: list[Any]) -> str:
    """16 hex digits over the pixels of a question's pictures; "" without any."""
    digest = hashlib.sha256()
    for picture in pictures:
        still = hasattr(picture, "convert")  # else the path of a video
        digest.update(repr(picture.size if still else picture).encode())
        digest.update(picture.convert("RGB").tobytes() if still else b"")
    return digest.hexdigest()[:16] if pictures else ""


def score(task: Any, metric: str, records: list[Any]) -> float | None:
    """The harness's score of one item; None where its metric has none."""
    aggregate = task.aggregation()[metric]
    # Some aggregations also write a submission, and ask where.
    place = {"args": None} if "args" in inspect.signature(aggregate).parameters else {}
    found = aggregate(records, **place)
    return None if found is None else float(found)


def pictures(task: Any, limit: int, file: Path) -> Any:
    """The picture of each question, kept in `file`: one reading serves every model."""
    if not file.is_file():
        docs = task.doc_iterator(limit=limit or None)
        file.write_text(json.dumps({n: picture_id(task.doc_to_visual(doc)) for n, doc in docs}))
    return json.loads(file.read_text())


def main(file: Path, folder: str | None = None) -> None:
    """Fill `scores` and `pictures` into FILE."""
    from lmms_eval.tasks import TaskManager, get_task_dict
    from loguru import logger  # type: ignore[import-not-found]

    asked = json.loads(file.read_text())
    os.chdir(file.parent)  # for files that aggregations leave
    logger.remove()  # they log and print a table for every item
    for name, body in asked.items():
        task = get_task_dict([name], TaskManager(include_path=folder))[name]
        with redirect_stdout(io.StringIO()):
            body["scores"] = [score(task, *item) for item in body.pop("items")]
        body["pictures"] = pictures(task, body["limit"], file.with_name(f"pictures-{name}.json"))
    file.write_text(json.dumps(asked))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
