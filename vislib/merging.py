"""Conversations of unique questions in every data configuration (VisCon-100K, section 3.4).

A caption answers a detailed-description instruction drawn from a list; contextual captions also
answer one sentence that asks for as much contextual information as possible. All rounds of one
sample are then shuffled: the leaky modality mix. The other configurations of Table 1 keep some of
its rounds, in the same order. All of them hold the same samples, so that a comparison of two
compares rounds and nothing else. Train and test share no page, and no test image is in train.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from vislib import removals, splits
from vislib.deduplication import unique
from vislib.media.embeddings import Embeddings
from vislib.prompts import load, neutralise
from vislib.qa_options import lettered
from vislib.runs import Drop, InputError, Note, Run, To, sql, tables
from vislib.runs.errors import check_kept
from vislib.runs.seeding import seeded
from vislib.runs.tables import Row
from vislib.runs.verbs import Said

CAPTION, FREE_FORM, MULTIPLE_CHOICE = "caption", "free_form", "multiple_choice"
QUESTION_TYPES = (FREE_FORM, MULTIPLE_CHOICE)
CONTEXTUAL_KINDS = ("contextual", "fused_contextual")
CONFIGURATIONS: dict[str, dict[str, tuple[str, ...]]] = {  # id suffix: sources of the rounds
    "captions": {"": (CAPTION,)},
    "free_form": {"": (FREE_FORM,)},
    "multiple_choice": {"": (MULTIPLE_CHOICE,)},
    "questions": {"": QUESTION_TYPES},
    "separate": {"-c": (CAPTION,), "-q": QUESTION_TYPES},
    "leaky_mix": {"": (CAPTION, *QUESTION_TYPES)},
}
_ASK_LETTER = "Give the letter of the right option and nothing else."


class Round(NamedTuple):
    """One human turn and its answer; `id` is the question's, or `caption`."""

    id: str
    source: str
    prompt: str
    answer: str


@cache
def instructions() -> tuple[str, ...]:
    """The instructions that captions answer, one of which is drawn for each sample."""
    return tuple(load("caption_instructions").text.splitlines())


def caption_prompt(sample_id: str, kind: str, *, seed: int) -> str:
    """The instruction that a caption answers: the same for all kinds of a sample, so that kinds
    differ in nothing but what a contextual one is asked for besides.
    """
    drawn = instructions()[seeded(seed, sample_id, "instruction") % len(instructions())]
    return f"{drawn} {load('caption_context_request').text}" if kind in CONTEXTUAL_KINDS else drawn


def question_prompt(question: Mapping[str, Any]) -> str:
    """The human turn of a row of 07: the question, and for multiple choice its options and a
    request.
    """
    if question["question_type"] == FREE_FORM:
        return str(question["question"])
    return "\n".join([question["question"], *lettered(question["options"]), _ASK_LETTER])


def shuffled(
    sample_id: str,
    kind: str,
    caption: str,
    questions: Iterable[Mapping[str, Any]],
    *,
    seed: int,
) -> list[Round]:
    """The rounds of a sample's caption and questions of one kind, in an order drawn by hash."""
    rounds = [Round(CAPTION, CAPTION, caption_prompt(sample_id, kind, seed=seed), caption)]
    for row in questions:
        said = question_prompt(row), row["answer"]
        rounds.append(Round(row["question_id"], row["question_type"], *said))
    # By hash, not by a generator: leaving a round out leaves the order of the others as it was.
    return sorted(rounds, key=lambda round: (seeded(seed, sample_id, kind, round.id), round.id))


def conversation(rounds: Sequence[Round]) -> tuple[list[dict[str, str]], int]:
    """Turns in LLaVA's form, and how many stray `<image>` and other identifiers in them were
    neutralised.
    """
    turns, strays = list[dict[str, str]](), 0
    for entry in rounds:
        for speaker, text in (("human", entry.prompt), ("gpt", entry.answer)):
            said, found = neutralise(text)
            strays += found
            # The mark of the image opens the first human turn, and stands nowhere else.
            turns.append({"from": speaker, "value": said if turns else f"<image>\n{said}"})
    return turns, strays


def configurations(rounds: Sequence[Round]) -> Iterator[tuple[str, str, list[Round]]]:
    """Configuration, id suffix and rounds of every row that one sample's shuffled rounds give."""
    # Each name has its rows by id suffix; all keep the order of the rounds.
    for name, rows in CONFIGURATIONS.items():
        for suffix, sources in rows.items():
            yield name, suffix, [entry for entry in rounds if entry.source in sources]


SPLITS = ("train", "test")
# Every question of the joined samples; it stands in conversations unless it is dropped.
QUESTIONS = "SELECT question.question_id FROM (SELECT unnest(questions) AS question FROM joined)"


