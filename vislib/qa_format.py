"""The format of questions and answers, written and read (VisCon-100K, section 3.3, Tables 3 and 4).

A model answers in rounds. Free form: `<Human>` question, `<Assistant>` answer of any number of
paragraphs. Multiple choice: `<Human>` question, `<Options>` and four quoted lines `"A. ..."` to
`"D. ..."`, `<Assistant>` and one letter. `render_*` write exactly this; `parse_*` read it and the
variants that models produce, the JSON of `qa_json` too, whichever comes first in the text. Nothing
is lost: a block that begins as a round is one or has one of `REASONS`; the rest is
`Parsed.outside`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vislib.engines.thoughts import without_thoughts
from vislib.prompts import IDENTIFIER
from vislib.qa_json import json_rounds
from vislib.qa_options import has_words, lettered, read_letter, read_options, unescaped

MAX_ROUNDS = 5
REASONS = {
    "no_rounds": "the text holds no identifier",
    "broken_json": "the JSON of the round is cut short or not valid",
    "identifiers_unpaired": "identifiers are missing their partner, repeated or out of order",
    "empty_question": "no word after <Human>",
    "missing_answer": "no <Assistant>, or no word after it",
    "missing_options": "no <Options>, or no word after it",
    "not_four_options": "the options are not exactly A to D, each once, in order",
    "empty_option": "an option without text",
    "repeated_options": "two options of the same text",
    "answer_not_an_option": (
        "the answer is neither one of the four letters nor the text of an option"
    ),
    "answer_contradicts_options": "the answer joins a letter to the text of another option",
    "several_answers": "the answer names more than one letter",
    "beyond_five_rounds": "five good rounds stand before it",
}
_FREE_FORM, _MULTIPLE_CHOICE = ("human", "assistant"), ("human", "option", "assistant")
_INCOMPLETE = {
    ("human",): "missing_answer",
    ("human", "option"): "missing_answer",
    ("human", "assistant"): "missing_options",
}

# Bounded repeats only, here and below: the time stays linear in the length of any text.
# End-of-turn tokens that a server did not remove.
_STOP = re.compile(r"<\|[a-z_]{1,24}\|>|</s>(?=\s{0,9}(?:\Z|<))")
# A model that goes on as its chat template does.
_TAIL = (
    r"^[ \t]{0,4}(?:#{2,4} ?(?:human|user|assistant|system|instruction|response|input) ?[:：]"
    r"|\[/?INST\])"
)
_FENCE = r"^[ \t]{0,8}```[a-z]{0,12}[ \t]{0,8}$"
_ENDS = re.compile(_TAIL, re.IGNORECASE | re.MULTILINE)
_ENDS_IN_FENCE = re.compile(f"{_TAIL}|{_FENCE}", re.IGNORECASE | re.MULTILINE)
# Line breaks that are written as two characters, before an identifier and anywhere.
_BREAK = re.compile(rf"(?:\\r)?\\n(?=(?:\\n|\s){{0,9}}{IDENTIFIER.pattern})", re.IGNORECASE)
_ANY_BREAK = re.compile(r"(?:\\r)?\\n")
_BEFORE = re.compile(
    r"(?:[ \t>*_#+•–-]|(?:round|question|q)?[ ]?#?\d{1,2}[.:)]){0,12}", re.IGNORECASE
)
_COLONS = ":：﹕︓∶꞉׃։፡፥᠄܃܄"  # of any script
_HEADING = re.compile(r"(?:(?:round|question) ?#?\d{1,2}[.:)]?)?", re.IGNORECASE)
_NUMBERING = re.compile(r"(?:round|question|q)? ?#?\d{1,2}[.:)]?", re.IGNORECASE)
_DECORATION = " \t*_#>=-"
_ANSWER = re.compile(r"\A<answer>(.{1,10000})</answer>\Z", re.IGNORECASE | re.DOTALL)
_REMARK = re.compile(
    r"\(?(?:note:|please note that|(?:i )?hope (?:this|these|that)|(?:please )?(?:let me know|feel"
    r" free to)|these (?:questions|rounds)|this (?:conversation|dialogue)"
    r"|would you like (?:me|more|another)"
    r"|if you(?: would|'d)? (?:like|need|want) (?:me|more|any|another|further)|is there anything"
    r" else)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Round:
    """One question with its answer; `options` are four texts without letters, or none in free
    form.
    """

    question: str
    options: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class Block:
    """One block of a model's text: the round as far as it could be read, and why it is dropped ("":
    kept).
    """

    round: Round
    reason: str
    text: str


@dataclass(frozen=True)
class Parsed:
    """Blocks in the order of the text, and the text outside them (prose, thoughts, fences)."""

    blocks: tuple[Block, ...]
    outside: str

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The good rounds, at most `MAX_ROUNDS`."""
        return tuple(block.round for block in self.blocks if not block.reason)


