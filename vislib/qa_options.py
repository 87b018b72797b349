"""Reading of the four options and of the letter in multiple-choice rounds (VisCon-100K, Table 4).

Options stand one a line or all in one line, quoted or not, with their letters in many forms; an answer is a
letter, a letter with its option's text, or the text alone. Each fault has a reason of `qa_format.REASONS`.
Models favour some letters as the right one, so options can be put in an order drawn by hash.
"""

import re
from collections.abc import Iterable, Sequence

from vislib.runs.seeding import seeded

LETTERS = "ABCD"

# Bounded repeats only: the time stays linear in the length of any text.
_QUOTES = "\"'“”‘’«»`"
_OPTION = re.compile(
    r"(?:(?P<line>^[ \t]{0,8}(?:[-*•+][ \t]{1,3})?)|(?<![^\s,;|/]))(?P<open>[\"'“‘«`*(\[_]{0,4})"
    r"(?P<letter>[A-H])(?P<shut>[*_\"']{0,3})(?:[.):\]]{1,2}|[ ][-–—](?=[ ]))[*_]{0,3}(?(line)|(?=[\s\"'“‘«]))",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER = re.compile(
    r"(?:[*_]{0,2}(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?[\s:*_]{0,5}){0,2}[\"'“‘`*$(\[_]{0,4}"
    r"(?P<letter>[A-Z])(?!\w|['’]\w)(?P<mark>[ ][-–—]|[\"'”’`*$)\]_.:]{0,4})\s{0,9}(?P<rest>.*)",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r",? ?(?:because|since)\b", re.IGNORECASE)
_ANOTHER = re.compile(r"(?:,|/|&|and|or)[ ]{0,2}(?:and|or)?[ (\"']{0,3}[A-D](?!\w)", re.IGNORECASE)
_LETTERED = re.compile(r"\(?(?P<letter>[A-D])[.):](?: |$)", re.IGNORECASE)
_OF_OTHERS = re.compile(
    r"(?i:\b(?:all|both|none|neither|either|any|two|three) (?:of )?(?:the )?"
    r"(?:above|below|these|those|them|others?|answers|options|choices|statements)\b)"
    r"|(?i:\bthe (?:above|former|latter|(?:first|last|other) (?:two|three))\b)"
    r"|(?i:\b(?:options?|answers?|choices?)) \(?[A-D]\b|\b[A-D]\)?(?:,| and| or| &|/) ?\(?[A-D]\b"
)


def has_words(text: str) -> bool:
    """Whether any letter or digit stands in `text`."""
    return any(character.isalnum() for character in text)


def read_options(body: str) -> tuple[tuple[str, ...], str]:
    """Read the options, one a line or all in one line, and what is wrong with them."""
    if not has_words(body):
        return (), "missing_options"
    if body[0] + body[-1] in ("[]", "{}"):
        body = body[1:-1]
    marks = list(_OPTION.finditer(body))
    lines = [mark for mark in marks if mark["line"] is not None]
    if _letters(lines).startswith("AB"):
        marks = lines
    if _letters(marks) != LETTERS:
        return (), "not_four_options"
    limits = [*(mark.start() for mark in marks[1:]), len(body)]
    return check_options([_option(mark, body[mark.end() : n]) for mark, n in zip(marks, limits, strict=True)])


def check_options(options: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The options and what is wrong with them; none of them unless there are four."""
    if len(options) != len(LETTERS):
        return (), "not_four_options"
    if not all(has_words(option) for option in options):
        return tuple(options), "empty_option"
    return tuple(options), "repeated_options" if len({_plain(option) for option in options}) < 4 else ""


def without_letters(options: Sequence[str]) -> list[str]:
    """The options without `A.` to `D.` before them, if each begins with its own letter."""
    marks = [_LETTERED.match(option) for option in options]
    if "".join(mark["letter"].upper() if mark else "-" for mark in marks) != LETTERS[: len(options)]:
        return list(options)
    return [option[mark.end() :].strip() for mark, option in zip(marks, options, strict=True) if mark]


def shuffle(
    question: str, options: Sequence[str], letter: str, *, seed: int, name: str
) -> tuple[list[str], str] | None:
    """The options in an order drawn from `seed` and `name`, and the right one's new letter.

    None where the question or an option speaks of other options or their letters ("All of the above").
    """
    if any(_OF_OTHERS.search(text) for text in (question, *options)):
        return None
    order = sorted(range(len(options)), key=lambda i: seeded(seed, name, str(i)))
    return [options[i] for i in order], LETTERS[order.index(LETTERS.index(letter))]


def _letters(marks: Iterable[re.Match[str]]) -> str:
    return "".join(mark["letter"].upper() for mark in marks)


def _option(mark: re.Match[str], text: str) -> str:
    """The words of one option; a closing quote goes if one was opened before the letter and not shut after it."""
    text = " ".join(text.strip().partition("\n\n")[0].split()).rstrip(" ,;|")
    if "*" in mark["open"]:
        text = text.rstrip("*_")
    if set(mark["open"]) & set(_QUOTES) and not set(mark["shut"]) & set(_QUOTES):
        text = text[:-1] if text and text[-1] in _QUOTES else text
    elif len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1]
    return text.strip(" ,;|")


def _plain(text: str) -> str:
    return " ".join(text.strip(" .*" + _QUOTES).split()).casefold()


def read_letter(answer: str, options: Sequence[str]) -> tuple[str, str]:
    """The letter that the first line of an answer means, or the answer as it stands and a reason."""
    answer = answer.partition("\n")[0].strip()
    by_text = {_plain(option): letter for letter, option in zip(LETTERS, options, strict=True)}
    meant = by_text.get(_plain(answer), "")
    match = _ANSWER.fullmatch(answer)
    letter = match["letter"].upper() if match else ""
    rest = match["rest"] if match else ""
    if letter and letter in LETTERS and not rest:
        return letter, ""
    if meant:
        return meant, ""
    if rest and _ANOTHER.match(rest):
        return answer, "several_answers"
    said = by_text.get(_plain(rest), "")
    if not match or letter not in LETTERS or not (match["mark"] or said or _BECAUSE.match(rest)):
        return answer, "answer_not_an_option"
    return (answer, "answer_contradicts_options") if said not in ("", letter) else (letter, "")
