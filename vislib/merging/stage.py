"""The stage function of 08: embed, judge, de-duplicate, merge and split, one shard of samples in
memory.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vislib.media.embeddings import Embeddings, SentenceEncoder, distinct_hashes, embed_texts
from vislib.merging.candidates import (
    IMAGE_IN_TRAIN,
    SPLITS,
    Candidate,
    Inputs,
    assign_splits,
    candidates,
)
from vislib.merging.conversations import CONFIGURATIONS, configurations, conversation, shuffled
from vislib.merging.deduplication import Question, unique
from vislib.runs import Run, choose, tables
from vislib.runs.tables import Output, Row

CAPTION_ALONE = "captions"  # the configuration that needs no questions


def merge_conversations(run: Run) -> None:
    """Write `<kind>/<configuration>/{train,test}` and `dropped` from the captions and questions of
    a run.

    Without questions the one configuration is `captions`. With a `limit` only so many of the usable
    samples take part. Adds to the metrics the rows of every `kind/configuration/split`. Raises
    InputError when no sample is usable.
    """
    inputs = Inputs.of(run)
    kinds = inputs.kinds()
    splits = assign_splits(
        candidates(inputs), kinds, seed=run.seed, test_fraction=run.params.test_fraction
    )
    chosen = _chosen(run, inputs, splits) if run.params.limit else None
    embeddings = _embed_questions(run, inputs.questions, chosen) if inputs.questions else None
    with run.output() as output, run.progress(len(splits), "samples") as progress:
        merger = _Merger(run, output, embeddings, kinds)
        for candidate, split in zip(candidates(inputs), splits, strict=True):
            if chosen is None or candidate.sample["sample_id"] in chosen:
                merger.add(candidate, split)
            progress.update()
    run.metrics["rows"] = {"/".join(name): rows for name, rows in merger.rows.items()}


def _chosen(run: Run, inputs: Inputs, splits: Sequence[str]) -> Collection[str]:
    """The samples of a `limit`, of those that every configuration can use."""
    names = (row["sample_id"] for row in tables.read_rows(inputs.samples, ["sample_id"]))
    usable = (name for name, split in zip(names, splits, strict=True) if split in SPLITS)
    return frozenset(choose(usable, run.params.limit, run.seed))


def _embed_questions(run: Run, questions: Path, chosen: Collection[str] | None) -> Embeddings:
    def texts() -> Iterator[str]:
        rows = tables.read_rows(questions, ["sample_id", "question", "status"])
        asked = (row for row in rows if row["status"] == "ok")
        return (row["question"] for row in asked if chosen is None or row["sample_id"] in chosen)

    hashes = distinct_hashes(texts())
    run.metrics["distinct_questions"] = len(hashes)
    with run.progress(len(hashes), "questions embedded") as progress:
        return embed_texts(
            texts(),
            hashes,
            encoder=SentenceEncoder(run.params.embedding_model),
            folder=run.scratch,
            batch_size=run.params.embedding_batch_size,
            on_done=progress.update,
        )


@dataclass
class _Merger:
    """Turns one candidate after the other into rows of the output."""

    run: Run
    output: Output
    embeddings: Embeddings | None
    kinds: Sequence[str]

    def __post_init__(self) -> None:
        self.names = [CAPTION_ALONE] if self.embeddings is None else list(CONFIGURATIONS)
        # A split without a row has no file: `datasets` refuses a folder that holds an empty one.
        self.rows = {
            (kind, name, split): 0 for kind in self.kinds for name in self.names for split in SPLITS
        }

    def add(self, candidate: Candidate, split: str) -> None:
        """Write the rows of one sample, or drop it and its questions with the reason."""
        output, sample_id = self.output, candidate.sample["sample_id"]
        output.take("sample")
        output.take("question", len(candidate.questions or []))
        obstacle = (
            (IMAGE_IN_TRAIN, "") if split == IMAGE_IN_TRAIN else candidate.obstacle(self.kinds)
        )
        for question in candidate.questions or []:
            if question["status"] != "ok":
                output.drop("question", question["question_id"], "malformed", question["reason"])
            elif obstacle or question["kind"] not in self.kinds:
                detail = obstacle[0] if obstacle else f"no captions of kind {question['kind']}"
                output.drop("question", question["question_id"], "sample_not_eligible", detail)
        if obstacle:
            output.drop("sample", sample_id, *obstacle)
            return
        output.keep("sample")
        for kind in self.kinds:
            self._write(candidate, kind, split)

    def _write(self, candidate: Candidate, kind: str, split: str) -> None:
        sample, image = candidate.sample, candidate.image
        assert image is not None
        kept, caption = self._unique(candidate.usable(kind)), candidate.captions[kind]["caption"]
        rounds = shuffled(sample["sample_id"], kind, caption, kept, seed=self.run.seed)
        for name, suffix, chosen in configurations(rounds):
            if name not in self.names:
                continue
            turns, strays = conversation(chosen)
            if name == self.names[-1]:  # which holds all rounds
                self.output.note("identifiers_neutralised", strays)
            self.rows[kind, name, split] += 1
            writer = self.output.writer("conversations", path=f"{kind}/{name}", stem=split)
            writer.write(
                {
                    "id": sample["sample_id"] + suffix,
                    "images": [image["image_id"]],
                    "conversations": turns,
                    "sample_id": sample["sample_id"],
                    "doc_id": sample["doc_id"],
                    "sources": [entry.source for entry in chosen],
                }
            )

    def _unique(self, questions: list[Row]) -> list[Question]:
        """The questions that stay; the others are dropped with the question that they resemble."""
        if self.embeddings is None:
            return []
        found = unique(
            questions,
            self.embeddings.of([row["question"] for row in questions]),
            threshold=self.run.params.similarity_threshold,
            minimum=self.run.params.min_per_type,
        )
        for row, other, similarity in found.dropped:
            detail = f"{similarity:.4f} to {other['question_id']}"
            self.output.drop("question", row["question_id"], "similar_question", detail)
        self.output.note("similar_pairs_kept_at_minimum", found.stuck)
        self.output.keep("question", len(found.kept))
        return found.kept


def similar_questions(run: Run, *, limit: int = 8) -> list[Row]:
    """A seeded handful of dropped questions, each beside the one that it resembles."""
    dropped = (
        row for row in tables.read_rows(run.data / "dropped") if row["reason"] == "similar_question"
    )
    pairs = [
        (row["id"], *reversed(row["detail"].split(" to ")))
        for row in choose(dropped, limit, run.seed, key=lambda row: str(row["id"]))
    ]
    ids = {name for pair in pairs for name in pair[:2]}
    texts = tables.lookup(run.table("questions"), "question_id", ids, ["question"]) if ids else {}
    return [
        {
            "dropped": texts[lost]["question"],
            "kept": texts[kept]["question"],
            "similarity": float(similarity),
        }
        for lost, kept, similarity in pairs
    ]
