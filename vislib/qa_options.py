"""Reading of the four options and of the letter in multiple-choice rounds (VisCon-100K, Table 4).

Options stand one a line or all in one line, quoted or not, with their letters in many forms and
scripts; an answer is a letter, a letter with its option's text, or the text alone. Each fault has a
reason of `qa_format.REASONS`. Models favour some letters as the right one, so options can be put in
an order drawn by hash.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

from vislib.letters import meant, plain
from vislib.media.words import UNSPACED
from vislib.runs.seeding import seeded

LETTERS = "ABCD"

# Bounded repeats only: the time stays linear in the length of any text.
_OPENING = "\"'“‘«‹「『`"
_QUOTES = _OPENING + "”’»›」』"
_BETWEEN = " ,;|/，、；"  # what stands between options in one line
_MARK = re.compile(
    r"(?:(?P<line>^[ \t]{0,8}(?:[-*•+][ \t]{1,3})?)|(?P<after>[,;|/，、；]["
    rf" \t]{{0,8}})|(?<=[\s{UNSPACED}]))"
    rf"(?P<open>[{_OPENING}*(\[_（【]{{0,4}})(?P<letter>[A-EＡ-Ｅ])(?P<shut>[*_\"']{{0,3}})"
    r"(?:[.):\]．：）】、。]{1,2}|[ ][-–—](?=["
    r" ]))[*_]{0,3}(?(line)|(?![A-Za-z]\.))(?P<wide>(?=[\s\"'“‘«「]|\Z))?",
    re.IGNORECASE | re.MULTILINE,
)
_LETTERED = re.compile(r"[(（]?(?P<letter>[A-DＡ-Ｄ])(?:[.):](?=\s|$)|[．：）、])", re.IGNORECASE)
_OF_OTHERS = re.compile(
    r"(?i:\b(?:all|both|none|neither|either|any|two|three) (?:of )?(?:the )?"
    r"(?:above|below|these|those|them|others?|answers|options|choices|statements)\b)"
    r"|(?i:\bthe (?:above|former|latter|(?:first|last|other) (?:two|three))\b)"
    r"|(?i:\b(?:options?|answers?|choices?)) \(?[A-D]\b|\b[A-D]\)?(?:,| and| or| &|/) ?\(?[A-D]\b"
)
_ESCAPED = re.compile(r"\\(?=[\"'`*_#()\[\]<>$&%])")
Mark = re.Match[str]


def has_words(text: str) -> bool:
    """Whether any letter or digit stands in `text`."""
    return any(character.isalnum() for character in text)


def unescaped(text: str) -> str:
    """A text without the backslashes that Python, JSON or Markdown put before quotes, brackets and
    marks.
    """
    return _ESCAPED.sub("", text)


def read_options(body: str) -> tuple[tuple[str, ...], str]:
    """Read the options, one a line or all in one line, and what is wrong with them."""
    body = unescaped(body).strip()
    if not has_words(body):
        return (), "missing_options"
    if body[0] + body[-1] in ("[]", "{}"):
        body = body[1:-1].strip()
    marks = _marks(body)
    if not marks:
        return (), "not_four_options"
    limits = [*(mark.start() for mark in marks[1:]), len(body)]
    return check_options(
        [_option(mark, body[mark.end() : n]) for mark, n in zip(marks, limits, strict=True)]
    )


def _marks(body: str) -> list[Mark]:
    """The marks of A to D; none where they are not four, or could be others.

    Initials and abbreviations look like marks. So the surest kind of mark that gives an A and a B
    decides: at the beginning of a line, after a quote, after a comma, with a blank after it, any.
    """
    found = list(_MARK.finditer(body))
    if not found or _letter(found[0]) != "A":
        return []
    case = found[0]["letter"].isupper()
    found = [mark for mark in found if mark["letter"].isupper() == case]
    quote = next((c for c in found[0]["open"] if c in _OPENING), "")
    kinds: tuple[Callable[[Mark], bool], ...] = (
        lambda mark: mark["line"] is not None,
        lambda mark: quote != "" and quote in mark["open"],
        lambda mark: mark["after"] is not None and mark["wide"] is not None,
        lambda mark: mark["after"] is not None,
        lambda mark: mark["wide"] is not None,
        lambda mark: True,
    )
    for kind in kinds:
        marks = [mark for mark in found[1:] if kind(mark)]
        first = _in_order(marks, LETTERS[1:])
        if first:
            last = _in_order(marks[::-1], LETTERS[:0:-1])[::-1]
            fifth = first[-1:] and _in_order(marks[marks.index(first[-1]) :], "E")
            return [found[0], *first] if first == last and len(first) == 3 and not fifth else []
    return []


def _in_order(marks: Sequence[Mark], letters: str) -> list[Mark]:
    """The next mark of each of the letters in turn, as far as there are any."""
    found: list[Mark] = []
    for mark in marks:
        if len(found) < len(letters) and _letter(mark) == letters[len(found)]:
            found.append(mark)
    return found


def _letter(mark: Mark) -> str:
    return unicodedata.normalize("NFKC", mark["letter"]).upper()


def _option(mark: Mark, text: str) -> str:
    """The words of one option; a closing quote goes if one was opened before the letter and not
    shut after it.
    """
    text = " ".join(text.strip().partition("\n\n")[0].split()).rstrip(_BETWEEN)
    if "*" in mark["open"]:
        text = text.rstrip("*_")
    if set(mark["open"]) & set(_QUOTES) and not set(mark["shut"]) & set(_QUOTES):
        text = text[:-1] if text and text[-1] in _QUOTES else text
    elif len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1]
    return text.strip(_BETWEEN)


def check_options(options: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The options and what is wrong with them; none of them unless there are four."""
    if len(options) != len(LETTERS):
        return (), "not_four_options"
    if not all(has_words(option) for option in options):
        return tuple(options), "empty_option"
    return tuple(options), (
        "repeated_options" if len({plain(option) for option in options}) < 4 else ""
    )


def without_letters(options: Sequence[str]) -> list[str]:
    """The options without `A.` to `D.` before them, if each begins with its own letter."""
    marks = [_LETTERED.match(option) for option in options]
    if "".join(_letter(mark) if mark else "-" for mark in marks) != LETTERS[: len(options)]:
        return list(options)
    return [
        option[mark.end() :].strip() for mark, option in zip(marks, options, strict=True) if mark
    ]


def read_letter(answer: str, options: Sequence[str]) -> tuple[str, str]:
    """The letter that an answer means, by its first line if that names one, or the answer and a
    reason.

    An option's text inside a sentence is no answer here: in data, what is not sure is set aside.
    """
    found = meant(answer.partition("\n")[0], options)
    found = found if found.letters else meant(answer, options)
    if len(found.letters) == 1:
        return next(iter(found.letters)), ""
    if not found.letters:
        return answer, "answer_not_an_option"
    return answer, "answer_contradicts_options" if len(found.named) == 1 else "several_answers"


def shuffle(
    question: str, options: Sequence[str], letter: str, *, seed: int, name: str
) -> tuple[list[str], str] | None:
    """The options in an order drawn from `seed` and `name`, and the right one's new letter.

    None where the question or an option speaks of other options or their letters ("All of the
    above").
    """
    if any(_OF_OTHERS.search(text) for text in (question, *options)):
        return None
    order = sorted(range(len(options)), key=lambda i: seeded(seed, name, str(i)))
    return [options[i] for i in order], LETTERS[order.index(LETTERS.index(letter))]
