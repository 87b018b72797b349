"""The local benchmark: held-out questions about images in their web context (the paper's wish,
VisCon-100K, limits).

Every question of the `test` files of 08 is asked alone, in the words that training uses: for
multiple choice the question, its four options and the request for the letter. Multiple-choice
answers are scored; free-form ones tell how long answers to short questions are. The same
multiple-choice questions are written as a task that lmms-eval runs.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vislib.evaluation import contextual_task
from vislib.evaluation.benchmarks import CONTEXTUAL
from vislib.evaluation.parsing import options_in
from vislib.letters import LETTERS
from vislib.media.pixels import ImageError, portable
from vislib.runs import InputError, choose, tables

if TYPE_CHECKING:
    from vislib.runs import Run

MULTIPLE_CHOICE = "multiple_choice"
TYPES = (MULTIPLE_CHOICE, "free_form")
_FILE = "questions/part-00000.parquet"  # of the task
_IMAGES = pa.schema([("image_id", pa.string()), ("image", pa.binary())])
_TASK = {
    "task": CONTEXTUAL,
    "dataset_path": "parquet",
    "dataset_kwargs": {"data_files": {"test": _FILE}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "question",
    "doc_to_target": "answer",
    "generation_kwargs": {},  # by the run
    "metric_list": [{"metric": "exact_match"}],
    "metadata": [{"version": 2.0}],
}
Refused = tuple[str, str, str]  # id, reason, detail


@dataclass(frozen=True, kw_only=True)
class PageQuestion:
    """One question: `id` is its sample's with the number of its round, `text` what is asked,
    without the image. Questions of one `page` are no independent ones.
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

    @property
    def fault(self) -> tuple[str, str] | None:
        """Reason and detail, if it cannot be asked."""
        if not self.image.is_file():
            return "image_missing", self.image_id
        if self.type == MULTIPLE_CHOICE and self.answer not in LETTERS[: len(self.options)]:
            return "no_options", self.text
        return None


def load_questions(run: "Run") -> tuple[list[PageQuestion], list[Refused]]:
    """The questions that a run's parameters choose, and those that cannot be asked.

    `max_questions` of each type are chosen by hash of seed and id: the same for every model. Raises
    InputError where nothing is held out.
    """
    table, ledger = run.table("questions"), run.table("images")
    # What a model was trained on tests nothing.
    held_out = [part for part in tables.parts(table) if part.name.startswith("test")]
    rows = [row for part in held_out for row in tables.read_rows(part)]
    shown = {name for row in rows for name in row["images"]}
    files = tables.lookup(ledger, "image_id", shown, ["path"])
    # A row without a path is a picture that was never fetched.
    places = {name: ledger.parent / (row["path"] or "") for name, row in files.items()}
    asked = [question for row in rows for question in _rounds(row, places)]
    chosen: list[PageQuestion] = []
    # Of each type as many: there may be far more questions of one.
    for kind in TYPES:
        own = [question for question in asked if question.type == kind]
        chosen += choose(own, run.params.max_questions, run.seed, key=lambda question: question.id)
    questions = [question for question in chosen if not question.fault]
    refused = [(question.id, *question.fault) for question in chosen if question.fault]
    if not any(question.type == MULTIPLE_CHOICE for question in questions):
        raise InputError(
            f"{table}: its test files hold no multiple-choice question that can be asked,"
            f" {len(refused)} lack options or a file in {ledger}; name a table of questions, or run"
            " 08 with a larger test_fraction"
        )
    return questions, refused


def _rounds(row: tables.Row, places: Mapping[str, Path]) -> Iterator[PageQuestion]:
    turns = [turn["value"] for turn in row["conversations"]]
    image_id = ", ".join(row["images"])  # of several none is the question's own: it has no file
    rounds = zip(row["sources"], turns[::2], turns[1::2], strict=True)
    for number, (kind, text, answer) in enumerate(rounds, start=1):
        if kind in TYPES:
            yield PageQuestion(
                id=f"{row['id']}-{number}",
                page=str(row["doc_id"]),
                type=kind,
                # Where the image stands is for the chat form of the asked model.
                text=text.removeprefix("<image>\n"),
                answer=answer.strip(),
                image_id=image_id,
                image=places.get(image_id, Path("missing")),
            )


def write_task(
    questions: Sequence[PageQuestion], folder: Path, *, max_tokens: int
) -> list[Refused]:
    """Write the multiple-choice questions into `folder` as a task of lmms-eval, which runs from
    within that folder.

    Images have the pixels that training sees: the file's own bytes where any reader would see
    these, else a PNG. Returns the questions, of both types, whose picture nobody can read.
    """
    images = tables.TableWriter(folder / "images", _IMAGES)
    faults: dict[str, tuple[str, str]] = {}
    # Several questions show one picture, which is read and written once.
    for name, place in {question.image_id: question.image for question in questions}.items():
        try:
            images.write({"image_id": name, "image": portable(place)[0]})
        except ImageError as error:
            faults[name] = f"image_{error.reason}", error.detail
    images.close()
    rows = []
    for question in questions:
        if question.type == MULTIPLE_CHOICE and question.image_id not in faults:
            row = {"sample_id": question.id, "question": question.text, "answer": question.answer}
            rows.append(row | {"image_id": question.image_id})
    (folder / "questions").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / _FILE, compression="zstd")
    # The folder is whole: it runs wherever lmms-eval is, without this project.
    shutil.copyfile(contextual_task.__file__, folder / "contextual_task.py")
    # Greedy, as our own generation: both must hear the same answers.
    how = {"max_new_tokens": max_tokens, "temperature": 0, "do_sample": False}
    text = yaml.safe_dump(_TASK | {"generation_kwargs": how}, sort_keys=False)
    # A tag of lmms-eval's own, which a writer of YAML would quote.
    text += "doc_to_visual: !function contextual_task.visual\n"
    (folder / f"{CONTEXTUAL}.yaml").write_text(text, encoding="utf-8")
    # Free-form ones too: they are asked with the same pictures.
    return [(q.id, *faults[q.image_id]) for q in questions if q.image_id in faults]