def join(
    kinds: Sequence[str],
    *,
    seed: int,
    test_fraction: float,
    split_by: str = "page",
    limit: int = 0,
    asked: bool = True,
) -> str:
    """SQL: one row per sample with its image, captions, questions and split, in order of samples,
    and the `fault` (reason, detail) for which it cannot stand in every configuration of every kind.

    Pages are split by hash of their address, or of what `split_by` names in `splits.KEYS` (`group`
    needs the table `groups`); a test image that is in train too is a fault. With a
    `limit`, so many of the samples without a fault, by hash. `asked`: whether there are questions
    at all. What the table `removals` names is at fault, a question of it alone.
    """
    chosen = f"ORDER BY {sql.drawn('sample_id', seed)} LIMIT {limit}" if limit else ""
    states, faults = _faults(kinds, asked)
    return f"""
    WITH caption AS (
        SELECT sample_id, list(row ORDER BY row) AS rows,
            {states}
        FROM captions GROUP BY sample_id
    ), question AS ({_questions(asked)}
    ), removed AS ({removals.OF_SAMPLES}
    ), whole AS (
        SELECT samples.row AS sample, images.row AS image, caption.rows AS captions,
            question.rows AS questions, question.removed, sample_id, image_id,
            {sql.split(seed, test_fraction, by=splits.KEYS[split_by])} AS split,
            CASE WHEN removed.detail IS NOT NULL THEN ['{removals.REASON}', removed.detail]
            WHEN images.status IS NULL THEN ['image_failed', 'not in the ledger']
            WHEN images.status <> 'ok' THEN ['image_failed', images.reason]
            {faults} END AS fault
        FROM samples LEFT JOIN images USING (image_url) LEFT JOIN caption USING (sample_id)
            LEFT JOIN question USING (sample_id) LEFT JOIN removed USING (sample_id)
    ), chosen AS (SELECT * FROM whole {"WHERE fault IS NULL" if limit else ""} {chosen})
    SELECT sample, image, captions, questions, removed, split,
        -- last: of a sample that could stand nowhere, the image is no reason
        if(fault IS NULL AND split = 'test' AND image_id IN (
            SELECT image_id FROM whole WHERE fault IS NULL AND split = 'train'
        ), ['image_in_train', ''], fault) AS fault
    FROM chosen ORDER BY sample
    """


def _questions(asked: bool) -> str:
    """SQL: a row per sample with its questions, types of the good ones, and the removed ones."""
    nothing = "(SELECT *, '' AS question_type, '' AS question_id FROM captions LIMIT 0)"
    return f"""
        SELECT sample_id, list(row ORDER BY row) AS rows,
            list(kind || '/' || question_type)
                FILTER (WHERE status = 'ok' AND detail IS NULL) AS types,
            list({{'id': question_id, 'detail': detail}}) FILTER (WHERE detail <> '') AS removed
        FROM {"questions" if asked else nothing} LEFT JOIN ({removals.OF_QUESTIONS})
            USING (question_id) GROUP BY sample_id
    """


def _faults(kinds: Sequence[str], asked: bool) -> tuple[str, str]:
    """SQL of `ok`, or the reason, of a sample's caption of each kind; and cases of what it lacks.

    Of every kind, not the one that is written: all configurations hold the same samples, so that a
    comparison of two arms compares rounds and nothing else.
    """
    states, faults = list[str](), list[str]()
    for kind in kinds:
        state = "max(if(status = 'ok', 'ok', coalesce(reason, '')))"
        states.append(f"{state} FILTER (WHERE kind = '{kind}') AS \"{kind}\"")
        found = f"coalesce(\"{kind}\", 'none')"
        faults.append(f"WHEN {found} <> 'ok' THEN ['caption_failed', '{kind}: ' || {found}]")
        for name in QUESTION_TYPES if asked else ():
            there = f"coalesce(list_contains(types, '{kind}/{name}'), false)"
            faults.append(f"WHEN NOT {there} THEN ['no_{name}', '{kind}']")
    return ",\n            ".join(states), "\n            ".join(faults)


def kinds_of(run: Run) -> list[str]:
    """The kinds of caption, in order of first appearance.

    Raises InputError if there is none, or if there are questions of samples that are not there.
    """
    captions, questions = run.table("captions"), run.input("questions")
    first = "SELECT kind FROM captions GROUP BY kind ORDER BY min(row)"
    kinds = [kind for (kind,) in sql.select(first, {"captions": captions}, run.scratch)]
    if not kinds:
        raise InputError(
            f"{captions} holds no caption; run 06_captioning on samples that it can caption"
        )
    if questions:
        # A join by samples would pass over them in silence.
        strays = "SELECT count(*) FROM questions ANTI JOIN samples USING (sample_id)"
        given = {"questions": questions, "samples": run.table("samples")}
        ((n,),) = sql.select(strays, given, run.scratch)
        if n:
            raise InputError(
                f"{questions} holds {n} questions of samples that {given['samples']} lacks; take"
                " both from one run"
            )
    return kinds


