"""Stage 07: free-form and multiple-choice rounds about every caption, asked and parsed
(VisCon-100K, section 3.3).

A language model reads a caption, never the image, and writes 3 to 5 rounds of each type. Its text
is cut into rounds by the identifiers, or read as JSON; a round that is malformed or fails a check
is set aside with its reason. Every answer is journalled before the tables are written from the
journal, in the order of the captions.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vislib import checks, prompts, qa_format
from vislib.checks import Checks
from vislib.engines import Engine, Request, answer_of, open_engine
from vislib.engines.asking import ask_all
from vislib.qa_format import Block, as_text, parse_free_form, parse_multiple_choice
from vislib.qa_json import SCHEMAS
from vislib.qa_options import shuffle
from vislib.runs import InputError, Run, choose, short_hash, tables
from vislib.runs.contract import CAPTIONS
from vislib.runs.journal import Journal
from vislib.runs.tables import Output, Row

PARSERS = {"free_form": parse_free_form, "multiple_choice": parse_multiple_choice}
REASONS = qa_format.REASONS | checks.RULES
_DETAIL = 300  # characters of a bad round that `dropped` quotes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked: templates by question type, tables, and the chosen samples (None: all)."""

    params: Any
    templates: dict[str, prompts.Template]
    captions: Path
    samples: Path
    images: Path
    priors: Path | None
    chosen: frozenset[str] | None
    checks: Checks

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """The plan that a run's parameters describe. Raises InputError if there is no caption to
        ask about.
        """
        captions, chosen = run.table("captions"), None
        if run.params.limit:
            rows = tables.read_rows(captions, ["sample_id", "status"])
            ids = dict.fromkeys(row["sample_id"] for row in rows if row["status"] == "ok")
            chosen = frozenset(choose(ids, run.params.limit, run.seed))
        plan = cls(
            params=run.params,
            captions=captions,
            samples=run.table("samples"),
            images=run.table("images"),
            priors=run.input("priors"),
            chosen=chosen,
            templates={kind: _template(run, kind) for kind in PARSERS},
            checks=Checks(run.params.checks, run.params.language),
        )
        if next(plan.requests(), None) is None:
            raise InputError(
                f"{captions}: no caption of status ok; see its reasons, mend and run 06 again"
            )
        return plan

    def requests(self) -> Iterator[Request]:
        """Every request of the stage, in the order of captions and question types."""
        for part in tables.parts(self.captions):
            yield from (
                request for _, requests in self.of_part(part) for request in requests.values()
            )

    def of_part(self, part: Path) -> Iterator[tuple[Row, dict[str, Request]]]:
        """`(caption, request by question type)` for one part of the captions; none for a failed
        caption.
        """
        rows = [
            r
            for r in tables.read_rows(part, CAPTIONS.names)
            if self.chosen is None or r["sample_id"] in self.chosen
        ]
        samples = self._samples(part, {row["sample_id"] for row in rows if row["status"] == "ok"})
        images = tables.lookup(
            self.images, "image_url", {sample["image_url"] for sample in samples.values()}
        )
        ids = {image["image_id"] for image in images.values() if image["status"] == "ok"}
        priors = tables.lookup(self.priors, "image_id", ids) if self.priors else {}
        for row in rows:
            if row["status"] != "ok":
                yield row, {}
                continue
            sample = samples[row["sample_id"]]
            image = images.get(sample["image_url"], {})
            evidence = {
                "kind": row["kind"],
                "sample": sample,
                "caption": row["caption"],
                "priors": priors.get(image.get("image_id", "")),
                "image_path": str(self.images.parent / image["path"]) if image.get("path") else "",
            }
            yield row, {task: self._request(row, task, evidence) for task in PARSERS}

    def blocks(self, request: Request, text: str) -> tuple[list[Block], str]:
        """The rounds in an answer, checked, and the text outside them."""
        task, page = request.evidence["task"], request.evidence["sample"]["context"] or ""
        parsed = PARSERS[task](text)
        return [_checked(block, self, task, page=page) for block in parsed.blocks], parsed.outside

    def fault(self, request: Request, text: str) -> tuple[str, str]:
        """Why an answer is of no use: the first fault of its rounds if all have one; else two empty
        strings.
        """
        blocks, _ = self.blocks(request, text)
        if any(not block.reason for block in blocks):
            return "", ""
        return (blocks[0].reason, blocks[0].text) if blocks else ("no_rounds", text)

    def _samples(self, part: Path, ids: Collection[str]) -> dict[str, Row]:
        """02's rows of these ids; as a rule all stand in the part of the same name."""
        twin = self.samples / part.name
        found = tables.lookup(twin, "sample_id", ids) if twin.is_file() else {}
        if len(found) < len(ids):
            found = tables.lookup(self.samples, "sample_id", ids)
        if lacking := sorted(set(ids) - set(found)):
            raise InputError(
                f"{part}: sample {lacking[0]} is not in {self.samples}; take both tables from"
                " one run"
            )
        return found

    def _request(self, row: Row, task: str, evidence: Row) -> Request:
        template = self.templates[task]
        caption, _ = prompts.neutralise(row["caption"])
        return Request(
            id=row["sample_id"],
            prompt=template.render(caption=caption),
            prompt_sha=template.sha,
            shared=template.shared,
            temperature=self.params.temperature,
            max_tokens=self.params.max_answer_tokens,
            seed=self.params.seed,
            schema=SCHEMAS[task] if self.params.answer_format == "json" else None,
            evidence={"task": task, **evidence},
        )


