"""Stage 06: one caption per sample and kind, asked of an engine (VisCon-100K, section 3.2).

A `contextual` caption is written from the image and what its page says around it, a
`non_contextual` one from the image alone, as the paper's control; a `fused` one from the image and
its priors (DenseFusion-1M, Perceptual Fusion), a `fused_contextual` one from image, priors and
page. A caption that fails a check is set aside with its text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from vislib import priors, prompts
from vislib.checks import RULES, Checks
from vislib.engines import Request
from vislib.prompts.captions import FUSED, KINDS, load_prompt, render_prompt
from vislib.runs import Drop, InputError, Note, Run, To, choose, sql, tables
from vislib.runs.contract import CAPTIONS, SAMPLES
from vislib.runs.errors import check_kept
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

REASONS = RULES  # why a caption that came is dropped
ID = ("sample.sample_id", "kind")  # of a caption


def join(kinds: Sequence[str], *, with_priors: bool, limit: int = 0, seed: int = 0) -> str:
    """SQL: a row per sample and kind, with the sample's image and that image's priors, and the
    `fault` (reason, detail) for which it cannot be captioned.

    With a `limit`, so many of the samples that can be captioned, by hash: a trial must not be spent
    on dead links.
    """
    # A fused kind cannot do without priors; others of the same sample can.
    bare = "priors.row IS NULL" if FUSED & set(kinds) else "false"
    fused = ", ".join(f"'{kind}'" for kind in sorted(FUSED))
    usable = f"WHERE fault IS NULL AND NOT bare ORDER BY {sql.drawn('sample_id', seed)}"
    looked_at = (
        "LEFT JOIN priors ON images.status = 'ok' AND priors.image_id = images.image_id"
        if with_priors
        else ""
    )
    return f"""
    WITH whole AS (
        SELECT samples.row AS sample, images.row AS image, sample_id, images.image_id,
            {"priors.row" if with_priors else "NULL"} AS priors, {bare} AS bare,
            CASE WHEN images.status IS NULL THEN ['image_failed', 'not in the ledger']
            WHEN images.status <> 'ok' THEN ['image_failed', images.reason] END AS fault
        FROM samples LEFT JOIN images USING (image_url) {looked_at}
    ), chosen AS (SELECT * FROM whole {f"{usable} LIMIT {limit}" if limit else ""}),
    kinds AS (SELECT unnest({list(kinds)}) AS kind, generate_subscripts({list(kinds)}, 1) AS place)
    SELECT sample, image, priors, kind,
        CASE WHEN fault IS NULL AND bare AND kind IN ({fused}) THEN ['no_priors', image_id]
        ELSE fault END AS fault
    FROM chosen, kinds ORDER BY sample, place
    """


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How captions are asked for: templates by kind, checks, the size at which images are sent."""

    params: Any
    templates: dict[str, prompts.Template]
    root: Path  # below which image files lie
    checks: Checks

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """The plan that a run's parameters describe. Raises InputError if they cannot work."""
        kinds: list[str] = run.params.kinds
        if not kinds or len(set(kinds)) < len(kinds):
            raise InputError(f"kinds is {kinds!r}; name each of {', '.join(KINDS)} at most once")
        if (fused := sorted(FUSED & set(kinds))) and not run.params.priors:
            raise InputError(
                f"kinds holds {fused[0]}, but priors is empty; set priors to 05_experts/priors"
            )
        return cls(
            params=run.params,
            templates={k: load_prompt(k, run.input(f"{k}_prompt"), f"{k}_caption") for k in kinds},
            root=run.table("images").parent,
            checks=Checks(run.params.checks, run.params.language),
        )

    def request(self, row: Row) -> Request | Drop:
        """What is asked about a joined row, or why nothing can be."""
        image, kind, sample, found = row["image"], row["kind"], row["sample"], row["priors"]
        if row["fault"]:
            return Drop(*row["fault"])
        template, path = self.templates[kind], self.root / image["path"]
        return Request(
            id=sample["sample_id"],
            prompt=render_prompt(template, kind, sample, found),
            prompt_sha=template.sha,
            shared=template.shared,
            image_id=image["image_id"],
            image_path=path,
            image_side=self.params.image_side,
            image_size=(image["width"], image["height"]),
            temperature=self.params.temperature,
            max_tokens=self.params.max_answer_tokens,
            seed=self.params.seed,
            evidence={
                "task": "caption",
                "kind": kind,
                "sample": {name: sample[name] for name in SAMPLES.names},  # 04's has more
                "caption": "",
                "image_path": str(path),
                "priors": found,
            },
        )

    def fault(self, request: Request, text: str) -> tuple[str, str]:
        """The check that a caption fails and what it found; two empty strings if there is none."""
        return self._fault(request.evidence["kind"], request.evidence["sample"], text)

    def _fault(self, kind: str, sample: Row, text: str) -> tuple[str, str]:
        page = sample["context"] or ""
        return self.checks.fault(text, prompt=self.templates[kind].text, page=page)

    def captions(self, rows: Iterable[Row]) -> Iterator[Said]:
        """Answers become rows of `captions`; one that failed or fails a check is dropped too."""
        for row in rows:
            answer, sample, kind = row["answer"], row["sample"], row["kind"]
            status, reason, detail = answer["status"], answer["reason"], answer["detail"]
            if status == "ok":
                reason, detail = self._fault(kind, sample, answer["text"])
                status = "dropped" if reason else "ok"
            # Placeholders in a caption would be images to whoever trains on it.
            caption, changed = prompts.neutralise(answer["text"])
            yield Note("placeholders_neutralised", changed)
            made = {name: answer[name] for name in CAPTIONS.names if name in answer}
            made |= {"sample_id": sample["sample_id"], "kind": kind, "caption": caption}
            # With its text, also when it is dropped: whoever doubts a check reads what it dropped.
            yield To("captions", made | {"status": status, "reason": reason})
            if reason:
                yield Drop(reason, detail)


def check_captions(run: Run) -> None:
    """Raise InputError, with where to look, if there is no caption."""
    lacks = f"samples need a usable image in {run.table('images')}"
    if FUSED & set(run.params.kinds):
        lacks += f" and a row in {run.table('priors')}"
    check_kept(run.counts(), "caption", f"{lacks}; see the reasons, mend and run again")


def examples(run: Run, answers: Path, count: int) -> list[Row]:
    """A seeded handful of the first part to look at: samples with `picture`, `priors` as a prompt
    holds them, and captions by kind.
    """
    root = run.table("images").parent
    cards: dict[str, Row] = {}
    # A part of the captions comes from the same part of the answers, row by row.
    asked = tables.read_rows(tables.parts(answers)[0])
    made = tables.read_rows(tables.parts(run.data / "captions")[0])
    for row, caption in zip(asked, made, strict=True):
        sample, found = row["sample"], row["priors"]
        fields = priors.as_fields(sample, found) if found else {}
        reason = f" ({caption['reason']})" if caption["reason"] else ""
        card = cards.setdefault(sample["sample_id"], sample | {"model": caption["model"]})
        card["picture"] = root / row["image"]["path"]
        card["priors"] = [f"{name}: {text}" for name, text in fields.items() if text]
        card[row["kind"]] = caption["caption"] + reason
    return choose(cards.values(), count, run.seed, key=itemgetter("sample_id"))
