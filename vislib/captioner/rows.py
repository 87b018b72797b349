"""What a captioner learns from and is held to: captions joined with what their writer read
(VisCon-100K, section 5.6).

A training row asks as stage 06 asks, with prompt and image, so that the trained model can take its
place there; where the image stands is for the model's chat form to say. Captions of a share of the
pages are held out: the same pages as in stage 08, with its seed and fraction.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from vislib.prompts import Template
from vislib.prompts.captions import FUSED, PAGE, load_prompt, render_prompt
from vislib.runs import InputError, Run, choose, seeded, tables
from vislib.runs.contract import SAMPLES
from vislib.runs.seeding import split_of
from vislib.runs.tables import Row
from vislib.training.sources import MARK, VISUAL, Entry, Refusal, entry

_AT_ONCE = 2000  # captions held in memory with all that belongs to them


@dataclass(frozen=True, kw_only=True)
class Example:
    """One caption with what its writer read: the sample, the image's file, and its priors, if there
    are any.
    """

    sample: Row
    image_id: str
    path: Path
    priors: Row | None
    caption: str
    held_out: bool

    @property
    def name(self) -> str:
        """The sample_id."""
        return str(self.sample["sample_id"])

    @property
    def page(self) -> str:
        """What splits go by, and intervals."""
        return str(self.sample["page_url"] or self.sample["doc_id"])

    def on_page_of(self, other: "Example") -> "Example":
        """This image, and what was found in it, as if it stood in the other's place."""
        page = {name: other.sample[name] for name in (*PAGE, "image_index")}
        return replace(self, sample=self.sample | page)


@dataclass(frozen=True, kw_only=True)
class Captions:
    """The captions of one kind, the tables that they are joined with, and the prompt that asks for
    them.
    """

    captions: Path
    samples: Path
    images: Path
    priors: Path | None
    kind: str
    template: Template
    seed: int
    test_fraction: float

    @classmethod
    def of(cls, run: Run) -> "Captions":
        """What a run's parameters name. Raises InputError for a kind without its priors, or a
        prompt without fields.
        """
        kind, priors = run.params.kind, run.input("priors")
        if kind in FUSED and priors is None:
            raise InputError(
                f"kind is {kind}, but priors is empty; set priors to 05_experts/priors"
            )
        return cls(
            captions=run.table("captions"),
            samples=run.table("samples"),
            images=run.table("images"),
            priors=priors,
            kind=kind,
            template=load_prompt(kind, run.input("prompt"), f"captioner_{kind}"),
            seed=run.seed,
            test_fraction=run.params.test_fraction,
        )

    def prompt(self, example: Example) -> str:
        """The text that asks for a caption: to the letter that of stage 06 with the same
        template.
        """
        return render_prompt(self.template, self.kind, example.sample, example.priors)

    def question(self, example: Example) -> str:
        """The human turn: the prompt and the image, as stage 06 sends them."""
        return f"{self.prompt(example)}{MARK}"

    def entries(self) -> Iterator[Entry]:
        """The rows to learn from: captions that can be used, of pages that are not held out."""
        for found in self:
            if isinstance(found, Example) and not found.held_out:
                asked = {"from": "human", "value": self.question(found)}
                yield entry(
                    found.name,
                    VISUAL,
                    [found.path],
                    [asked, {"from": "gpt", "value": found.caption}],
                )

    def __iter__(self) -> Iterator[Example | Refusal]:
        """Every caption of the kind in order, or why it cannot be used."""
        rows = (row for row in tables.read_rows(self.captions) if row["kind"] == self.kind)
        while chunk := list(islice(rows, _AT_ONCE)):
            samples = tables.lookup(
                self.samples, "sample_id", {row["sample_id"] for row in chunk}, SAMPLES.names
            )
            urls = {sample["image_url"] for sample in samples.values()}
            images = {
                url: row
                for url, row in tables.lookup(self.images, "image_url", urls).items()
                if row["path"]
            }
            ids = {image["image_id"] for image in images.values()}
            priors = tables.lookup(self.priors, "image_id", ids) if self.priors else {}
            for row in chunk:
                yield self._joined(row, samples.get(row["sample_id"]), images, priors)

    def _joined(
        self, row: Row, sample: Row | None, images: Mapping[str, Row], priors: Mapping[str, Row]
    ) -> Example | Refusal:
        image = images.get(sample["image_url"]) if sample else None
        found = priors.get(image["image_id"]) if image else None
        if row["status"] != "ok":
            lacking = "caption_failed", row["reason"]
        elif sample is None:
            lacking = "sample_unknown", ""
        elif image is None:
            lacking = "image_failed", sample["image_url"]
        elif self.kind in FUSED and found is None:
            lacking = "no_priors", image["image_id"]
        else:
            split = split_of(sample, seed=self.seed, test_fraction=self.test_fraction)
            return Example(
                sample=sample,
                image_id=image["image_id"],
                path=self.images.parent / image["path"],
                priors=found,
                caption=row["caption"],
                held_out=split == "test",
            )
        return Refusal(row["sample_id"], VISUAL, *lacking)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which captions are held out, which are refused before any is encoded, and how many there are
    in all.
    """

    taken: int
    held_out: tuple[Example, ...]
    refused: tuple[Refusal, ...]

    @classmethod
    def of(cls, captions: Captions, *, most: int) -> "Split":
        """Hold out at most `most` captions (0: all of their pages), a seeded choice.

        Memory: held-out and refused captions, 8 bytes for each of the others. Raises InputError if
        there are too few.
        """
        held, refused, learnt, taken = list[Example](), list[Refusal](), array("Q"), 0
        for found in captions:
            taken += 1
            if isinstance(found, Refusal):
                refused.append(found)
            elif found.held_out:
                held.append(found)
            else:
                learnt.append(seeded(0, found.image_id))
        known = np.isin(
            np.array([seeded(0, e.image_id) for e in held], np.uint64), np.array(learnt, np.uint64)
        )
        shared = {example.name for example, in_train in zip(held, known, strict=True) if in_train}
        apart = [example for example in held if example.name not in shared]
        chosen = choose(apart, most, captions.seed, key=lambda example: example.name)
        if not learnt or len({example.page for example in chosen}) < 2:
            raise InputError(
                f"{captions.captions}: of {taken} {captions.kind} captions {len(learnt)} are to"
                f" learn from and {len(chosen)} held out; take some to learn from, and held-out"
                " ones of two pages at least: more captions, another test_fraction, held_out or"
                " seed"
            )
        left = {example.name for example in chosen}
        refused += [
            Refusal(
                e.name, VISUAL, "image_in_train" if e.name in shared else "not_chosen", e.image_id
            )
            for e in held
            if e.name not in left
        ]
        return cls(taken=taken, held_out=tuple(chosen), refused=tuple(refused))


def swapped(examples: Sequence[Example], seed: int) -> list[Example]:
    """Each example in the place of another one, on another page, drawn by the hash of seed and
    sample.
    """
    found = []
    for example in examples:
        start = seeded(seed, "swap", example.name) % len(examples)
        turned = (examples[(start + step) % len(examples)] for step in range(len(examples)))
        found.append(
            example.on_page_of(next(other for other in turned if other.page != example.page))
        )
    return found
