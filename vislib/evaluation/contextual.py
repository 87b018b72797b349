"""The local benchmark: held-out questions about images in their web context (the paper's wish,
VisCon-100K, limits).

Every question of the `test` files of 08 is asked alone, in the words that training uses: for
multiple choice the question, its four options and the request for the letter. Multiple-choice
answers are scored; free-form ones tell how long answers to short questions are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from vislib.qa_options import ALPHABET, options_in
from vislib.runs import InputError, Run, choose, tables

MULTIPLE_CHOICE = "multiple_choice"
FREE_FORM = "free_form"
TYPES = (MULTIPLE_CHOICE, FREE_FORM)
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
        if self.type == MULTIPLE_CHOICE and self.answer not in ALPHABET[: len(self.options)]:
            return "no_options", self.text
        return None


def load_questions(run: Run) -> tuple[list[PageQuestion], list[Refused]]:
    """The questions that a run's parameters choose, and those that cannot be asked.

    `max_questions` of each type are chosen by hash of seed and id: the same for every model. Raises
    InputError where nothing is held out.
    """
    table = run.table("questions")
    ledger = run.table("images")
    # What a model was trained on tests nothing.
    held_out = [part for part in tables.parts(table) if part.name.startswith("test")]
    rows = [row for part in held_out for row in tables.read_rows(part)]
    shown = {name for row in rows for name in row["images"]}
    files = tables.lookup(ledger, "image_id", shown, ["path"])
    # A row without a path is a picture that was never fetched.
    places = {name: ledger.parent / (row["path"] or "") for name, row in files.items()}
    asked = [question for row in rows for question in _rounds(row, places)]
    questions: list[PageQuestion] = []
    refused: list[Refused] = []
    # Of each type as many: there may be far more questions of one.
    for kind in TYPES:
        own = [question for question in asked if question.type == kind]
        for question in choose(own, run.params.max_questions, run.seed, key=attrgetter("id")):
            if fault := question.fault:
                refused.append((question.id, *fault))
            else:
                questions.append(question)
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
