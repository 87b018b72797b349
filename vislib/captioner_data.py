"""What a captioner learns from and is held to: the captions of a set, joined with what their writer
read and split by page (VisCon-100K, section 5.6).

A row asks as stage 06 asks, with prompt and image; where the image stands is for the model's chat
form to say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vislib import prompts
from vislib.prompts.captions import FUSED, PAGE, load_prompt, render_prompt
from vislib.runs import InputError, Run, seeded, sql, tables
from vislib.runs.tables import Row
from vislib.training.chat import MARK
from vislib.training.sources import VISUAL, entry

REASONS = {
    "caption_failed": "stage 06 has no usable caption",
    "sample_unknown": "the samples lack the caption's",
    "image_failed": "the image has no file",
    "no_priors": "the experts did not see the image, and captions of this kind need that",
    "image_in_train": "held out, but another page shows the same image and is learnt from",
    "not_chosen": "held out, beyond the number that `held_out` allows",
}  # beside those of a row that cannot be encoded


def join(kind: str, *, seed: int, test_fraction: float, held_out: int, with_priors: bool) -> str:
    """SQL: one row per caption of a kind with what its writer read, in order, its split, and the
    `fault` (reason, detail) for which it is neither learnt from nor held out.

    The split is by page, that of stage 08 with its seed and fraction: captions of one page say the
    same things. Of the test split `held_out` (0: all) are drawn by hash.
    """
    needed = "TRUE" if kind in FUSED else "FALSE"
    beyond = f"place > {held_out}" if held_out else "FALSE"
    return f"""
    WITH joined AS (
        SELECT captions.row AS caption, samples.row AS sample, images.row AS image,
            {"prior.row" if with_priors else "NULL"} AS priors, images.image_id, sample_id,
            {sql.split(seed, test_fraction)} AS split,
            -- in the order in which a caption came about: the first lack is the cause
            CASE WHEN captions.status <> 'ok' THEN ['caption_failed', captions.reason]
            WHEN samples.row IS NULL THEN ['sample_unknown', '']
            WHEN images.row IS NULL THEN ['image_failed', samples.image_url]
            WHEN {needed} AND prior.row IS NULL THEN ['no_priors', images.image_id] END AS fault
        FROM captions LEFT JOIN samples USING (sample_id)
            LEFT JOIN images ON images.image_url = samples.image_url AND path IS NOT NULL
            -- of priors the first row counts: one image may stand on several pages
            LEFT JOIN (SELECT image_id, min(row) AS row FROM priors GROUP BY image_id) AS prior
                ON prior.image_id = images.image_id
        WHERE captions.kind = '{kind}'
    ), parted AS (
        -- an image may stand on several pages, and one that is learnt from tests nothing
        SELECT * REPLACE (if(fault IS NULL AND split = 'test' AND image_id IN (
            SELECT image_id FROM joined WHERE fault IS NULL AND split = 'train'
        ), ['image_in_train', image_id], fault) AS fault) FROM joined
    ), drawn AS (
        SELECT *, row_number() OVER (PARTITION BY split, fault IS NULL
            ORDER BY {sql.drawn("sample_id", seed)}) AS place FROM parted
    )
    SELECT caption, sample, image, priors, split,
        if(fault IS NULL AND split = 'test' AND {beyond}, ['not_chosen', image_id], fault) AS fault
    FROM drawn ORDER BY caption
    """


# Neither learnt from nor held out; and those that are not learnt from.
REFUSED = """
    SELECT caption.sample_id AS id, fault[1] AS reason, fault[2] AS detail
    FROM joined WHERE fault IS NOT NULL ORDER BY row
"""
UNLEARNT = "SELECT caption.sample_id FROM joined WHERE split = 'test' OR fault IS NOT NULL"


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
        # The picture and its size stay; the place of the image in the page is the page's.
        page = {name: other.sample[name] for name in (*PAGE, "image_index")}
        return replace(self, sample=self.sample | page)


@dataclass(frozen=True, kw_only=True)
class Captions:
    """The captions of one kind, joined with what their writer read (`join`), the folder of their
    images, and the prompt that asks for them.
    """

    joined: Path
    images: Path
    kind: str
    template: prompts.Template
    seed: int

    @classmethod
    def of(cls, run: Run) -> "Captions":
        """What a run's parameters name. Raises InputError for a kind without its priors, or a
        prompt without fields.
        """
        kind, priors, images = run.params.kind, run.input("priors"), run.table("images")
        if kind in FUSED and priors is None:
            raise InputError(
                f"kind is {kind}, but priors is empty; set priors to 05_experts/priors"
            )
        query = join(
            kind,
            seed=run.seed,
            test_fraction=run.params.test_fraction,
            held_out=run.params.held_out,
            with_priors=priors is not None,
        )
        # One row per caption: what is lost or doubled in the join is an error, not fewer rows.
        joined = run.sql(
            query,
            into="joined",
            one_per="caption.sample_id",
            captions=run.table("captions"),
            samples=run.table("samples"),
            images=images,
            # A kind without priors joins none, but the query names the table.
            priors=priors or images,
        )
        return cls(
            joined=joined,
            images=images.parent,
            kind=kind,
            # A template of its own, short: a trained model needs no rules.
            template=load_prompt(kind, run.input("prompt"), f"captioner_{kind}"),
            seed=run.seed,
        )

    def prompt(self, example: Example) -> str:
        """The text that asks for a caption: to the letter that of stage 06 with the same
        template.
        """
        return render_prompt(self.template, self.kind, example.sample, example.priors)

    def question(self, example: Example) -> str:
        """The human turn: the prompt and the image, as stage 06 sends them."""
        return f"{self.prompt(example)}{MARK}"

    def entries(self) -> Iterator[Row]:
        """The rows to learn from: captions that can be used, of pages that are not held out."""
        for example in self.examples("train"):
            # As stage 06 asks and as stage 08 writes rows: one turn each.
            turns = [
                {"from": "human", "value": self.question(example)},
                {"from": "gpt", "value": example.caption},
            ]
            yield entry(example.name, VISUAL, [example.path], turns, sample=example.name)

    def examples(self, split: str) -> Iterator[Example]:
        """The captions of a split that can be used, in order."""
        for row in tables.read_rows(self.joined):
            if row["split"] == split and row["fault"] is None:
                yield Example(
                    sample=row["sample"],
                    image_id=row["image"]["image_id"],
                    path=self.images / row["image"]["path"],
                    priors=row["priors"],
                    caption=row["caption"]["caption"],
                )

    def held_out(self) -> list[Example]:
        """The captions that are asked for anew. Raises InputError if they, or those to learn from,
        are too few.
        """
        held = list(self.examples("test"))
        n_learnt = sum(1 for _ in self.examples("train"))
        # Of one page alone nothing can be drawn: no score would have an interval.
        if not n_learnt or len({example.page for example in held}) < 2:
            raise InputError(
                f"{self.joined}: of the {self.kind} captions {n_learnt} are to learn from and"
                f" {len(held)} held out; take some to learn from, and held-out ones of two pages"
                " at least: more captions, another test_fraction, held_out or seed"
            )
        return held


def swapped(examples: Sequence[Example], seed: int) -> list[Example]:
    """Each example in the place of another one, on another page, drawn by the hash of seed and
    sample.
    """
    found = []
    for example in examples:
        # From the example alone, so that a further one changes no other.
        start = seeded(seed, "swap", example.name) % len(examples)
        turned = (*examples[start:], *examples[:start])
        other = next(one for one in turned if one.page != example.page)
        found.append(example.on_page_of(other))
    return found
