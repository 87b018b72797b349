"""Captions and questions become conversations in every data configuration (VisCon-100K, section
3.4).

A caption answers a detailed-description instruction drawn from a list; contextual captions also
answer one sentence that asks for as much contextual information as possible. All rounds of one
sample are then shuffled: the leaky modality mix. The other configurations of Table 1 keep some of
its rounds, in the same order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vislib.prompts import neutralise
from vislib.runs.seeding import seeded

CAPTION, FREE_FORM, MULTIPLE_CHOICE = "caption", "free_form", "multiple_choice"
QUESTION_TYPES = (FREE_FORM, MULTIPLE_CHOICE)
CONTEXTUAL_KINDS = ("contextual", "fused_contextual")
CONFIGURATIONS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # id suffix of each row: the sources of its rounds
    "captions": {"": (CAPTION,)},
    "free_form": {"": (FREE_FORM,)},
    "multiple_choice": {"": (MULTIPLE_CHOICE,)},
    "questions": {"": QUESTION_TYPES},
    "separate": {"-c": (CAPTION,), "-q": QUESTION_TYPES},
    "leaky_mix": {"": (CAPTION, *QUESTION_TYPES)},
}
IMAGE = "<image>\n"  # opens the first human turn, and stands nowhere else
_LETTERS = "ABCD"
_ASK_LETTER = "Give the letter of the right option and nothing else."


@dataclass(frozen=True)
class Round:
    """One human turn and its answer; `id` is the question's, or `caption`."""

    id: str
    source: str
    prompt: str
    answer: str


def caption_prompt(
    sample_id: str, kind: str, *, instructions: Sequence[str], request: str, seed: int
) -> str:
    """The instruction that a caption answers: the same for all kinds of a sample, plus `request`
    for context.
    """
    instruction = instructions[seeded(seed, sample_id, "instruction") % len(instructions)]
    return f"{instruction} {request}" if kind in CONTEXTUAL_KINDS else instruction


def question_prompt(question: Mapping[str, Any]) -> str:
    """The human turn of a row of stage 07: the question, and for multiple choice its options and a
    request.
    """
    if question["question_type"] == FREE_FORM:
        return str(question["question"])
    options = [
        f"{letter}. {text}" for letter, text in zip(_LETTERS, question["options"], strict=True)
    ]
    return "\n".join([question["question"], *options, _ASK_LETTER])


def shuffled_rounds(
    rounds: Sequence[Round], sample_id: str, kind: str, *, seed: int
) -> list[Round]:
    """Rounds in an order drawn by hash; leaving one out leaves the order of the others as it
    was.
    """
    return sorted(rounds, key=lambda r: (seeded(seed, sample_id, kind, r.id), r.id))


def conversation(rounds: Sequence[Round]) -> tuple[list[dict[str, str]], int]:
    """Turns in LLaVA's form, and how many stray `<image>` and other identifiers in them were
    neutralised.
    """
    turns, strays = [], 0
    for index, entry in enumerate(rounds):
        prompt, in_prompt = neutralise(entry.prompt)
        answer, in_answer = neutralise(entry.answer)
        strays += in_prompt + in_answer
        turns.append({"from": "human", "value": prompt if index else IMAGE + prompt})
        turns.append({"from": "gpt", "value": answer})
    return turns, strays


def configured(rounds: Sequence[Round]) -> Iterator[tuple[str, str, list[Round]]]:
    """Configuration, id suffix and rounds of every row that one sample's shuffled rounds give."""
    for name, rows in CONFIGURATIONS.items():
        for suffix, sources in rows.items():
            yield name, suffix, [r for r in rounds if r.source in sources]
