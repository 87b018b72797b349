"""The local benchmark: held-out questions about images in their web context (the paper's wish,
VisCon-100K, limits).

Every question of the `test` files of 08 is asked alone, in the words that training uses: for
multiple choice the question, its four options and the request for the letter. Multiple-choice
answers are scored; free-form ones tell how long answers to short questions are. The same
multiple-choice questions are written as a task that lmms-eval runs.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import yaml

from vislib.evaluation import contextual_task
from vislib.evaluation.parsing import options_in
from vislib.letters import LETTERS
from vislib.media.pixels import ImageError, portable
from vislib.runs import InputError, choose, tables

if TYPE_CHECKING:
    from vislib.runs import Run

LOCAL = "vislib_contextual"
MULTIPLE_CHOICE = "multiple_choice"
TYPES = (MULTIPLE_CHOICE, "free_form")
_IMAGE = "<image>\n"
_QUESTIONS = pa.schema(
    [(name, pa.string()) for name in ("sample_id", "question", "answer", "image_id")]
)
_IMAGES = pa.schema([("image_id", pa.string()), ("image", pa.binary())])
Refused = tuple[str, str, str]  # id, reason, detail


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question: `id` is its sample's with the number of its round, `text` what is asked,
    without the image.

    Questions of one `page` are no independent ones.
    """

    id: str
    page: str
    type: str
    text: str
    answer: str
    image_id: str
    image: Path

    @property
    def options(self) -> list[str]:
        """The texts of its options; none if it is free-form."""
        return options_in(self.text) if self.type == MULTIPLE_CHOICE else []


def load_items(run: "Run") -> tuple[list[Item], list[Refused]]:
    """The questions that a run's parameters choose, and those that cannot be asked.

    `max_questions` of each type are chosen by hash of seed and id: the same for every model. Raises
    InputError where nothing is held out.
    """
    table, ledger = run.table("questions"), run.table("images")
    rows = [
        row
        for part in tables.parts(table)
        if part.name.startswith("test")
        for row in tables.read_rows(part)
    ]
    paths = tables.lookup(
        ledger, "image_id", {name for row in rows for name in row["images"]}, ["path"]
    )
    asked = [entry for row in rows for entry in _rounds(row)]
    chosen = [
        entry
        for kind in TYPES
        for entry in choose(
            (e for e in asked if e[1] == kind),
            run.params.max_questions,
            run.seed,
            key=lambda e: e[0],
        )
    ]
    items: list[Item] = []
    refused: list[Refused] = []
    for name, kind, text, answer, images, page in chosen:
        file = paths.get(images[0], {}).get("path") if len(images) == 1 else None
        if file is None or not (place := ledger.parent / file).is_file():
            refused.append((name, "image_missing", ", ".join(images)))
        elif kind == MULTIPLE_CHOICE and answer not in LETTERS[: len(options_in(text))]:
            refused.append((name, "no_options", text))
        else:
            one = {
                "id": name,
                "page": page,
                "type": kind,
                "text": text,
                "answer": answer,
                "image_id": images[0],
            }
            items.append(Item(**one, image=place))
    if not any(item.type == MULTIPLE_CHOICE for item in items):
        raise InputError(
            f"{table}: its test files hold no multiple-choice question that can be asked,"
            f" {len(refused)} lack options or a file in {ledger}; name a table of questions, or run"
            " 08 with a larger test_fraction"
        )
    return items, refused


def _rounds(row: tables.Row) -> Iterator[tuple[str, str, str, str, list[str], str]]:
    turns = [turn["value"] for turn in row["conversations"]]
    for number, (kind, text, answer) in enumerate(
        zip(row["sources"], turns[::2], turns[1::2], strict=True), start=1
    ):
        if kind in TYPES:
            asked = text.removeprefix(_IMAGE)
            yield (
                f"{row['id']}-{number}",
                kind,
                asked,
                answer.strip(),
                row["images"],
                str(row["doc_id"]),
            )


def write_task(items: list[Item], folder: Path, *, max_tokens: int) -> list[Refused]:
    """Write the multiple-choice questions into `folder` as a task of lmms-eval, which runs from
    within that folder.

    Images have the pixels that training sees: the file's own bytes where any reader would see
    these, else a PNG. Returns the questions, of both types, whose picture nobody can read.
    """
    questions = tables.TableWriter(folder / "questions", _QUESTIONS)
    images, failed = tables.TableWriter(folder / "images", _IMAGES), dict[str, ImageError | None]()
    for item in items:
        if item.image_id not in failed:
            try:
                images.write({"image_id": item.image_id, "image": portable(item.image)[0]})
                failed[item.image_id] = None
            except ImageError as error:
                failed[item.image_id] = error
        if item.type == MULTIPLE_CHOICE and failed[item.image_id] is None:
            values = (item.id, item.text, item.answer, item.image_id)
            questions.write(dict(zip(_QUESTIONS.names, values, strict=True)))
    questions.close()
    images.close()
    shutil.copyfile(contextual_task.__file__, folder / "contextual_task.py")
    write_task_file(folder, questions=Path("questions/part-00000.parquet"), max_tokens=max_tokens)
    return [
        (item.id, f"image_{broken.reason}", broken.detail)
        for item in items
        if (broken := failed[item.image_id])
    ]


def write_task_file(
    folder: Path, *, questions: Path, max_tokens: int, cache: Path | None = None
) -> None:
    """Write the YAML of the task, which finds its questions at `questions`, into `folder`.

    `cache`: where lmms-eval keeps its own copy of them; None for its usual place.
    """
    kept = {} if cache is None else {"cache_dir": str(cache)}
    plain = {
        "task": LOCAL,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(questions)}, **kept},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": max_tokens, "temperature": 0, "do_sample": False},
        "metadata": [{"version": 1.0}],
    }
    text = (
        yaml.safe_dump(plain, sort_keys=False) + "doc_to_visual: !function contextual_task.visual\n"
        "doc_to_text: !function contextual_task.text\n"
        "process_results: !function contextual_task.result\n"
        f"metric_list:\n- metric: {LOCAL}\n"
        "  aggregation: !function contextual_task.accuracy\n  higher_is_better: true\n"
    )
    (folder / f"{LOCAL}.yaml").write_text(text, encoding="utf-8")
