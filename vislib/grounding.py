"""Stage 13: whether picture, page, both or neither support each sentence of a caption.

Contextual captions join what is seen with what the page says (VisCon-100K, section 3.2); what
neither supports is made up, and what the page alone supports no picture can teach. A sentence is a
claim. By default texts are the evidence (`vislib.evidence`): the page on one side, on the other
what was read, tagged and measured in the picture, and said by a caption whose writer saw no page.
By parameter a vision model judges, of another family than the writer: models prefer their own.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vislib import prompts
from vislib.engines import Request
from vislib.evidence import Evidence, similarities, specifics
from vislib.media.picture import measure
from vislib.media.pixels import read_image
from vislib.media.tokenization import sentences
from vislib.media.words import words
from vislib.prompts.captions import PAGE
from vislib.runs import Drop, InputError, Run, To, short_hash, sql
from vislib.runs.contract import SCHEMAS
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

VERDICTS = ("neither", "image", "context", "both")
TEXT_EVIDENCE = "text evidence"  # the engine without a model
PAGE_BLIND = ("non_contextual", "fused")  # kinds whose writer saw no page
ID = ("caption.sample_id", "caption.kind")
_NGRAM = 8  # words; fewer stand on a page by chance
_SEEN = 0.02  # share of a picture from which a colour can be seen
# Names of one family; others are told by their first letters.
_FAMILIES = {"chatgpt": "gpt", "o": "gpt", "gemma": "gemini", "pixtral": "mistral"}


def join(*, with_priors: bool, labels: Path | None = None, limit: int = 0, seed: int = 0) -> str:
    """SQL: a row per good caption with its sample, image and priors, and all captions of the
    sample; with `labels` (a CSV file), of captions with labelled claims, these beside it.
    """
    # of samples, so that the kinds of one, which are evidence of each other, stay together
    drawn = f"ORDER BY {sql.drawn('sample_id', seed)} LIMIT {limit}" if limit else ""
    claims = f"""
    (SELECT sample_id, kind, list(claim ORDER BY claim_id) AS rows FROM (
        SELECT * REPLACE (sentence::BIGINT AS sentence)
        FROM read_csv('{labels}', header = true, all_varchar = true)
    ) AS claim GROUP BY ALL)"""
    return f"""
    WITH every AS (
        SELECT sample_id, list(row ORDER BY row) AS rows
        FROM captions WHERE status = 'ok' GROUP BY sample_id {drawn}
    )
    SELECT captions.row AS caption, samples.row AS sample, images.row AS image,
        {"priors.row" if with_priors else "NULL"} AS priors, every.rows AS captions,
        {"labelled.rows" if labels else "NULL"} AS labels
    FROM captions JOIN every USING (sample_id) LEFT JOIN samples USING (sample_id)
        LEFT JOIN images ON images.image_url = samples.image_url AND path IS NOT NULL
        {"LEFT JOIN priors USING (image_id)" if with_priors else ""}
        {f"JOIN {claims} AS labelled USING (sample_id, kind)" if labels else ""}
    WHERE captions.status = 'ok' ORDER BY captions.row
    """


def claims_of(row: Row) -> Iterator[Row]:
    """The claims of a joined row: those that were labelled, else the sentences of its caption."""
    caption, sample = row["caption"], row["sample"]
    lines = enumerate(map(str.strip, sentences(caption["caption"])))
    made: list[Row] = [{"sentence": place, "text": line} for place, line in lines if line]
    # once for all claims of the caption: pages are long
    page = set(ngrams(sample["context"] or ""))
    for claim in row["labels"] or made:
        ids = (caption["sample_id"], caption["kind"], str(claim["sentence"]), claim["text"])
        own = ngrams(claim["text"])
        yield claim | {
            "claim_id": short_hash(*ids),
            "sample_id": caption["sample_id"],
            "doc_id": sample["doc_id"],
            "kind": caption["kind"],
            "ngrams": len(own),
            "copied_ngrams": sum(run in page for run in own),
            # by page, as captions of one page share its words
            "held_out": int(sample["doc_id"], 16) % 2 == 0,
        }


def ngrams(text: str) -> list[tuple[str, ...]]:
    """The runs of eight words of a text, in order."""
    found = words(text)
    return [tuple(found[n : n + _NGRAM]) for n in range(len(found) - _NGRAM + 1)]


def of_page(row: Row) -> Evidence:
    """What the page says: the text around, the alternative text, the words of its address."""
    # the address counts: it often names what the picture shows
    url, alt_text, context = (row["sample"][name] or "" for name in PAGE)
    return Evidence.of([context, alt_text, re.sub(r"[\W_]+", " ", url)])


def of_picture(row: Row, root: Path) -> Evidence:
    """What texts and measurements show of the picture; never the caption that is judged."""
    kind, found = row["caption"]["kind"], row["priors"] or {"texts": (), "tags": ()}
    # A caption of the page's own words would lend the picture what only the page says. To a writer
    # that saw no page any other caption is a second look.
    others = [
        other["caption"]
        for other in row["captions"]
        if other["kind"] != kind and {kind, other["kind"]}.intersection(PAGE_BLIND)
    ]
    seen = [*(text["text"] for text in found["texts"]), *(tag["label"] for tag in found["tags"])]
    path = root / row["image"]["path"] if row["image"] else None
    return Evidence.of([*others, *seen], known=_colours(path))


@lru_cache(maxsize=16)  # captions of one picture follow one another
def _colours(path: Path | None) -> tuple[str, ...]:
    picture = measure(read_image(path)) if path else None
    colours = picture.colours if picture else ()  # none of a picture too small to speak of
    return tuple(colour.family for colour in colours if colour.share >= _SEEN)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How claims are judged: by text evidence, or by a model that is sent picture and page."""

    params: Any
    template: prompts.Template
    root: Path  # below which image files lie

    @classmethod
    def of(cls, run: Run) -> "Judge":
        """The judge that a run's parameters describe. Raises InputError for one of the family of a
        writer.
        """
        if run.params.engine != TEXT_EVIDENCE:
            _refuse_relatives(run)
        own = run.input("prompt")
        template = prompts.load(str(own) if own else "grounding", needs=("claims",))
        return cls(params=run.params, template=template, root=run.table("images").parent)

    def request(self, row: Row) -> Request | Drop:
        """What a model is asked about a joined row: picture, page, and its claims by number."""
        image, sample = row["image"], row["sample"]
        if image is None:
            return Drop("image_failed", sample["image_url"])
        claims = [f"{number}. {claim['text']}" for number, claim in enumerate(claims_of(row), 1)]
        page = {name: sample[name] or "" for name in PAGE}
        prompt = self.template.render(claims="\n".join(claims), **page)
        return Request(
            id=sample["sample_id"],
            # to some models `<image>` is where pixels go
            prompt=prompts.neutralise(prompt)[0],
            prompt_sha=self.template.sha,
            shared=self.template.shared,
            image_id=image["image_id"],
            image_path=self.root / image["path"],
            image_side=self.params.image_side,
            image_size=(image["width"], image["height"]),
            temperature=self.params.temperature,
            max_tokens=self.params.max_answer_tokens,
            seed=self.params.seed,
        )

    def fault(self, request: Request, text: str) -> tuple[str, str]:
        """Why an answer is of no use, or two empty strings."""
        return ("", "") if judgements(text) else ("no_judgement", text)

    def verdicts(self, rows: Iterable[Row], *, into: str) -> Iterator[Said]:
        """Joined rows, or answered ones, become rows of `into`; a claim that an answer leaves out
        has no verdict.
        """
        names = SCHEMAS["13_grounding"][into].names
        for row in rows:
            claims = list(claims_of(row))
            answer = row.get("answer")
            if answer is None:
                sides = of_picture(row, self.root), of_page(row)
                found = [self.weighed(claim["text"], *sides) for claim in claims]
            elif answer["status"] == "ok":
                told = judgements(answer["text"])
                # by number: a model may leave a claim out, or change its order
                found = [told.get(n, {"verdict": ""}) for n in range(1, len(claims) + 1)]
                found = [one | {"judge": answer["model"]} for one in found]
            else:
                yield Drop(answer["reason"], answer["detail"])
                continue
            for claim, judged in zip(claims, found, strict=True):
                known = claim | judged
                # without a verdict too: who counts sentences misses none
                yield To(into, {name: known.get(name) for name in names})
                if not judged["verdict"]:
                    yield Drop("not_judged", claim["text"], claim["claim_id"], f"claim ({into})")

    def weighed(self, claim: str, picture: Evidence, page: Evidence) -> Row:
        """Verdict, scores and nearest sentences of one claim, by text evidence."""
        seen, read = picture.support(claim), page.support(claim)
        held = [side.score >= self.params.support for side in (seen, read)]
        # One wrong name, number or colour makes all of a claim wrong.
        lacking = sorted(specifics(claim) - picture.words - page.words)
        if not lacking and not any(held):  # a paraphrase shares few words
            import torch  # late: it takes seconds

            # over three short texts threads wait longer than they work
            torch.set_num_threads(1)
            near = similarities(self.params.embedding_model, claim, [seen.text, read.text])
            held = [cosine >= self.params.similarity for cosine in near]
        return {
            "verdict": VERDICTS[0 if lacking else held[0] + 2 * held[1]],
            "image_score": seen.score,
            "context_score": read.score,
            "image_evidence": seen.text,
            "context_evidence": read.text,
            "lacking": lacking,
            "judge": TEXT_EVIDENCE,
        }


