"""Stage 07: free-form and multiple-choice rounds about every caption, asked and parsed
(VisCon-100K, section 3.3).

A language model reads a caption, never the image, and writes 3 to 5 rounds of each type. Its text
is cut into rounds by the identifiers, or read as JSON; a round that is malformed or fails a check
is set aside with its reason.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vislib import checks, prompts, qa_format
from vislib.checks import Checks
from vislib.engines import Request
from vislib.qa_format import Block, as_text, parse_free_form, parse_multiple_choice
from vislib.qa_json import SCHEMAS
from vislib.qa_options import shuffle
from vislib.runs import Drop, InputError, Note, Run, To, choose, short_hash, sql, tables
from vislib.runs.contract import QUESTIONS, REQUESTS
from vislib.runs.errors import check_kept
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

PARSERS = {"free_form": parse_free_form, "multiple_choice": parse_multiple_choice}
REASONS = qa_format.REASONS | checks.RULES
ID = ("caption.sample_id", "caption.kind", "question_type")  # of a request
_DETAIL = 300  # characters of a bad round that `dropped` quotes


def asked_about(*, limit: int, seed: int) -> str:
    """SQL: the captions to ask about, those that failed among them; with a `limit`, of so many
    samples, drawn by hash of those that have a good one.
    """
    if not limit:
        return "SELECT * FROM captions"
    # Of samples, not of captions: the kinds of a sample are compared, so they stay together.
    return f"""
    SELECT * FROM captions WHERE sample_id IN (
        SELECT sample_id FROM captions WHERE status = 'ok'
        GROUP BY sample_id ORDER BY {sql.drawn("sample_id", seed)} LIMIT {limit}
    )"""


def failed(*, limit: int, seed: int) -> str:
    """SQL: the rows of `dropped` for captions that failed, about which nothing is asked."""
    return f"""
    SELECT sample_id || '/' || kind AS id, 'caption_failed' AS reason,
        coalesce(reason, '') AS detail
    FROM ({asked_about(limit=limit, seed=seed)}) WHERE status <> 'ok' ORDER BY row
    """


def join(*, with_priors: bool, limit: int, seed: int) -> str:
    """SQL: a row per good caption and question type, with the caption's sample, image, priors."""
    looked_at = "LEFT JOIN priors USING (image_id)" if with_priors else ""
    return f"""
    SELECT asked.row AS caption, samples.row AS sample, images.row AS image,
        {"priors.row" if with_priors else "NULL"} AS priors, question_type
    FROM ({asked_about(limit=limit, seed=seed)}) asked
        LEFT JOIN samples USING (sample_id)
        LEFT JOIN images ON images.image_url = samples.image_url AND path IS NOT NULL {looked_at},
        (SELECT unnest({list(PARSERS)}) AS question_type, unnest([0, 1]) AS place)
    WHERE asked.status = 'ok' ORDER BY asked.row, place
    """


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How questions are asked for: templates by question type, and the checks of rounds."""

    params: Any
    templates: dict[str, prompts.Template]
    root: Path  # below which image files lie
    checks: Checks

    @classmethod
    def of(cls, run: Run) -> "Plan":
        """The plan that a run's parameters describe. Raises InputError if they cannot work."""
        return cls(
            params=run.params,
            templates={kind: _template(run, kind) for kind in PARSERS},
            root=run.table("images").parent,
            checks=Checks(run.params.checks, run.params.language),
        )

    def request(self, row: Row) -> Request:
        """What is asked about a joined row."""
        caption, sample, image = row["caption"], row["sample"], row["image"]
        # Without its page a round cannot be checked, so a caption of another run is no caption.
        if sample is None:
            raise InputError(
                f"{self.params.captions}: sample {caption['sample_id']} is not in"
                f" {self.params.samples}; take both tables from one run"
            )
        task = row["question_type"]
        template = self.templates[task]
        # A caption that holds an identifier of the format would end the prompt or begin a round.
        written, _ = prompts.neutralise(caption["caption"])
        return Request(
            id=caption["sample_id"],
            prompt=template.render(caption=written),
            prompt_sha=template.sha,
            shared=template.shared,
            temperature=self.params.temperature,
            max_tokens=self.params.max_answer_tokens,
            seed=self.params.seed,
            schema=SCHEMAS[task] if self.params.answer_format == "json" else None,
            evidence={
                "task": task,
                "kind": caption["kind"],
                "sample": sample,
                "caption": caption["caption"],
                "priors": row["priors"],
                "image_path": str(self.root / image["path"]) if image else "",
            },
        )

    def blocks(self, task: str, text: str, page: str) -> list[Block]:
        """The rounds in an answer, checked; there is one at least."""
        return [self._checked(block, task, page) for block in PARSERS[task](text).blocks]

    def fault(self, request: Request, text: str) -> tuple[str, str]:
        """Why an answer is of no use: the first fault of its rounds if all have one; else two empty
        strings.
        """
        page = request.evidence["sample"]["context"] or ""
        blocks = self.blocks(request.evidence["task"], text, page)
        # One good round is worth its answer; what stops a stage is answers that give none.
        good = any(not block.reason for block in blocks)
        return ("", "") if good else (blocks[0].reason, blocks[0].text)

    def rounds(self, rows: Iterable[Row]) -> Iterator[Said]:
        """Answers become rows of `requests` and, round by round, of `questions`."""
        for row in rows:
            answer, caption, task = row["answer"], row["caption"], row["question_type"]
            known = answer | {"sample_id": caption["sample_id"], "kind": caption["kind"]}
            known["question_type"] = task
            # A failed answer has its row too: who was asked what, and what it cost, is told of all.
            yield To("requests", {name: known[name] for name in REQUESTS.names})
            if answer["status"] != "ok":
                yield Drop(answer["reason"], answer["detail"])
                continue
            page = row["sample"]["context"] or ""
            for number, block in enumerate(self.blocks(task, answer["text"], page), 1):
                yield from _round(known, number, block, self.params)

    def _checked(self, block: Block, question_type: str, page: str) -> Block:
        """The block with the first check that its question or its free-form answer fails, if it was
        good so far.
        """
        texts = [block.round.question]
        if not block.round.options:  # else it is a letter: nothing to check
            texts.append(block.round.answer)
        prompt = self.templates[question_type].text
        for text in texts:
            if block.reason:
                break
            reason, found = self.checks.fault(text, prompt=prompt, page=page)
            if reason:
                block = replace(block, reason=reason, text=f"{found} … in: {text}")
        return block