def questions_of(sample: Row, kind: str) -> list[Row]:
    """The sample's questions of a kind that were read without fault, and are not removed."""
    rows: list[Row] = sample["questions"] or []
    gone = _removed(sample)
    return [
        row
        for row in rows
        if row["kind"] == kind and row["status"] == "ok" and row["question_id"] not in gone
    ]


def _removed(sample: Row) -> dict[str, str]:
    """Why which of the sample's questions are removed."""
    return {question["id"]: question["detail"] for question in sample["removed"] or []}


def as_card(sample: Row, kinds: Sequence[str]) -> Row:
    """A usable sample in one row to look at: `<kind> caption` and `<kind> questions`."""
    card = {**sample["sample"], **sample["image"]}
    for row in sample["captions"]:
        card[f"{row['kind']} caption"] = row["caption"]
    for kind in kinds:
        asked = questions_of(sample, kind)
        card[f"{kind} questions"] = [f"· {row['question']}" for row in asked]
    return card


def conversations(
    samples: Iterable[Row],
    *,
    kinds: Sequence[str],
    vectors: Embeddings | None,
    threshold: float,
    minimum: int,
    seed: int,
) -> Iterator[Said]:
    """Rows `<kind>/<configuration>/<split>` of joined samples; what stands in none is dropped.

    Without `vectors` nobody asked questions, and there are captions alone.
    """
    for sample in samples:
        yield from _lost_questions(sample, kinds)
        if sample["fault"]:
            yield Drop(*sample["fault"])
            continue
        sample_id = sample["sample"]["sample_id"]
        captions = {row["kind"]: row["caption"] for row in sample["captions"]}
        for kind in kinds:
            asked = questions_of(sample, kind)
            # Within a sample and kind alone: two images may well raise the same question.
            if vectors is not None:
                near = vectors.of([row["question"] for row in asked])
                found = unique(asked, near, threshold=threshold, minimum=minimum)
                yield Note("similar_pairs_kept_at_minimum", found.stuck)
                for row, twin, similarity in found.dropped:
                    detail = f"{similarity:.4f} to {twin['question_id']}"
                    yield Drop("similar_question", detail, row["question_id"], "question")
                asked = found.kept
            rounds = shuffled(sample_id, kind, captions[kind], asked, seed=seed)
            # Once a sample and kind: every configuration repeats some of these rounds.
            yield Note("identifiers_neutralised", conversation(rounds)[1])
            for name, suffix, chosen in configurations(rounds):
                if vectors is not None or name == "captions":
                    row = {
                        "id": sample_id + suffix,
                        "images": [sample["image"]["image_id"]],
                        "conversations": conversation(chosen)[0],
                        "sample_id": sample_id,
                        "doc_id": sample["sample"]["doc_id"],
                        "sources": [entry.source for entry in chosen],
                    }
                    yield To("conversations", row, path=f"{kind}/{name}", stem=sample["split"])


def _lost_questions(sample: Row, kinds: Sequence[str]) -> Iterator[Drop]:
    # Dropped one by one, so that the account of questions closes beside that of samples.
    fault, gone = sample["fault"], _removed(sample)
    for row in sample["questions"] or []:
        if why := gone.get(row["question_id"]):
            yield Drop(removals.REASON, why, row["question_id"], "question")
        elif row["status"] != "ok":
            yield Drop("malformed", row["reason"], row["question_id"], "question")
        elif fault or row["kind"] not in kinds:
            detail = fault[0] if fault else f"no captions of kind {row['kind']}"
            yield Drop("sample_not_eligible", detail, row["question_id"], "question")


def check_merged(run: Run, kinds: Sequence[str], *, asked: bool) -> None:
    """Count the rows of every `kind/configuration/split`. Raises InputError if no sample is
    left.
    """
    mend = "none can stand in every configuration: see details in dropped, mend and run again"
    check_kept(run.counts(), "sample", mend)
    # A split without a row has no file, and counts as 0 here: tables of sizes have no holes.
    run.metrics["rows"] = {
        f"{kind}/{name}/{split}": sum(
            map(tables.count_rows, (run.data / kind / name).glob(f"{split}-*.parquet"))
        )
        for kind, name, split in product(kinds, CONFIGURATIONS if asked else ["captions"], SPLITS)
    }
