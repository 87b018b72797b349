"""Rows of the contract's `results`: one per model and question, whoever generated the answer
(VisCon-100K, 5.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vislib.evaluation.parsing import lenient_yes_no, strict_yes_no
from vislib.letters import LETTERS, lenient_letter, strict_letter
from vislib.media.words import count_words
from vislib.runs import InputError
from vislib.runs.tables import Row
from vislib.training.models import read_facts, resolve_model

if TYPE_CHECKING:
    from vislib.runs import Run


@dataclass(frozen=True)
class Arm:
    """A model to evaluate: where it lies, and the model, arm and seed that tables and figures call
    it by.
    """

    place: str
    model: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """For messages and logs."""
        return f"{self.model}/{self.arm}/{self.seed}"


def open_arms(run: "Run") -> list[Arm]:
    """The models of a run's parameters; one that was not trained here is the arm `untrained` of its
    own name.

    Raises InputError if there is none, two are called the same, or `reference` is no arm.
    """
    arms: list[Arm] = []
    for value in run.params.models:
        place = resolve_model(value, run)
        facts = {"model": value, "arm": "untrained", "seed": 0} | read_facts(place)
        arms.append(Arm(place, str(facts["model"]), str(facts["arm"]), int(facts["seed"])))
        if [arm.name for arm in arms].count(arms[-1].name) > 1:
            raise InputError(
                f"models holds {arms[-1].name} twice ({value}); leave one out, or train with"
                " another seed"
            )
    names = sorted({arm.arm for arm in arms})
    if not names:
        raise InputError("models is empty; name one or more, such as 10_finetuning.leaky_mix/model")
    if run.params.reference and run.params.reference not in names:
        raise InputError(
            f"reference is {run.params.reference!r}; the arms of models: {', '.join(names)}, or"
            " empty"
        )
    return arms


def answer_row(sample_id: str, prediction: str, answer: str, **values: Any) -> Row:
    """A result without a verdict; `values` are further columns."""
    row: Row = {
        "sample_id": sample_id,
        "question_type": "",
        "prediction": prediction,
        "answer": answer,
        "cluster": "",
    }
    row |= dict.fromkeys(("correct", "parsed", "strictly_correct", "lenient", "points"))
    return row | {"words": count_words(prediction)} | values


def choice_row(
    sample_id: str,
    prediction: str,
    answer: str,
    options: Sequence[str],
    *,
    correct: bool | None = None,
    **values: Any,
) -> Row:
    """The result of a multiple-choice question with the letter `answer`, read strictly and
    leniently.

    `correct`: the verdict of the benchmark's own harness; None where the benchmark is ours, for the
    lenient one.
    """
    letter, letters = lenient_letter(prediction, options), LETTERS[: len(options)]
    right = letter == answer
    read = {
        "parsed": bool(letter),
        "lenient": float(right),
        "correct": right if correct is None else correct,
    }
    strict = strict_letter(prediction, letters) == answer
    return answer_row(sample_id, prediction, answer, **read, strictly_correct=strict, **values)


def yes_no_row(
    sample_id: str, prediction: str, answer: str, *, correct: bool, **values: Any
) -> Row:
    """The result of a question with the answer `yes` or `no`, read strictly and leniently;
    `correct`: the harness's.
    """
    said, right = lenient_yes_no(prediction), lenient_yes_no(answer)
    read = {"parsed": bool(said), "lenient": float(said == right), "correct": correct}
    strict = strict_yes_no(prediction) == right
    return answer_row(sample_id, prediction, answer, **read, strictly_correct=strict, **values)
