"""Captions and questions become conversations in every data configuration (VisCon-100K, section
3.4).

A caption answers a detailed-description instruction drawn from a list; contextual captions also
answer one sentence that asks for as much contextual information as possible. All rounds of one
sample are then shuffled: the leaky modality mix. The other configurations of Table 1 keep some of
its rounds, in the same order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from vislib.prompts import load, neutralise
from vislib.qa_options import lettered
from vislib.runs.seeding import seeded

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
    for name, rows in CONFIGURATIONS.items():
        for suffix, sources in rows.items():
            yield name, suffix, [entry for entry in rounds if entry.source in sources]
