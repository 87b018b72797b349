"""Reading of the four options and of the letter in multiple-choice rounds (VisCon-100K, Table 4).

Options stand one a line or all in one line, quoted or not, with their letters in many forms and
scripts; an answer is a letter, a letter with its option's text, or the text alone. Each fault has a
reason of `qa_format.REASONS`. Models favour some letters as the right one, so options can be put in
an order drawn by hash.
"""

import re
import unicodedata
from collections.abc import Sequence

from vislib.letters import LETTERS as ALL_LETTERS
from vislib.letters import meant, plain
from vislib.media.words import UNSPACED
from vislib.runs.seeding import seeded

LETTERS = "ABCD"
Options = tuple[tuple[str, ...], str]  # their texts without letters, and what is wrong with them

# Bounded repeats only: the time stays linear in the length of any text.
_OPENING = "\"'“‘«‹「『`"
_QUOTE = f"[{_OPENING}”’»›」』]"
_BETWEEN = " ,;|/，、；"  # what stands between options in one line
_MARK = re.compile(
    # where an option may begin: a line, perhaps a list's; after a sign between options; a blank
    r"(?:"
    r"(?P<line>^[ \t]{0,8}(?:[-*•+][ \t]{1,3})?)"
    r"|(?P<after>[,;|/，、；][ \t]{0,8})"
    rf"|(?<=[\s{UNSPACED}])"
    r")"
    # its letter, in quotes, brackets or stars that end before or after it; E shows a fifth option
    rf"(?P<open>[{_OPENING}*(\[_（【]{{0,4}})"
    r"(?P<letter>[A-EＡ-Ｅ])"
    r"(?P<shut>[*_\"']{0,3})"
    # the sign after the letter; in `D.C.` within a line it is none
    r"(?:[.):\]．：）】、。]{1,2}|[ ][-–—](?=[ ]))"
    r"[*_]{0,3}"
    r"(?(line)|(?![A-Za-z]\.))"
    r"(?P<wide>(?=[\s\"'“‘«「]|\Z))?",
    re.IGNORECASE | re.MULTILINE,
)
_LETTERED = re.compile(
    r"[(（]?(?P<letter>[A-DＡ-Ｄ])(?:[.):](?=\s|$)|[．：）、])",
    re.IGNORECASE,
)
_OF_OTHERS = re.compile(
    # "All of the above", "the first two", "Both A and C": true at one place alone
    r"(?i:\b(?:all|both|none|neither|either|any|two|three) (?:of )?(?:the )?"
    r"(?:above|below|these|those|them|others?|answers|options|choices|statements)\b)"
    r"|(?i:\bthe (?:above|former|latter|(?:first|last|other) (?:two|three))\b)"
    r"|(?i:\b(?:options?|answers?|choices?)) \(?[A-D]\b"
    r"|\b[A-D]\)?(?:,| and| or| &|/) ?\(?[A-D]\b"
)
_ESCAPED = re.compile(r"\\(?=[\"'`*_#()\[\]<>$&%])")
Mark = re.Match[str]


def has_words(text: str) -> bool:
    """Whether any letter or digit stands in `text`."""
    return any(map(str.isalnum, text))


def unescaped(text: str) -> str:
    """A text without the backslashes that Python, JSON or Markdown put before quotes, brackets and
    marks.
    """
    return _ESCAPED.sub("", text)


def lettered(options: Sequence[str]) -> list[str]:
    """The options as lines `A. ...`, `B. ...`, and so on."""
    return [f"{letter}. {text}" for letter, text in zip(ALL_LETTERS, options, strict=False)]


def read_options(body: str) -> Options:
    """Read the options that stand in a text, one a line or all in one line."""
    body = unescaped(body).strip()
    if not has_words(body):
        return (), "missing_options"
    if body[0] + body[-1] in ("[]", "{}"):  # as Python or JSON writes a list
        body = body[1:-1].strip()
    marks = _marks(body)
    ends = [*(mark.start() for mark in marks[1:]), len(body)]
    return _checked([_option(body, mark, end) for mark, end in zip(marks, ends, strict=False)])


def read_listed(options: Sequence[str]) -> Options:
    """Read options that stand apart; `A.` to `D.` before them go if each has its own."""
    marks = [_LETTERED.match(option) for option in options]
    letters = [_letter(mark) for mark in marks if mark]
    if letters == list(LETTERS) and all(marks):
        options = [_LETTERED.sub("", option, count=1).strip() for option in options]
    return _checked(list(map(unescaped, options)))


def _marks(body: str) -> list[Mark]:
    """The marks of A to D; none where they are not four, or could be others."""
    found = list(_MARK.finditer(body))
    if not found or _letter(found[0]) != "A":
        return []
    first = found[0]
    quotes = [sign for sign in first["open"] if sign in _OPENING]
    # In the case of the first: an `a.` among `A.` to `D.` is a word.
    capital = first["letter"].isupper()
    alike = [mark for mark in found[1:] if mark["letter"].isupper() == capital]
    # Initials and abbreviations look like marks. So the surest kind of mark that gives a B decides.
    line, after, wide = (
        [mark for mark in alike if mark[kind] is not None] for kind in ("line", "after", "wide")
    )
    quoted = [mark for mark in alike if quotes and quotes[0] in mark["open"]]
    for marks in (line, quoted, after, wide, alike):
        letters = "".join(map(_letter, marks))
        if "B" in letters:
            # One way alone to choose a B, a C and a D in this order, and no E after them.
            cut = re.fullmatch("[^B]*(B)[^BC]*(C)[^CD]*(D)[^DE]*", letters)
            if not cut:
                return [first]
            return [first, *(marks[cut.start(group)] for group in (1, 2, 3))]
    return []


def _letter(mark: Mark) -> str:
    return unicodedata.normalize("NFKC", mark["letter"]).upper()


def _option(body: str, mark: Mark, end: int) -> str:
    """The words of one option, without the quotes or stars around it."""
    paragraph, _, _ = body[mark.end() : end].strip().partition("\n\n")
    text = " ".join(paragraph.split())
    text = text.rstrip(_BETWEEN)
    if "*" in mark["open"]:
        text = text.rstrip("*_")
    opened = re.search(_QUOTE, mark["open"])
    shut = re.search(_QUOTE, mark["shut"])
    if opened and not shut:
        # A quote at the end closes what was opened before the letter.
        text = re.sub(rf"{_QUOTE}\Z", "", text)
    else:
        text = re.sub(rf"\A{_QUOTE}(.*){_QUOTE}\Z", r"\1", text)
    return text.strip(_BETWEEN)


def _checked(options: Sequence[str]) -> Options:
    if len(options) != len(LETTERS):
        return (), "not_four_options"
    fault = ""
    if not all(map(has_words, options)):
        fault = "empty_option"
    elif len(set(map(plain, options))) < len(options):
        fault = "repeated_options"
    return tuple(options), fault


def read_letter(answer: str, options: Sequence[str]) -> tuple[str, str]:
    """The letter that an answer means, by its first line if that names one, or the answer and a
    reason.

    An option's text inside a sentence is no answer here: in data, what is not sure is set aside.
    """
    # What follows the first line explains the choice, and may name other options.
    first, _, _ = answer.partition("\n")
    found = meant(first, options)
    if not found.letters:
        found = meant(answer, options)
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
    if any(map(_OF_OTHERS.search, (question, *options))):
        return None
    # By hash: the order of a question is the same in every run, whatever stands before it.
    order = sorted(range(len(options)), key=lambda place: seeded(seed, name, str(place)))
    right = order.index(LETTERS.index(letter))
    return [options[place] for place in order], LETTERS[right]
