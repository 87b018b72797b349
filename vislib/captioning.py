"""Stage 06: one caption per sample and kind, asked of an engine (VisCon-100K, section 3.2).

A `contextual` caption is written from the image and what its page says around it, a
`non_contextual` one from the image alone, as the paper's control; a `fused` one from the image and
its priors (DenseFusion-1M, Perceptual Fusion), a `fused_contextual` one from image, priors and
page. Every answer is journalled before the tables are written from the journal, in the order of the
samples, so that a rerun asks nothing twice. A caption that fails a check is set aside with its
text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vislib import priors, prompts
from vislib.checks import RULES, Checks
from vislib.engines import Engine, Request, answer_of, open_engine
from vislib.engines.asking import ask_all
from vislib.engines.billing import Rule, rule_of, send_side
from vislib.prompts.captions import FUSED, KINDS, load_prompt, render_prompt
from vislib.runs import InputError, Run, choose, tables
from vislib.runs.contract import SAMPLES
from vislib.runs.journal import Journal
from vislib.runs.tables import Output, Row

TEMPLATES = {kind: f"{kind}_caption" for kind in KINDS}
REASONS = RULES  # why a caption that came is dropped


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked: kinds with their templates, tables, and the chosen samples (None: all)."""

    params: Any
    templates: dict[str, prompts.Template]
    samples: Path
    images: Path
    priors: Path | None
    chosen: frozenset[str] | None
    checks: Checks
    rule: Rule | None

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """The plan that a run's parameters describe. Raises InputError if nothing can be asked."""
        if not run.params.kinds or len(set(run.params.kinds)) < len(run.params.kinds):
            raise InputError(
                f"kinds is {run.params.kinds!r}; name each of {', '.join(TEMPLATES)} at most once"
            )
        if (fused := sorted(FUSED & set(run.params.kinds))) and not run.params.priors:
            raise InputError(
                f"kinds holds {fused[0]}, but priors is empty; set priors to 05_experts/priors"
            )
        plan = cls(
            params=run.params,
            samples=run.table("samples"),
            images=run.table("images"),
            priors=run.input("priors"),
            chosen=_chosen(run, bool(fused)),
            templates={
                k: load_prompt(k, run.input(f"{k}_prompt"), TEMPLATES[k]) for k in run.params.kinds
            },
            checks=Checks(run.params.checks, run.params.language),
            rule=rule_of(run.params),
        )
        if next(plan.requests(), None) is None:
            lacks = f"a usable image in {plan.images}" + (
                f" and a row in {plan.priors}" if fused else ""
            )
            raise InputError(
                f"{plan.samples}: no sample has {lacks}; see its reasons, mend and run"
                f" {'05' if fused else '03'} again"
            )
        return plan

    def requests(self) -> Iterator[Request]:
        """Every request of the stage, in the order of samples and kinds."""
        for part in tables.parts(self.samples):
            yield from (request for _, _, request, _ in self.of_part(part) if request)

    def of_part(self, part: Path) -> Iterator[tuple[Row, str, Request | None, tuple[str, str]]]:
        """`(sample, kind, request, reason and detail if there is none)` for one part of the
        samples.
        """
        rows = [
            r
            for r in tables.read_rows(part, SAMPLES.names)
            if self.chosen is None or r["sample_id"] in self.chosen
        ]
        images = tables.lookup(self.images, "image_url", {row["image_url"] for row in rows})
        usable = {url: image for url, image in images.items() if image["status"] == "ok"}
        ids = {image["image_id"] for image in usable.values()}
        found = tables.lookup(self.priors, "image_id", ids) if self.priors else {}
        for row in rows:
            image = usable.get(row["image_url"])
            why = (
                ""
                if image
                else images.get(row["image_url"], {"reason": "not in the ledger"})["reason"]
            )
            for kind in self.templates:
                if image is None:
                    yield row, kind, None, ("image_failed", why)
                elif kind in FUSED and image["image_id"] not in found:  # 05 ran on fewer images
                    yield row, kind, None, ("no_priors", image["image_id"])
                else:
                    yield (
                        row,
                        kind,
                        self._request(row, kind, image, found.get(image["image_id"])),
                        ("", ""),
                    )

    def fault(self, request: Request, text: str) -> tuple[str, str]:
        """The check that a caption fails and what it found; two empty strings if there is none."""
        page = request.evidence["sample"]["context"] or ""
        return self.checks.fault(
            text, prompt=self.templates[request.evidence["kind"]].text, page=page
        )

    def _request(self, row: Row, kind: str, image: Row, found: Row | None) -> Request:
        template, path = self.templates[kind], self.images.parent / image["path"]
        size, bounds = (
            (image["width"], image["height"]),
            (self.params.image_side, self.params.image_tokens),
        )
        return Request(
            id=row["sample_id"],
            prompt=render_prompt(template, kind, row, found),
            prompt_sha=template.sha,
            shared=template.shared,
            image_id=image["image_id"],
            image_path=path,
            image_side=send_side(*size, side=bounds[0], tokens=bounds[1], rule=self.rule),
            image_size=size,
            temperature=self.params.temperature,
            max_tokens=self.params.max_answer_tokens,
            seed=self.params.seed,
            evidence={
                "task": "caption",
                "kind": kind,
                "sample": row,
                "caption": "",
                "image_path": str(path),
                "priors": found,
            },
        )