def render_free_form(rounds: Iterable[Round]) -> str:
    """Write rounds in the canonical free-form format."""
    return "\n\n".join(f"<Human> {r.question}\n<Assistant> {r.answer}" for r in rounds)


def render_multiple_choice(rounds: Iterable[Round]) -> str:
    """Write rounds of four options each in the canonical multiple-choice format; `answer` is a
    letter.
    """
    return "\n\n".join(
        "\n".join(
            [
                f"<Human> {entry.question}\n<Options>",
                *(f'"{line}"' for line in lettered(entry.options)),
                f"<Assistant> {entry.answer}",
            ]
        )
        for entry in rounds
    )


def as_text(row: Mapping[str, Any]) -> str:
    """One row of `questions` as a reader sees it: question, options, answer, and the reason if it
    was dropped.
    """
    reason = [f"({row['reason']})"] if row["reason"] else []
    return "\n".join([row["question"], *lettered(row["options"]), f"→ {row['answer']}", *reason])


def parse_free_form(text: str) -> Parsed:
    """Read free-form rounds; a closing remark of the model to its user is no part of the last
    answer.
    """
    blocks, outside = _blocks(text, _FREE_FORM)
    last = blocks[-1].round
    before, _, remark = last.answer.rpartition("\n\n")
    if before and _REMARK.match(remark.strip(_DECORATION)):
        blocks[-1] = replace(blocks[-1], round=replace(last, answer=_clean(before)))
    return _first_rounds(blocks, outside)


def parse_multiple_choice(text: str) -> Parsed:
    """Read multiple-choice rounds; `answer` becomes one letter of A to D."""
    return _first_rounds(*_blocks(text, _MULTIPLE_CHOICE))


def _first_rounds(blocks: list[Block], outside: str) -> Parsed:
    """Keep the first `MAX_ROUNDS` good rounds; later ones are dropped for it."""
    good = [number for number, block in enumerate(blocks) if not block.reason]
    for number in good[MAX_ROUNDS:]:
        blocks[number] = replace(blocks[number], reason="beyond_five_rounds")
    return Parsed(tuple(blocks), outside)


def _blocks(text: str, expected: tuple[str, ...]) -> tuple[list[Block], str]:
    """One block per <Human> or JSON round, at least one, and the text outside them."""
    # A server may send half of a surrogate pair, which no table could hold.
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode()
    text, thoughts = without_thoughts(text)
    if _BREAK.search(text):  # a text that was escaped: as a whole if no line is left
        text = (_BREAK if "\n" in text.strip() else _ANY_BREAK).sub("\n", text)
    label, rounds = IDENTIFIER.search(text), list(json_rounds(text))
    if not rounds or (label and label.start() < rounds[0].start):
        blocks, outside = _text_blocks(text, expected)
        if not blocks:
            return [Block(Round(""), "no_rounds", thoughts + outside)], ""
        return blocks, thoughts + outside
    blocks, last = [], 0
    for found in rounds:
        thoughts += text[last : found.start]
        last = found.end
        options, fault = found.options() if "option" in expected else ((), "")
        entry = Round(found.words("question"), options, found.words("answer"))
        fault = fault if found.fields else "broken_json"
        blocks.append(_checked(entry, fault, text[found.start : last]))
    return blocks, thoughts + text[last:]


def _checked(found: Round, fault: str, text: str) -> Block:
    """The block of a round that was read with `fault` ("": none so far), in whatever form it was
    written.
    """
    answer = _ANSWER.sub(r"\1", unescaped(found.answer)).strip()
    found = replace(found, question=unescaped(found.question), answer=answer)
    if not fault and not has_words(found.question):
        fault = "empty_question"
    if not fault and not has_words(answer):
        fault = "missing_answer"
    if not fault and found.options:
        answer, fault = read_letter(answer, found.options)
        found = replace(found, answer=answer)
    return Block(found, fault, text)


