"""Stage 12: every model answers, then scores and comparisons are drawn from all answers
(VisCon-100K, section 5.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from vislib.evaluation.benchmarks import CONTEXTUAL
from vislib.evaluation.contextual import FREE_FORM, MULTIPLE_CHOICE, PageQuestion, load_questions
from vislib.evaluation.lmms import Harness
from vislib.evaluation.parsing import Reader, lenient_letter, result_row
from vislib.evaluation.statistics import Statistics
from vislib.runs import InputError, Run, choose, tables
from vislib.runs.contract import BENCHMARK_SCORES, COMPARISONS
from vislib.runs.tables import Row
from vislib.training import generation
from vislib.training.generation import Question, Reply
from vislib.training.models import read_facts, resolve_model

WITHOUT_HITS = "_without_hits"  # after the name of a benchmark


@dataclass(frozen=True)
class Arm:
    """A model to evaluate: where it lies, and its columns `model`, `arm` and `seed` of the
    contract's tables.
    """

    place: str
    cell: Row

    @property
    def name(self) -> str:
        """For messages and logs."""
        return "{model}/{arm}/{seed}".format_map(self.cell)


def open_arms(run: Run) -> list[Arm]:
    """The models of a run's parameters; one that was not trained here is the arm `untrained` of its
    own name.

    Raises InputError if there is none, two are called the same, or `reference` is no arm.
    """
    arms: dict[str, Arm] = {}
    for value in run.params.models:
        place = resolve_model(value, run)
        # What was not trained here has no record beside it.
        facts = {"model": value, "arm": "untrained", "seed": 0} | read_facts(place)
        arm = Arm(place, {name: facts[name] for name in ("model", "arm", "seed")})
        # Two of one name would share their rows in every table.
        if arm.name in arms:
            raise InputError(
                f"models holds {arm.name} twice ({value}); leave one out, or train with another"
                " seed"
            )
        arms[arm.name] = arm
    if not arms:
        raise InputError("models is empty; name one or more, such as 10_finetuning.leaky_mix/model")
    reference, names = run.params.reference, {arm.cell["arm"] for arm in arms.values()}
    if reference and reference not in names:
        raise InputError(
            f"reference is {reference!r}; the arms of models: {', '.join(sorted(names))}, or empty"
        )
    return list(arms.values())


def answer(run: Run, *, read: Reader = lenient_letter) -> None:
    """Ask every model what the journals lack, and write `results`.

    `read` says which letter a reply to a multiple-choice question means. Raises InputError where a
    model, its questions or lmms-eval cannot be had.
    """
    arms = open_arms(run)
    questions, refused = load_questions(run)
    with run.output() as output:
        output.take("question", len(questions) + len(refused))
        output.keep("question", len(questions))
        for found in refused:
            output.drop("question", *found)
        # Both ways give the same columns, so that all that follows is one.
        for row in _asked(run, arms, questions, read):
            output.take("answer")
            if "reason" in row:
                # The model stands in the name: the same question may fail for one alone.
                name = "{model}/{arm}/{seed}/{sample_id}".format_map(row)
                output.drop("answer", name, row["reason"], row["detail"])
            else:
                output.keep("answer")
                output.write("results", row)


def _asked(run: Run, arms: list[Arm], questions: list[PageQuestion], read: Reader) -> Iterator[Row]:
    """Results of all arms on our own benchmark, and on the tasks that lmms-eval runs; what has no
    verdict has a reason.
    """
    params = run.params
    by_lmms = params.evaluator == "lmms_eval"
    tasks = dict.fromkeys(params.tasks) if by_lmms else [CONTEXTUAL]
    public = [task for task in tasks if task != CONTEXTUAL]
    # First, before our own questions take hours: it may not be there.
    harness = Harness(run, public) if by_lmms else None
    if CONTEXTUAL in tasks:
        for arm, question, reply in replies(run, arms, questions):
            if reply.text is None:
                # A failure is asked again by the next run; until then it has a reason.
                row = {"sample_id": question.id, "reason": reply.reason, "detail": reply.detail}
            else:
                row = local_row(question, reply.text, read=read)
            # Other questions of the local benchmark's form have a name of their own.
            yield arm.cell | {"benchmark": params.benchmark} | row
    if harness:
        with run.progress(len(arms) * len(public), "tasks of models") as progress:
            for arm, task in product(arms, public):
                for row in harness.rows(arm.place, task, read):
                    yield arm.cell | row
                progress.update(task=task)


def replies(
    run: Run, arms: list[Arm], questions: list[PageQuestion]
) -> Iterator[tuple[Arm, PageQuestion, Reply]]:
    """What each model says to each question, generated here and journalled."""
    params = run.params
    # A letter is short; an answer in words may need a sentence.
    most = {
        MULTIPLE_CHOICE: params.max_answer_tokens_choice,
        FREE_FORM: params.max_answer_tokens_free,
    }
    found = generation.answers_of_models(
        run,
        # Answers go by weights and not by places, so a model that moved is not asked again.
        [arm.place for arm in arms],
        [Question(one.text, str(one.image), most[one.type]) for one in questions],
        batch_size=params.batch_size,
        device=params.device,
        precision=params.precision,
        progress="answers",
    )
    for arm, of_arm in zip(arms, found, strict=True):
        for question, reply in zip(questions, of_arm, strict=True):
            yield arm, question, reply


def local_row(question: PageQuestion, reply: str, *, read: Reader) -> Row:
    """A question of the local benchmark with a reply: right as it is leniently read."""
    row = result_row(
        question.id,
        reply,
        question.answer,
        "letter" if question.type == MULTIPLE_CHOICE else "text",
        options=question.options,
        read=read,
    )
    row |= {"question_type": question.type, "cluster": question.page}
    if row["parsed"] is not None:  # no harness judges here: the lenient reading is the verdict
        row["correct"] = bool(row["lenient"])
    return row


def compare(run: Run) -> None:
    """Write `scores` and `comparisons` of the `results` that were written; with `hits` of 16 also
    scores without the items that these name.
    """
    # Read back, so that a changed cell here compares without asking anybody.
    results = pd.read_parquet(run.data / "results")
    statistics = Statistics(results=results, confidence=run.params.confidence)
    scores = statistics.scores()
    if run.input("hits"):
        clean = replace(statistics, results=results[~_is_hit(run, results)]).scores()
        scores += [row | {"benchmark": row["benchmark"] + WITHOUT_HITS} for row in clean]
    comparisons = statistics.comparisons(run.params.reference)
    tables.write_table(run.data / "scores", BENCHMARK_SCORES, scores)
    tables.write_table(run.data / "comparisons", COMPARISONS, comparisons)


def _is_hit(run: Run, results: pd.DataFrame) -> "pd.Series[bool]":
    """Which answers are to an item that `hits` name, by its number or by its picture's pixels."""
    hits = pd.read_parquet(run.table("hits"))
    items = pd.MultiIndex.from_frame(results[["benchmark", "sample_id"]])
    named = pd.MultiIndex.from_frame(hits[["benchmark", "item"]])
    shown = hits["picture"].ne("") & hits["picture"].isin(results["cluster"])
    # Such as benchmarks that were not asked, or files in another order than the harness's.
    run.metrics["hits_not_tied"] = int((~named.isin(items) & ~shown).sum())
    return results["cluster"].isin(hits["picture"][shown]) | items.isin(named)


def wrong_answers(run: Run, count: int) -> list[Row]:
    """A seeded handful of wrong answers to local questions, with `picture` and `question`, to look
    at.
    """
    # Of public benchmarks neither question nor picture is here to be shown.
    shown = {
        question.id: {"picture": question.image, "question": question.text}
        for question in load_questions(run)[0]
    }
    rows = tables.read_rows(run.data / "results")
    wrong = [row for row in rows if row["correct"] is False and row["sample_id"] in shown]
    chosen = choose(wrong, count, run.seed, key="{sample_id}/{model}/{arm}".format_map)
    return [row | shown[row["sample_id"]] for row in chosen]
