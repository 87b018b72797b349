"""The format of questions and answers, written and read (VisCon-100K, section 3.3, Tables 3 and 4).

A model answers in rounds. Free form: `<Human>` question, `<Assistant>` answer of any number of
paragraphs. Multiple choice: `<Human>` question, `<Options>` and four quoted lines `"A. ..."` to
`"D. ..."`, `<Assistant>` and one letter. `render_rounds` writes exactly this; `parse_*` read it and
the variants that models produce, the JSON of `qa_json` too, whichever comes first in the text.
A block that begins as a round is one or has one of `REASONS`; prose, thoughts and fences around the
rounds are left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from vislib.engines.thoughts import without_thoughts
from vislib.prompts import IDENTIFIER
from vislib.qa_json import JsonRound, json_rounds
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
Names = tuple[str, ...]  # of the parts of a round; or texts of options
_FREE_FORM: Names = ("human", "assistant")
_MULTIPLE_CHOICE: Names = ("human", "option", "assistant")
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
_FENCE = re.compile(r"^[ \t]{0,8}```[a-z]{0,12}[ \t]{0,8}$", re.IGNORECASE)
# A closing tag ends its part where it ends a line, or where the next identifier follows.
_CLOSING = (
    r"[*_]{{0,3}}\\?[<＜][ \t]{{0,2}}/[ \t]{{0,2}}(?:{})s?[^\n<>＞]{{0,6}}[>＞][ \t*_]{{0,9}}$"
)
# Line breaks that are written as two characters, before an identifier and anywhere.
_BREAK = re.compile(rf"(?:\\r)?\\n(?=(?:\\n|\s){{0,9}}{IDENTIFIER.pattern})", re.IGNORECASE)
_ANY_BREAK = re.compile(r"(?:\\r)?\\n")
# An identifier that begins a line, perhaps of a list.
_FIRM = re.compile(
    r"^(?:[ \t>*_#+•–-]|(?:round|question|q)?[ ]?#?\d{1,2}[.:)]){0,12}?" + IDENTIFIER.pattern,
    re.IGNORECASE | re.MULTILINE,
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


class Part(NamedTuple):
    """What one identifier begins: `human`, `option` or `assistant`."""

    name: str
    words: str
    text: str  # as it stands in the model's


@dataclass(frozen=True)
class Parsed:
    """Blocks in the order of the text; there is one at least."""

    blocks: tuple[Block, ...]

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The good rounds, at most `MAX_ROUNDS`."""
        return tuple(block.round for block in self.blocks if not block.reason)


def render_rounds(rounds: Iterable[Round]) -> str:
    """Write rounds in the canonical format; of four options each, `answer` is a letter."""
    texts = []
    for entry in rounds:
        lines = [f"<Human> {entry.question}"]
        if entry.options:
            lines += ["<Options>", *(f'"{line}"' for line in lettered(entry.options))]
        lines.append(f"<Assistant> {entry.answer}")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def as_text(row: Mapping[str, Any]) -> str:
    """One row of `questions` as a reader sees it: question, options, answer, and the reason if it
    was dropped.
    """
    lines = [row["question"], *lettered(row["options"]), f"→ {row['answer']}"]
    if row["reason"]:
        lines.append(f"({row['reason']})")
    return "\n".join(lines)


def parse_free_form(text: str) -> Parsed:
    """Read free-form rounds; a closing remark of the model to its user is no part of the last
    answer.
    """
    return _parsed(text, _FREE_FORM)


def parse_multiple_choice(text: str) -> Parsed:
    """Read multiple-choice rounds; `answer` becomes one letter of A to D."""
    return _parsed(text, _MULTIPLE_CHOICE)


def _parsed(said: str, expected: Names) -> Parsed:
    # A server may send half of a surrogate pair, which no table could hold.
    said = said.encode("utf-8", "replace").decode()
    text = without_thoughts(said.replace("\r\n", "\n"))
    if _BREAK.search(text):
        # A text that was escaped: as a whole if no line is left, else where a part ends.
        escaped = _BREAK if "\n" in text.strip() else _ANY_BREAK
        text = escaped.sub("\n", text)
    label, in_json = IDENTIFIER.search(text), list(json_rounds(text))
    if in_json and not (label and label.start() < in_json[0].start):
        blocks = [_json_block(text, found, expected) for found in in_json]
    else:
        blocks = _text_blocks(text, expected)
    if not blocks:
        return Parsed((Block(Round(""), "no_rounds", said),))
    if expected == _FREE_FORM:
        blocks[-1] = _without_remark(blocks[-1])
    good = [number for number, block in enumerate(blocks) if not block.reason]
    for number in good[MAX_ROUNDS:]:
        blocks[number] = replace(blocks[number], reason="beyond_five_rounds")
    return Parsed(tuple(blocks))