def _template(run: Run, question_type: str) -> prompts.Template:
    own = run.input(f"{question_type}_prompt")
    template = prompts.load(str(own) if own else question_type, needs=("caption",))
    if run.params.answer_format == "text":
        return template
    ending = prompts.load(f"{question_type}_json").text
    return prompts.Template(template.name, f"{template.text}\n\n{ending}")


def _round(origin: Row, number: int, block: Block, params: Any) -> Iterator[Said]:
    """One row of `questions`, the options of a good one shuffled; a bad round is dropped too."""
    texts = (block.round.question, block.round.answer, *block.round.options)
    found = [prompts.neutralise(text) for text in texts]
    question, answer, *options = [text for text, _ in found]
    yield Note("placeholders_neutralised", sum(n for _, n in found))
    ids = origin["sample_id"], origin["kind"], origin["question_type"]
    # With its number: a model may ask the same question twice in one answer.
    question_id = short_hash(*ids, str(number), question)
    if options and not block.reason:
        # Before shuffling: a model that prefers a letter would teach it (see `qa_options`).
        yield Note(f"letter_{answer}_as_written")
        if params.shuffle_options:
            order = shuffle(question, options, answer, seed=params.seed, name=question_id)
            options, answer = order or (options, answer)
            yield Note("options_left_in_order", not order)
    known = origin | {
        "question_id": question_id,
        "round": number,
        "question": question,
        "options": options,
        "answer": answer,
        "status": "dropped" if block.reason else "ok",
        "reason": block.reason,
    }
    yield To("questions", {name: known[name] for name in QUESTIONS.names})
    if block.reason:
        yield Drop(block.reason, block.text[:_DETAIL], id=question_id, unit="round")


def check_captions(run: Run) -> None:
    """Raise InputError if there is no good caption to ask about."""
    check_kept(run.counts(), "caption", f"mend {run.params.captions} and run 06 again")


def check_rounds(run: Run) -> None:
    """Raise InputError if no round of any answer can be used."""
    who = run.params.model or run.params.engine
    check_kept(run.counts(), "round", f"mend the prompt, or take another model than {who}")


def examples(run: Run, answers: Path, count: int) -> list[Row]:
    """A seeded handful of the first part to look at: captions, each with its sample, `picture`, and
    rounds by question type as text.
    """
    root = run.table("images").parent
    cards: dict[tuple[str, str], Row] = {}
    for row in tables.read_rows(tables.parts(answers)[0]):
        caption, image = row["caption"], row["image"]
        card = row["sample"] | dict.fromkeys(PARSERS, "")
        card |= {"kind": caption["kind"], "caption": caption["caption"]}
        card["picture"] = root / image["path"] if image else ""
        cards[caption["sample_id"], caption["kind"]] = card
    # A part of the questions comes from the same part of the answers.
    for row in tables.read_rows(tables.parts(run.data / "questions")[0]):
        card = cards[row["sample_id"], row["kind"]]
        card[row["question_type"]] += f"\n\n{as_text(row)}"
    chosen = choose({id for id, _ in cards}, count, run.seed)
    return [card for (id, _), card in cards.items() if id in chosen]