def _chosen(run: Run, fused: bool) -> frozenset[str] | None:
    """The samples of a `limit`, of those that can be captioned: a trial must not be spent on dead
    links.
    """
    if not run.params.limit:
        return None
    seen = (
        {row["image_id"] for row in tables.read_rows(run.table("priors"), ["image_id"])}
        if fused
        else None
    )
    ledger = tables.read_rows(run.table("images"), ["image_url", "image_id", "status"])
    usable = {
        row["image_url"]
        for row in ledger
        if row["status"] == "ok" and (seen is None or row["image_id"] in seen)
    }
    rows = tables.read_rows(run.table("samples"), ["sample_id", "image_url"])
    return frozenset(
        choose(
            (r["sample_id"] for r in rows if r["image_url"] in usable), run.params.limit, run.seed
        )
    )


def write_captions(run: Run) -> None:
    """Ask for every caption that the journal lacks, then write the table `captions`."""
    plan, engine = Plan.of(run), open_engine(run)
    ask_all(run, engine, plan.requests, plan.fault)
    write = partial(_write_part, plan=plan, engine=engine, journal=run.journal(engine.journal))
    run.map_shards(
        write, tables.parts(plan.samples), resume=False
    )  # the journal may hold more by now


def _write_part(
    part: Path, output: Output, *, plan: Plan, engine: Engine, journal: Journal
) -> None:
    for sample, kind, request, (lacking, why) in plan.of_part(part):
        output.take("caption")
        name = f"{sample['sample_id']}/{kind}"
        if request is None:
            output.drop("caption", name, lacking, why)
            continue
        answer = answer_of(journal, engine, request)
        status, reason, detail = answer.status, answer.reason, answer.detail
        if status == "ok":
            reason, detail = plan.fault(request, answer.text)
            status = "dropped" if reason else "ok"
        caption, changed = prompts.neutralise(answer.text)
        output.note("placeholders_neutralised", changed)
        output.write(
            "captions",
            {
                "sample_id": sample["sample_id"],
                "kind": kind,
                "caption": caption,
                "status": status,
                "reason": reason,
                "model": answer.model,
                "prompt_sha": request.prompt_sha,
                "request_sha": answer.request_sha,
                "tokens_in": answer.tokens_in,
                "tokens_out": answer.tokens_out,
            },
        )
        if reason:
            output.drop("caption", name, reason, detail)
        else:
            output.keep("caption")


def examples(run: Run, count: int) -> list[Row]:
    """A seeded handful to look at: samples with `picture`, `priors` as a prompt holds them, and
    captions by kind.
    """
    table, given = run.data / "captions", run.input("priors")
    ids = dict.fromkeys(row["sample_id"] for row in tables.read_rows(table, ["sample_id"]))
    chosen = tables.lookup(run.table("samples"), "sample_id", choose(ids, count, run.seed))
    urls = {row["image_url"] for row in chosen.values()}
    images = tables.lookup(run.table("images"), "image_url", urls, ["image_id", "path"])
    found = (
        tables.lookup(given, "image_id", {image["image_id"] for image in images.values()})
        if given
        else {}
    )
    for shown in chosen.values():
        image = images[shown["image_url"]]
        shown["picture"] = run.table("images").parent / image["path"]
        fields = (
            priors.as_fields(shown, found[image["image_id"]]) if image["image_id"] in found else {}
        )
        shown["priors"] = [f"{name}: {text}" for name, text in fields.items() if text]
    for row in tables.read_rows(table):
        if card := chosen.get(row["sample_id"]):
            reason = f"({row['reason']})" if row["reason"] else ""
            card |= {row["kind"]: f"{row['caption']} {reason}".strip(), "model": row["model"]}
    return [chosen[name] for name in ids if name in chosen]