def judgements(text: str) -> dict[int, Row]:
    """Verdict and evidence in a model's answer by the number of the claim; nothing of what is no
    such answer.
    """
    try:  # with or without words around it
        read = json.loads(text[text.find("{") : text.rfind("}") + 1])["judgements"]
        return {
            int(one["number"]): {
                "verdict": one["verdict"],
                "image_evidence": str(one.get("image", "")),
                "context_evidence": str(one.get("page", "")),
            }
            for one in read
            if one["verdict"] in VERDICTS
        }
    except (ValueError, KeyError, TypeError):
        return {}


def family(model: str) -> str:
    """The family of a model by the first letters of its name: `gpt` of `openai/gpt-4o`."""
    name = re.sub("[^a-z].*", "", model.lower().rpartition("/")[2], flags=re.DOTALL)
    return _FAMILIES.get(name, name)


def _refuse_relatives(run: Run) -> None:
    judge = run.params.model
    # asked of the table, as a set may hold captions of several writers
    writers = "SELECT DISTINCT model FROM captions WHERE model <> '' ORDER BY ALL"
    for (writer,) in sql.select(writers, {"captions": run.table("captions")}, run.scratch):
        if family(judge) == family(writer):
            raise InputError(
                f"model: {judge!r} would judge captions of {writer!r}, of its own family"
                f" {family(writer)!r}; take another family's model, or engine: {TEXT_EVIDENCE}"
            )
