"""The stage function of 12: every model answers, then scores and comparisons are drawn from all
answers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislib.engines.thoughts import without_thoughts
from vislib.evaluation.answers import Arm, answer_row, choice_row, open_arms
from vislib.evaluation.lmms import lmms_rows
from vislib.evaluation.questions import LOCAL, MULTIPLE_CHOICE, Item, load_items, write_task
from vislib.evaluation.statistics import Statistics
from vislib.runs import choose, tables
from vislib.runs.contract import ARM_SIZES
from vislib.runs.tables import Output, Row
from vislib.training import generation
from vislib.training.generation import Question

if TYPE_CHECKING:
    from vislib.runs import Run

_COUNTED = (
    "model",
    "arm",
    "seed",
    "benchmark",
    "sample_id",
    "correct",
    "parsed",
    "strictly_correct",
    "points",
    "lenient",
    "cluster",
    "question_type",
)


def evaluate(run: "Run") -> None:
    """Write `results`, `scores` and `comparisons`, and the local benchmark as a task of lmms-eval
    in `task/`.

    Asks what the journals lack. Raises InputError where a model, its questions or lmms-eval cannot
    be had.
    """
    arms = open_arms(run)
    items, refused = load_items(run)
    refused += write_task(items, run.data / "task", max_tokens=run.params.max_answer_tokens_choice)
    lost = {name for name, _, _ in refused}
    items = [item for item in items if item.id not in lost]
    counted: dict[str, list[Any]] = {name: [] for name in _COUNTED}
    with run.output() as output:
        output.take("question", len(items) + len(refused))
        output.keep("question", len(items))
        for name, reason, detail in refused:
            output.drop("question", name, reason, detail)
        local, pages = run.params.evaluator == "local", {item.id: item.page for item in items}
        for row in local_rows(run, arms, items, output) if local else lmms_rows(run, arms, output):
            if row["benchmark"] == LOCAL:
                row["cluster"] = pages[row["sample_id"]]
            output.write("results", row)
            for name in _COUNTED:
                counted[name].append(row[name])
        statistics = Statistics(
            counted,
            resamples=run.params.resamples,
            confidence=run.params.confidence,
            seed=run.seed,
            left_out=(LOCAL,),
        )
        for row in statistics.scores():
            output.write("scores", row)
        for row in statistics.comparisons(run.params.reference):
            output.write("comparisons", row)


def local_rows(run: "Run", arms: list[Arm], items: list[Item], output: Output) -> Iterator[Row]:
    """Results of all arms on the local benchmark, generated here; questions that failed are dropped
    in `output`.
    """
    limits = {True: run.params.max_answer_tokens_choice, False: run.params.max_answer_tokens_free}
    questions = [
        Question(i.id, i.text, str(i.image), limits[i.type == MULTIPLE_CHOICE]) for i in items
    ]
    options = {
        "batch_size": run.params.batch_size,
        "device": run.params.device,
        "precision": run.params.precision,
    }
    journal = run.journal(generation.JOURNAL)
    keys = generation.answers_of_models(
        run, [arm.place for arm in arms], questions, progress="answers", **options
    )
    for arm, key in zip(arms, keys, strict=True):
        for item, question in zip(items, questions, strict=True):
            output.take("answer")
            if (said := generation.answer_to(journal, key, question)) is None:
                reason, detail = generation.failure_of(journal, key, question)
                output.drop("answer", f"{arm.name}/{item.id}", reason or "no_answer", detail)
                continue
            output.keep("answer")
            said = without_thoughts(said)[0]
            row = (
                choice_row(item.id, said, item.answer, item.options, question_type=item.type)
                if item.type == MULTIPLE_CHOICE
                else answer_row(item.id, said, item.answer, question_type=item.type)
            )
            yield {"model": arm.model, "arm": arm.arm, "seed": arm.seed, "benchmark": LOCAL, **row}


def arm_sizes(run: "Run") -> Any:
    """What each model of the parameters learnt from, as 10 left it beside the model; NaN where it
    is not known.
    """
    import pandas

    arms = open_arms(run)
    table = pandas.DataFrame(
        [{"model": arm.model, "arm": arm.arm, "seed": arm.seed} for arm in arms]
    )
    rows = [row for arm in arms for row in _left_by_10(Path(arm.place).parent / "arms")]
    left = pandas.DataFrame(rows).reindex(columns=["model", "arm", "seed", *ARM_SIZES])
    return table.merge(left, on=["model", "arm", "seed"], how="left")


def _left_by_10(folder: Path) -> Iterator[Row]:
    return tables.read_rows(folder) if folder.is_dir() else iter(())


def wrong_answers(run: "Run", count: int) -> list[Row]:
    """A seeded handful of wrong answers to local questions, with `picture` and `question`, to look
    at.
    """
    items = {item.id: item for item in load_items(run)[0]}
    rows = tables.read_rows(run.data / "results")
    wrong = (row for row in rows if row["correct"] is False and row["sample_id"] in items)
    shown = choose(
        wrong, count, run.seed, key=lambda row: f"{row['sample_id']}/{row['model']}/{row['arm']}"
    )
    pairs = [(row, items[row["sample_id"]]) for row in shown]
    return [{**row, "picture": item.image, "question": item.text} for row, item in pairs]
