"""The text format of questions and answers, written and read (VisCon-100K, section 3.3 and Tables 3
and 4).

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
from vislib.qa_json import JsonRound, as_words, json_rounds, options_of
from vislib.qa_options import LETTERS, has_words, read_letter, read_options, unescaped

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

# Bounded repeats only, here and below: the time stays linear in the length of any text.
IDENTIFIER = re.compile(
    r"(?P<bold>[*_]{0,3})\\?[<＜][ \t]{0,2}(?P<close>/?)["
    r" \t]{0,2}(?P<name>human|assistant|option)s?"
    r"[ _]?\d{0,2}[ \t]{0,2}[:：]?[ \t]{0,2}\\?[>＞]",
    re.IGNORECASE,
)
_STOP = re.compile(
    r"<\|[a-z_]{1,24}\|>|</s>(?=\s{0,9}(?:\Z|<))"
)  # end-of-turn tokens that a server did not remove
_TAIL = re.compile(  # a model that goes on as its chat template does
    r"^[ \t]{0,4}(?:#{2,4} ?(?:human|user|assistant|system|instruction|response|input)"
    r" ?[:：]|\[/?INST\])",
    re.IGNORECASE | re.MULTILINE,
)
_BREAK = re.compile(
    rf"(?:\\r)?\\n(?=(?:\\n|\s){{0,9}}{IDENTIFIER.pattern})", re.IGNORECASE
)  # written as two characters
_ANY_BREAK = re.compile(r"(?:\\r)?\\n")
_BEFORE = re.compile(
    r"(?:[ \t>*_#+•–-]|(?:round|question|q)?[ ]?#?\d{1,2}[.:)]){0,12}", re.IGNORECASE
)
_COLONS = ":：﹕︓∶꞉׃։፡፥᠄܃܄"  # of any script
_FENCE = re.compile(r"^[ \t]{0,8}```[a-z]{0,12}[ \t]{0,8}$", re.MULTILINE)
_HEADING = re.compile(r"(?:(?:round|question) ?#?\d{1,2}[.:)]?)?", re.IGNORECASE)
_NUMBERING = re.compile(r"(?:round|question|q)? ?#?\d{1,2}[.:)]?", re.IGNORECASE)
_DECORATION = " \t*_#>=-"
_ANSWER = re.compile(r"<answer>(.{1,10000})</answer>", re.IGNORECASE | re.DOTALL)
_FREE_FORM, _MULTIPLE_CHOICE = ("human", "assistant"), ("human", "option", "assistant")
_REMARK = re.compile(
    r"\(?(?:note:|please note that|(?:i )?hope (?:this|these|that)|(?:please )?(?:let me know|feel"
    r" free to)"
    r"|these (?:questions|rounds)|this (?:conversation|dialogue)|would you like (?:me|more|another)"
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
    rounds_as_text = []
    for entry in rounds:
        options = "\n".join(f'"{line}"' for line in lettered(entry.options))
        rounds_as_text.append(
            f"<Human> {entry.question}\n<Options>\n{options}\n<Assistant> {entry.answer}"
        )
    return "\n\n".join(rounds_as_text)


def parse_free_form(text: str) -> Parsed:
    """Read free-form rounds; a closing remark of the model to its user is no part of the last
    answer.
    """
    blocks, outside = _blocks(text, _FREE_FORM)
    last = blocks[-1].round
    blocks[-1] = replace(blocks[-1], round=replace(last, answer=_without_remark(last.answer)))
    return Parsed(_first_rounds(blocks), outside)


def parse_multiple_choice(text: str) -> Parsed:
    """Read multiple-choice rounds; `answer` becomes one letter of A to D."""
    blocks, outside = _blocks(text, _MULTIPLE_CHOICE)
    return Parsed(_first_rounds(blocks), outside)


def lettered(options: Sequence[str]) -> list[str]:
    """The options as lines `A. ...` to `D. ...`."""
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]


def _blocks(text: str, expected: tuple[str, ...]) -> tuple[list[Block], str]:
    """Read one block per <Human> or JSON round; identifiers before the first one make a block of
    their own.
    """
    text, thoughts = without_thoughts(
        text.replace("\r\n", "\n").encode("utf-8", "replace").decode()
    )
    if _BREAK.search(text):  # a text that was escaped: as a whole if no line is left
        text = (_BREAK if "\n" in text.strip() else _ANY_BREAK).sub("\n", text)
    label = IDENTIFIER.search(text)
    rounds = json_rounds(text)
    if rounds and not (label and label.start() < rounds[0][0]):
        blocks, outside = _json_blocks(text, rounds, expected)
        return blocks, thoughts + outside
    segments, outside = _segments(text, expected)
    groups: list[list[_Segment]] = []
    for segment in segments:
        if segment.name == "human" or not groups:
            groups.append([])
        groups[-1].append(segment)
    if not groups:
        return [Block(Round(""), "no_rounds", thoughts + outside)], ""
    return [_read(group, expected) for group in groups], thoughts + outside


def _json_blocks(
    text: str, rounds: Sequence[JsonRound], expected: tuple[str, ...]
) -> tuple[list[Block], str]:
    blocks, outside, last = list[Block](), list[str](), 0
    for start, end, fields in rounds:
        outside.append(text[last:start])
        given, last = fields or {}, end
        options, fault = options_of(given) if "option" in expected else ((), "")
        found = Round(as_words(given.get("question")), options, as_words(given.get("answer")))
        blocks.append(_checked(found, fault if fields else "broken_json", text[start:end]))
    return blocks, "".join(outside) + text[last:]


@dataclass(frozen=True)
class _Segment:
    name: str  # human, option or assistant
    body: str  # the words after the identifier, cleaned
    text: str  # as it stands in the model's text


def _segments(text: str, expected: Sequence[str]) -> tuple[list[_Segment], str]:
    """Cut at the identifiers, before the model's end of turn."""
    stop = _STOP.search(text)
    end = stop.start() if stop else len(text)
    marks = _identifiers(text, end, expected)
    if not marks:
        return [], text
    outside = [text[: marks[0].start()]]
    fenced = _FENCE.fullmatch(outside[0].rstrip().rpartition("\n")[2])
    segments = []
    for mark, limit in zip(marks, [*(m.start() for m in marks[1:]), end], strict=True):
        layout = (
            _FENCE.search(text, mark.end(), limit) if fenced else None,
            _TAIL.search(text, mark.end(), limit),
        )
        cut = (
            mark.end()
            if mark["close"]
            else min([limit, *(found.start() for found in layout if found)])
        )
        if mark["close"]:
            outside.append(mark.group())
        else:
            body = _clean(
                text[mark.end() : cut], bold=bool(mark["bold"]), followed=cut == limit < end
            )
            segments.append(_Segment(mark["name"].lower(), body, text[mark.start() : cut]))
        outside.append(text[cut:limit])
    return segments, "".join(outside) + text[end:]


