"""Samples joined with their image, captions and questions; which of them every configuration can
use; splits.

All data configurations of VisCon-100K's Table 1 hold the same samples here, so that a comparison of
two of them compares rounds and nothing else. Train and test share no page, and no test image is in
train.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vislib.merging.conversations import QUESTION_TYPES
from vislib.runs import InputError, Run, seeded, tables
from vislib.runs.arrow_types import plain
from vislib.runs.seeding import split_of
from vislib.runs.tables import Row

IMAGE_IN_TRAIN = "image_in_train"
SPLITS = ("train", "test")
_AT_ONCE = 2000  # samples held in memory with all that belongs to them


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Folders of the input tables; without questions there are conversations of captions alone."""

    samples: Path
    images: Path
    captions: Path
    questions: Path | None

    @classmethod
    def of(cls, run: Run) -> "Inputs":
        """The inputs that a run's parameters name."""
        tables_of = {name: run.table(name) for name in ("samples", "images", "captions")}
        return cls(**tables_of, questions=run.input("questions"))

    def kinds(self) -> list[str]:
        """The kinds of caption, in order of first appearance. Raises InputError if there is no
        caption.
        """
        kinds = list(
            dict.fromkeys(row["kind"] for row in tables.read_rows(self.captions, ["kind"]))
        )
        if not kinds:
            raise InputError(
                f"{self.captions} holds no caption; run 06_captioning on samples that it can"
                " caption"
            )
        return kinds


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One sample, its row of the image ledger, its captions by kind, and its questions of all
    kinds.

    `questions` is None where none are asked for.
    """

    sample: Row
    image: Row | None
    captions: dict[str, Row]
    questions: list[Row] | None

    def usable(self, kind: str) -> list[Row]:
        """Questions of one kind that were read without fault."""
        return [q for q in self.questions or [] if q["kind"] == kind and q["status"] == "ok"]

    def obstacle(self, kinds: Sequence[str]) -> tuple[str, str] | None:
        """Why this sample cannot stand in every configuration of every kind, with a detail; None if
        it can.
        """
        if self.image is None or self.image["status"] != "ok":
            return "image_failed", self.image["reason"] if self.image else "not in the ledger"
        for kind in kinds:
            caption = self.captions.get(kind)
            if caption is None or caption["status"] != "ok":
                return "caption_failed", f"{kind}: {caption['reason'] if caption else 'none'}"
            found = {question["question_type"] for question in self.usable(kind)}
            for lacking in [
                name for name in QUESTION_TYPES if name not in found and self.questions is not None
            ]:
                return f"no_{lacking}", kind
        return None


def candidates(inputs: Inputs) -> Iterator[Candidate]:
    """All samples in input order; captions and questions may come in any order.

    Raises InputError at the end if there are questions of other samples.
    """
    samples, joined = (
        tables.read_rows(inputs.samples, ["sample_id", "doc_id", "image_url", "page_url"]),
        0,
    )
    while chunk := list(islice(samples, _AT_ONCE)):
        ids = [sample["sample_id"] for sample in chunk]
        captions: dict[str, dict[str, Row]] = {name: {} for name in ids}
        questions: dict[str, list[Row]] = {name: [] for name in ids}
        images = tables.lookup(
            inputs.images,
            "image_url",
            {s["image_url"] for s in chunk},
            ["image_id", "status", "reason", "path"],
        )
        for row in _rows_of(inputs.captions, ids):
            captions[row["sample_id"]].setdefault(row["kind"], row)
        for row in _rows_of(inputs.questions, ids) if inputs.questions else ():
            questions[row["sample_id"]].append(row)
            joined += 1
        for sample, name in zip(chunk, ids, strict=True):
            yield Candidate(
                sample=sample,
                image=images.get(sample["image_url"]),
                captions=captions[name],
                questions=questions[name] if inputs.questions else None,
            )
    if inputs.questions and joined != tables.count_rows(inputs.questions):
        raise InputError(
            f"{inputs.questions} holds questions of samples that {inputs.samples} lacks; take both"
            " from one run"
        )


def _rows_of(table: Path, sample_ids: Collection[str]) -> Iterator[Row]:
    """Rows of these samples, in table order; of a part that holds none of them, only the ids are
    read.
    """
    wanted = pa.array(sample_ids, pa.string())
    for part in tables.parts(table):
        with tables.open_part(part) as file:
            ids = plain(file.read(columns=["sample_id"])).column("sample_id")
            if pc.any(pc.is_in(ids, value_set=wanted)).as_py():
                for batch in tables.batches(file):
                    yield from batch.filter(
                        pc.is_in(batch.column("sample_id"), value_set=wanted)
                    ).to_pylist()


def assign_splits(
    candidates: Iterable[Candidate], kinds: Sequence[str], *, seed: int, test_fraction: float
) -> list[str]:
    """Per sample, in order: `train`, `test`, `image_in_train` (a test page with an image of train),
    or "".

    "" marks a sample that some configuration cannot use. Raises InputError if that is all of them.
    Memory: 16 bytes per sample.
    """
    splits: list[str] = []
    images = array("Q")
    obstacles: Counter[str] = Counter()
    for candidate in candidates:
        obstacle = candidate.obstacle(kinds)
        obstacles.update([f"{obstacle[0]} ({obstacle[1]})"] if obstacle else [])
        splits.append(
            "" if obstacle else split_of(candidate.sample, seed=seed, test_fraction=test_fraction)
        )
        images.append(
            seeded(0, candidate.image["image_id"]) if candidate.image and not obstacle else 0
        )
    if not any(splits):
        reasons = (
            ", ".join(f"{reason}: {n}" for reason, n in obstacles.most_common(3))
            or "there are no samples"
        )
        raise InputError(
            f"none of {len(splits)} samples can stand in every configuration; {reasons}"
        )
    known = np.array(images, np.uint64)
    shared = np.isin(known, known[[split == "train" for split in splits]])
    return [
        IMAGE_IN_TRAIN if split == "test" and in_train else split
        for split, in_train in zip(splits, shared, strict=True)
    ]
