"""MMBench's own verdict on a question, as lmms-eval 0.7.3 gives it without a judge (task
`mmbench_en_dev_static`).

The log holds each question several times, its options rotated; it counts as right only if every
rotation is answered right, so that a model which prefers a letter gains nothing. Which letter an
answer means follows the harness's order of readings, so that the score is its score to the digit; a
campaign holds both against each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROTATION = 1_000_000  # a rotation's index is its question's plus a multiple of this
_LETTERS = "ABCDE"
_MARKS = (
    "{}",
    "{}.",
    "{},",
    "{}:",
    "{})",
    "{}).",
    "({})",
    "({}).",
    ":{}",
    ":{},",
    ":{}.",
    ":{})",
    ":{}).",
)
_MOST_WORDS_BESIDE_A = 3  # in a longer answer a lone "A" is taken for the article
_FORMS = (
    ("({})", 6),
    ("{}.", 5),
    ("{}:", 4),
    ("{})", 3),
    ("{} ", 2),
)  # where a letter may stand, and its weight
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0  # weights
_STRIPPED = ",.!?;:'\""
_PHRASES = (  # each is looked for by itself, because the harness takes the first place of each
    *(f"{the}{word} is" for the in ("", "the ", "my ") for word in ("answer", "choice")),
    *(
        f"{the}{which} {word} is"
        for the in ("", "the ")
        for which in ("correct", "best")
        for word in ("answer", "option", "choice")
        if (which, word) != ("best", "choice")
    ),
    *(f"i {verb}" for verb in ("choose", "select", "pick")),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def is_right(rotations: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all records (`prediction`, `answer`, options `A` to `D`) of one question are answered
    right.
    """
    return all(letter_of(record) == record["answer"] for record in rotations)


def letter_of(record: Mapping[str, Any]) -> str:
    """The letter that the harness reads out of a record's `prediction`, or ""."""
    said = str(record["prediction"])
    options = {letter: text for letter in "ABCD" if _is_there(text := record.get(letter))}
    return (
        _marked(said.split())
        or _quoted(said.lower(), options)
        or _weighed(said, sorted(options) or "ABCDEFGH")
    )


def _is_there(option: object) -> bool:
    return option is not None and option == option  # no NaN


def _marked(words: Sequence[str]) -> str:
    """The only letter that is a word of the answer, in the first of the marks that holds exactly
    one.
    """
    for mark in _MARKS:
        found = [letter for letter in _LETTERS if mark.format(letter) in words]
        article = mark == "{}" and found == ["A"] and len(words) > _MOST_WORDS_BESIDE_A
        if len(found) == 1 and not article:
            return found[0]
    return ""


def _quoted(said: str, options: Mapping[str, object]) -> str:
    found = [letter for letter, text in options.items() if str(text).lower() in said]
    return found[0] if len(found) == 1 else ""


def _weighed(said: str, letters: Sequence[str]) -> str:
    """The letter that stands in the weightiest place of the answer; among equals the last."""
    bare = said.strip()
    for sign in _STRIPPED:
        bare = bare.strip(sign)
    text = f" {bare} "
    bare = bare.strip()
    places = []
    for form, weight in _FORMS:
        marked = {letter: form.format(letter) for letter in letters}
        places += [
            (weight, text.rfind(mark), letter) for letter, mark in marked.items() if mark in text
        ]
    for phrase in _PHRASES:
        if (begin := text.lower().find(phrase)) >= 0:
            found = {letter: text.find(letter, begin + len(phrase)) for letter in letters}
            places += [(_PHRASE, at, letter) for letter, at in found.items() if at >= 0]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            places.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            places.append((_END, len(text) - 1, letter))
    places = places or [
        (_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text
    ]
    return max(places, key=lambda place: place[:2])[2] if places else ""