def _identifiers(text: str, end: int, expected: Sequence[str]) -> list[re.Match[str]]:
    """The identifiers that are no words of a question or an answer.

    Those that begin a line are. One within a line is if the round lacks it at the beginning of a
    line: some models write no line breaks.
    """
    found = list(IDENTIFIER.finditer(text, 0, end))
    limits = [*(mark.start() for mark in found[1:]), end][: len(found)]
    firm = {
        mark.start()
        for mark, limit in zip(found, limits, strict=True)
        if (
            mark["name"].lower() in expected and _ends_part(text, mark, limit)
            if mark["close"]
            else _begins_line(text, mark.start())
        )
    }
    rounds: list[list[re.Match[str]]] = [[]]
    for mark in found:
        if mark.start() in firm and mark["name"].lower() == "human" and not mark["close"]:
            rounds.append([])
        rounds[-1].append(mark)
    kept: list[re.Match[str]] = []
    for marks in rounds:
        names = {
            mark["name"].lower() for mark in marks if mark.start() in firm and not mark["close"]
        }
        lacking = () if names.issuperset(expected) else expected
        kept += [
            m
            for m in marks
            if m.start() in firm or (m["name"].lower() in lacking and not m["close"])
        ]
    return kept


def _begins_line(text: str, at: int) -> bool:
    line = text.rfind("\n", max(0, at - 40), at) + 1
    return (line > 0 or at < 40) and _BEFORE.fullmatch(text, line, at) is not None


def _ends_part(text: str, mark: re.Match[str], after: int) -> bool:
    """Whether nothing stands between a closing tag and the end of its line, or the next
    identifier.
    """
    rest = text[mark.end() : after].partition("\n")[0]
    return not rest.strip(" \t*_")


def _clean(body: str, *, bold: bool, followed: bool) -> str:
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


def _read(group: Sequence[_Segment], expected: tuple[str, ...]) -> Block:
    parts = {segment.name: segment.body for segment in group}
    options, fault = read_options(parts.get("option", "")) if "option" in expected else ((), "")
    found = Round(parts.get("human", ""), options, parts.get("assistant", ""))
    reason = _pairing([segment.name for segment in group], expected) or fault
    return _checked(found, reason, "".join(segment.text for segment in group))


def _checked(found: Round, fault: str, text: str) -> Block:
    """The block of a round that was read with `fault` ("": none so far), in whatever form it was
    written.
    """
    found = replace(
        found, question=unescaped(found.question), answer=_unwrapped(unescaped(found.answer))
    )
    reason = fault or ("" if has_words(found.question) else "empty_question")
    reason = reason or ("" if has_words(found.answer) else "missing_answer")
    if found.options and not reason:
        answer, reason = read_letter(found.answer, found.options)
        found = replace(found, answer=answer)
    return Block(found, reason, text)


def _unwrapped(answer: str) -> str:
    inside = _ANSWER.fullmatch(answer)
    return inside[1].strip() if inside else answer


def _pairing(names: Sequence[str], expected: Sequence[str]) -> str:
    if names[0] != "human" or len(set(names)) < len(names) or not set(names) <= set(expected):
        return "identifiers_unpaired"
    if "assistant" not in names:
        return "missing_answer"
    if len(names) < len(expected):
        return "missing_options"
    return "" if tuple(names) == tuple(expected) else "identifiers_unpaired"


def _without_remark(answer: str) -> str:
    before, _, last = answer.rpartition("\n\n")
    return (
        _clean(before, bold=False, followed=False)
        if _REMARK.match(last.strip(_DECORATION)) and before
        else answer
    )


def _first_rounds(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Keep the first `MAX_ROUNDS` good rounds; later ones are dropped for it."""
    good, kept = 0, []
    for block in blocks:
        good += not block.reason
        kept.append(
            replace(
                block, reason=block.reason or ("beyond_five_rounds" if good > MAX_ROUNDS else "")
            )
        )
    return tuple(kept)


def as_text(row: Mapping[str, Any]) -> str:
    """One row of `questions` as a reader sees it: question, options, answer, and the reason if it
    was dropped.
    """
    reason = [f"({row['reason']})"] if row["reason"] else []
    return "\n".join([row["question"], *lettered(row["options"]), f"→ {row['answer']}", *reason])