def _without_remark(block: Block) -> Block:
    answer, _, remark = block.round.answer.rpartition("\n\n")
    if not answer or not _REMARK.match(remark.strip(_DECORATION)):
        return block
    return replace(block, round=replace(block.round, answer=_clean(answer)))


def _json_block(text: str, found: JsonRound, expected: Names) -> Block:
    options, fault = found.options() if "option" in expected else ((), "")
    if not found.fields:
        fault = "broken_json"
    body = text[found.start : found.end]
    return _block(found.words("question"), options, found.words("answer"), fault, body)


def _block(question: str, options: Names, answer: str, fault: str, text: str) -> Block:
    """The block of a round that was read with `fault` ("": none so far), in whatever form it was
    written.
    """
    question = unescaped(question)
    answer = _ANSWER.sub(r"\1", unescaped(answer)).strip()
    if not fault:
        if not has_words(question):
            fault = "empty_question"
        elif not has_words(answer):
            fault = "missing_answer"
        elif options:
            answer, fault = read_letter(answer, options)
    return Block(Round(question, options, answer), fault, text)


def _text_blocks(text: str, expected: Names) -> list[Block]:
    """A block per <Human>. Identifiers before the first <Human> make a block of their own."""
    text = _STOP.split(text, maxsplit=1)[0]  # the model's end of turn
    marks = _identifiers(text, expected)
    limits = [*(mark.start() for mark in marks), len(text)]
    ends = [_TAIL, _CLOSING.format("|".join(expected))]
    if _FENCE.fullmatch(text[: limits[0]].rstrip().rpartition("\n")[2]):
        ends.append(_FENCE.pattern)  # what a fence opened it shuts; elsewhere an answer holds code
    ending = re.compile("|".join(ends), re.IGNORECASE | re.MULTILINE)
    rounds: list[list[Part]] = []
    for mark, limit in zip(marks, limits[1:], strict=True):
        found = ending.search(text, mark.end(), limit)
        cut = found.start() if found else limit
        followed = cut == limit < len(text)
        words = _clean(text[mark.end() : cut], bold=mark["bold"] != "", followed=followed)
        part = Part(_name(mark), words, text[mark.start() : cut])
        if part.name == "human" or not rounds:
            rounds.append([])
        rounds[-1].append(part)
    return [_read(parts, expected) for parts in rounds]


def _name(mark: re.Match[str]) -> str:
    return mark["name"].lower()


def _identifiers(text: str, expected: Names) -> list[re.Match[str]]:
    """The identifiers that are no words of a question or an answer.

    Those that begin a line are. One within a line is if the round lacks it at the beginning of a
    line: some models write no line breaks.
    """
    begins = {mark.start("name") for mark in _FIRM.finditer(text)}
    rounds: list[list[re.Match[str]]] = [[]]
    for mark in IDENTIFIER.finditer(text):
        if mark["close"]:
            continue
        if mark.start("name") in begins and _name(mark) == "human":
            rounds.append([])
        rounds[-1].append(mark)
    kept: list[re.Match[str]] = []
    for marks in rounds:
        firm = {_name(mark) for mark in marks if mark.start("name") in begins}
        lacking = () if firm.issuperset(expected) else expected
        kept += [m for m in marks if m.start("name") in begins or _name(m) in lacking]
    return kept


def _clean(body: str, *, bold: bool = False, followed: bool = False) -> str:
    """Strip what belongs to the layout: rules, headings and numbers of the next round, bold
    markers.
    """
    lines = body.split("\n")
    if followed and len(lines) > 1 and _NUMBERING.fullmatch(lines[-1].strip(_DECORATION)):
        lines.pop()  # one number at most: more are the answer's own
    while len(lines) > 1 and _HEADING.fullmatch(lines[-1].strip(_DECORATION)):
        lines.pop()
    around = _COLONS + (" \t*_" if bold else " \t")  # stars are a list's, else
    text = "\n".join(lines).lstrip(around).strip()
    markers = text.count("**")
    # One marker alone is the identifier's other half, two around the words are layout.
    if markers == 1 or (markers == 2 and text.startswith("**") and text.endswith("**")):
        text = text.removeprefix("**").removesuffix("**").strip()
    return text


def _read(parts: Sequence[Part], expected: Names) -> Block:
    names = tuple(part.name for part in parts)
    words = dict.fromkeys(_MULTIPLE_CHOICE, "") | {part.name: part.words for part in parts}
    options, fault = read_options(words["option"]) if "option" in expected else ((), "")
    if names != expected:
        known = names if set(names) <= set(expected) else ()
        fault = _INCOMPLETE.get(known, "identifiers_unpaired")
    body = "".join(part.text for part in parts)
    return _block(words["human"], options, words["assistant"], fault, body)