def _text_blocks(text: str, expected: tuple[str, ...]) -> tuple[list[Block], str]:
    """Cut at the identifiers, before the model's end of turn; those before the first <Human> make
    a block of their own.
    """
    stop = _STOP.search(text)
    end = stop.start() if stop else len(text)
    marks = _identifiers(text, end, expected)
    if not marks:
        return [], text
    outside = [text[: marks[0].start()]]
    fenced = re.fullmatch(_FENCE, outside[0].rstrip().rpartition("\n")[2])
    groups: list[list[tuple[str, str, str]]] = []  # name, words after it, text as it stands
    for mark, limit in zip(marks, [*(m.start() for m in marks[1:]), end], strict=True):
        if mark["close"]:
            outside.append(text[mark.start() : limit])
            continue
        ends = (_ENDS_IN_FENCE if fenced else _ENDS).search(text, mark.end(), limit)
        cut = ends.start() if ends else limit
        followed = cut == limit < end
        body = _clean(text[mark.end() : cut], bold=bool(mark["bold"]), followed=followed)
        if _name(mark) == "human" or not groups:
            groups.append([])
        groups[-1].append((_name(mark), body, text[mark.start() : cut]))
        outside.append(text[cut:limit])
    return [_read(group, expected) for group in groups], "".join(outside) + text[end:]


def _name(mark: re.Match[str]) -> str:
    """`human`, `option` or `assistant`; `/human` and so on for a closing tag."""
    return (mark["close"] + mark["name"]).lower()


def _identifiers(text: str, end: int, expected: Sequence[str]) -> list[re.Match[str]]:
    """The identifiers that are no words of a question or an answer.

    Those that begin a line are. One within a line is if the round lacks it at the beginning of a
    line: some models write no line breaks.
    """
    found = list(IDENTIFIER.finditer(text, 0, end))
    rounds: list[list[tuple[re.Match[str], bool]]] = [[]]
    for mark, after in zip(found, [*found[1:], None], strict=False):
        if mark["close"]:  # firm at the end of its line, or before the next identifier
            rest = text[mark.end() : after.start() if after else end].partition("\n")[0]
            firm = mark["name"].lower() in expected and not rest.strip(" \t*_")
        else:
            line = text[max(0, mark.start() - 40) : mark.start()].rpartition("\n")[2]
            firm = _BEFORE.fullmatch(line) is not None
        if firm and _name(mark) == "human":
            rounds.append([])
        rounds[-1].append((mark, firm))
    kept: list[re.Match[str]] = []
    for marks in rounds:
        whole = {_name(mark) for mark, firm in marks if firm}.issuperset(expected)
        lacking = () if whole else expected
        kept += [mark for mark, firm in marks if firm or _name(mark) in lacking]
    return kept


def _clean(body: str, *, bold: bool = False, followed: bool = False) -> str:
    """Strip what belongs to the layout: rules, headings and numbers of the next round, bold
    markers.
    """
    lines = body.split("\n")
    if followed and len(lines) > 1 and _NUMBERING.fullmatch(lines[-1].strip(_DECORATION)):
        lines.pop()
    while len(lines) > 1 and _HEADING.fullmatch(lines[-1].strip(_DECORATION)):
        lines.pop()
    text = "\n".join(lines).lstrip(_COLONS + (" \t*_" if bold else " \t")).strip()
    markers = text.count("**")
    if markers == 1 or (markers == 2 and text.startswith("**") and text.endswith("**")):
        text = text.removeprefix("**").removesuffix("**").strip()
    return text


def _read(group: Sequence[tuple[str, str, str]], expected: tuple[str, ...]) -> Block:
    parts = {name: body for name, body, _ in group}
    options, fault = read_options(parts.get("option", "")) if "option" in expected else ((), "")
    names = tuple(name for name, _, _ in group)
    if names != expected:
        known = set(names) <= set(expected)
        fault = _INCOMPLETE.get(names, "") if known else ""
        fault = fault or "identifiers_unpaired"
    found = Round(parts.get("human", ""), options, parts.get("assistant", ""))
    return _checked(found, fault, "".join(text for _, _, text in group))
