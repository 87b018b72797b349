"""Which picture each question of a task of lmms-eval is about; run by the Python of its
environment, without vislib.

    python task_images.py TASK LIMIT FILE [FOLDER]

FILE gets JSON: by task (a group has several) and number of the question, a hash of its pixels.
FOLDER holds YAML files of tasks beside the harness's own.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
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


def _tasks(found: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, task in found.items():
        yield from _tasks(task) if isinstance(task, Mapping) else [(name, task)]


def main(task: str, limit: int, file: Path, folder: str | None = None) -> None:
    """Write the pictures of the first `limit` questions of `task`, of all if it is 0."""
    from lmms_eval.tasks import TaskManager, get_task_dict

    ids = {
        name: {
            str(n): picture_id(own.doc_to_visual(doc))
            for n, doc in own.doc_iterator(limit=limit or None)
        }
        for name, own in _tasks(get_task_dict([task], TaskManager(include_path=folder)))
    }
    file.write_text(json.dumps(ids))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