def _template(run: Run, question_type: str) -> prompts.Template:
    own = run.input(f"{question_type}_prompt")
    template = prompts.load(str(own) if own else question_type, needs=("caption",))
    if run.params.answer_format == "text":
        return template
    ending = prompts.load(f"{question_type}_json").text
    return prompts.Template(template.name, f"{template.text}\n\n{ending}")


def generate_questions(run: Run) -> None:
    """Ask for the questions that the journal lacks, then write the table `questions`, bad rounds
    included.
    """
    plan, engine = Plan.of(run), open_engine(run)
    ask_all(run, engine, plan.requests, plan.fault)
    write = partial(_write_part, plan=plan, engine=engine, journal=run.journal(engine.journal))
    run.map_shards(
        write, tables.parts(plan.captions), resume=False
    )  # the journal may hold more by now
    rounds = run.counts().get("round", {"kept": 0, "dropped": {}})
    if not rounds["kept"]:
        reasons = (
            ", ".join(f"{reason} {n}" for reason, n in rounds["dropped"].items())
            or "no answer came"
        )
        raise InputError(
            f"{engine.model}: no usable question in any answer ({reasons}); mend the prompt or the"
            " model"
        )


def _write_part(
    part: Path, output: Output, *, plan: Plan, engine: Engine, journal: Journal
) -> None:
    for caption, requests in plan.of_part(part):
        output.take("caption")
        name = f"{caption['sample_id']}/{caption['kind']}"
        if requests:
            output.keep("caption")
        else:
            output.drop("caption", name, "caption_failed", caption["reason"])
        for question_type, request in requests.items():
            output.take("request")
            answer = answer_of(journal, engine, request)
            output.write(
                "requests",
                {
                    "sample_id": caption["sample_id"],
                    "kind": caption["kind"],
                    "question_type": question_type,
                    "status": answer.status,
                    "reason": answer.reason,
                    "model": answer.model,
                    "request_sha": answer.request_sha,
                    "tokens_in": answer.tokens_in,
                    "tokens_out": answer.tokens_out,
                },
            )
            if answer.status != "ok":
                output.drop("request", f"{name}/{question_type}", answer.reason, answer.detail)
                continue
            output.keep("request")
            origin = {
                "sample_id": caption["sample_id"],
                "kind": caption["kind"],
                "question_type": question_type,
                "model": answer.model,
                "prompt_sha": request.prompt_sha,
                "request_sha": answer.request_sha,
            }
            blocks, outside = plan.blocks(request, answer.text)
            output.note("answers_with_text_outside_rounds", bool(outside.strip()))
            for number, block in enumerate(blocks, 1):
                _write_round(output, origin, number, block, plan.params)


def _checked(block: Block, plan: Plan, question_type: str, *, page: str) -> Block:
    """The block with the first check that its question or its free-form answer fails, if it was
    good so far.
    """
    texts = (block.round.question, block.round.answer)[: 1 if block.round.options else 2]
    for text in texts if not block.reason else ():
        name, found = plan.checks.fault(text, prompt=plan.templates[question_type].text, page=page)
        if name:
            return replace(block, reason=name, text=f"{found} … in: {text}")
    return block


def _write_round(output: Output, origin: Row, number: int, block: Block, params: Any) -> None:
    """One row of `questions`, the options of a good one shuffled; a bad round stands in `dropped`
    too.
    """
    found = [
        prompts.neutralise(text)
        for text in (block.round.question, block.round.answer, *block.round.options)
    ]
    (question, answer, *options), changed = (
        [text for text, _ in found],
        sum(count for _, count in found),
    )
    ids = origin["sample_id"], origin["kind"], origin["question_type"]
    question_id = short_hash(*ids, str(number), question)
    if options and not block.reason:
        output.note(f"letter_{answer}_as_written")
        if params.shuffle_options:
            order = shuffle(question, options, answer, seed=params.seed, name=question_id)
            options, answer = order or (options, answer)
            output.note("options_left_in_order", not order)
    output.note("placeholders_neutralised", changed)
    output.take("round")
    output.write(
        "questions",
        {
            "question_id": question_id,
            **origin,
            "round": number,
            "question": question,
            "options": options,
            "answer": answer,
            "status": "dropped" if block.reason else "ok",
            "reason": block.reason,
        },
    )
    if block.reason:
        output.drop("round", question_id, block.reason, block.text[:_DETAIL])
    else:
        output.keep("round")


def examples(run: Run, count: int) -> list[Row]:
    """A seeded handful of captions to look at, each with its sample, `picture`, and rounds by
    question type as text.
    """
    asked = dict.fromkeys(
        row["sample_id"] for row in tables.read_rows(run.data / "questions", ["sample_id"])
    )
    samples = tables.lookup(run.table("samples"), "sample_id", choose(asked, count, run.seed))
    urls = {row["image_url"] for row in samples.values()}
    images = tables.lookup(run.table("images"), "image_url", urls, ["path"])
    shown: dict[tuple[str, str], Row] = {}
    for row in tables.read_rows(run.table("captions"), ["sample_id", "kind", "caption"]):
        if sample := samples.get(row["sample_id"]):
            path = images.get(sample["image_url"], {}).get("path")
            picture = run.table("images").parent / path if path else ""
            shown[row["sample_id"], row["kind"]] = {
                **sample,
                **row,
                "picture": picture,
                **dict.fromkeys(PARSERS, ""),
            }
    for row in tables.read_rows(run.data / "questions"):
        if card := shown.get((row["sample_id"], row["kind"])):
            card[row["question_type"]] += f"\n\n{as_text(row)}"
    return list(shown.values())
