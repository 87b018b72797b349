"""Options of multiple-choice rounds, and which of them an answer means (VisCon-100K, Table 4).

Options stand one a line or all in one line, quoted or not, with their letters in many forms and
scripts; an answer is a letter, a letter with its option's text, the text alone, or a sentence that
names a letter: replies to benchmarks are read by the same rule. Each fault has a reason of
`qa_format.REASONS`. Models favour some letters as the right one, so options can be put in an order
drawn by hash.
"""

import re
import unicodedata
from collections.abc import Sequence, Set
from typing import NamedTuple

from vislib.media.words import UNSPACED
from vislib.runs.seeding import seeded

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of benchmarks, which may have more options
LETTERS = ALPHABET[:4]
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
_SCRIPT = rf"{UNSPACED}가-힣"  # scripts that set no blank between a letter and the word beside it
_WRAPPERS = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|rm)?|math(?:bf|rm))\{([^{}]{0,200})\}", re.IGNORECASE
)
_MARKUP = re.compile(
    r"</?(?:answer|response|b|strong|i|em)>|\*{2,3}|`|\\(?=[()\[\]])|\$(?=\s?\w\s?\$)|(?<=\w)\$"
)
_FILLING = re.compile(  # words of an answer beside its letters: they decide nothing
    r"the|correct|right|best|final|answers?|options?|choices?|letters?|is|are|and|or"
    r"|antwort|r[ée]ponse|respuesta|risposta|resposta|ответ"
    r"|(?:正确|正確|的|答案|答え|正解|选择|選擇|选项|選項|選択肢|应选|選|选|项|項|是|为|為|は|です|と|和|或"
    r"|정답|답|은|는|입니다)+",
    re.IGNORECASE,
)
_WORDS = re.compile(rf"[{_SCRIPT}]+|[^\W{_SCRIPT}]+")
_LETTER_ENDS = (
    rf"(?![^\W{_SCRIPT}])"
    rf"(?=\s*(?:$|[.;:!)\]\"'”’*。、{_SCRIPT}]|,(?!\s*(?:or|and)?\s*[A-Z]\b)|["
    r" ](?:because|since)\b))"
)
# "B: red", "(B) red", "b) red", "B - red", "B is correct", at the start of a line, or "B" on one
_OPENS = re.compile(
    rf"^[\s(\[\"'“*]{{0,4}}([A-Z])(?:[\s*]{{0,3}}[.:)\]、。][\s*]{{0,3}}(?=\s|$|[{_SCRIPT}])"
    r"(?!\s*(?:(?:or|and)\s*[(\[]?[A-Z]\b|is(?:n['’]t|\s+not)\b))|[ ][-–—][ ]|[ *\"'”]{0,3}$"
    r"|,?[ ](?:because|since)\b|[ ]is[ ](?:the[ ])?(?:correct|right|best)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_NAMED = re.compile(  # "The answer is B.", "Answer: (B)", "I choose B", "option B", "答案是B"
    r"(?:\b(?:answer|option|choice|letter|is|it['’]s|be|choose|chose|pick|select|say|think|with"
    r"|(?:antwort|réponse|respuesta|risposta|resposta|ответ)(?:\s(?:ist|est|es|è|é))?)"
    r"|(?<!不)(?:答案|答え|正解|选项?|選項?|選択肢|정답|답)(?:是|为|為|は|은|는)?)"
    rf"\s*:?\s*[(\[\"'“*]{{0,3}}([A-Z]){_LETTER_ENDS}",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
DENIAL = re.compile(
    r"\b(?:not?|never|neither|nor|none|cannot|without|except)\b|n['’]t\b|不", re.IGNORECASE
)
_CLAUSE_ENDS = re.compile(r"[.,;:!?\n。、]")
_CLAUSE = 80  # characters of a clause that are searched for a denial
_QUOTES = " \t\r\n\"'“”‘’«»「」『』`*_.,;:!?。、"
# An option's text as a whole answer, its letter perhaps before it; and in a list, as "C. grey".
_WHOLE = r"\A(\(?{letter}[\s.:)\]、,–—-]{{1,4}})?{option}\Z"
_LISTED = r"\b{letter}[.:)] {option}"
Mark = re.Match[str]


class Meant(NamedTuple):
    """Letters that an answer names, and letters of the options whose text it gives."""

    named: Set[str] = frozenset()
    told: Set[str] = frozenset()

    @property
    def letters(self) -> Set[str]:
        """All of them: an answer is understood if there is one."""
        return self.named | self.told


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
    return [f"{letter}. {text}" for letter, text in zip(ALPHABET, options, strict=False)]


def options_in(prompt: str) -> list[str]:
    """Texts of the options that a prompt lists one a line, `A. …` onwards; none if it lists
    none.
    """
    found: list[str] = []
    for letter, text in re.findall(r"^[ \t]*([A-Z])\.[ \t](.*)", prompt, re.MULTILINE):
        # A sentence may begin as the list does: the list is what follows the last A.
        if letter == "A":
            found = []
        if ALPHABET.index(letter) == len(found):
            found.append(text.strip())
    return found if len(found) > 1 else []


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


def meant(answer: str, options: Sequence[str]) -> Meant:
    """The options that an answer means by their letter, or by their text alone.

    Asked in turn, the first that finds anything decides: the whole answer is a letter, or an
    option's text, its letter perhaps before it; or several letters; a letter opens a line or is
    named by a clause that denies nothing; one stands in brackets where the answer denies nothing.
    """
    text = normal(answer)
    texts = texts_by_letter(options)
    alone = _letters_alone(text, texts)
    told = _with_text(_WHOLE, text, texts)
    # The surest reading first; the first that finds anything decides.
    if told and len(alone) != 1:
        return Meant(told=told)
    if alone:
        return Meant(named=alone)
    found = _named(text, texts)
    if found.letters or DENIAL.search(text):
        return found
    return Meant(named=texts.keys() & _BRACKETED.findall(text))


def plain(text: str) -> str:
    """A text as it is compared: case, width, white space, and signs around it apart."""
    return " ".join(
        _MARKUP.sub("", unicodedata.normalize("NFKC", text)).strip(_QUOTES).casefold().split()
    )


def texts_by_letter(options: Sequence[str]) -> dict[str, str]:
    """The `plain` text of each option by its letter."""
    return {letter: plain(option) for letter, option in zip(ALPHABET, options, strict=False)}


def normal(answer: str) -> str:
    """An answer in half-width letters, without LaTeX boxes and tags around its letter."""
    text = unicodedata.normalize("NFKC", answer)
    for _ in range(2):  # \boxed{\text{B}}
        text = _WRAPPERS.sub(r"\1", text)
    return _MARKUP.sub("", text).strip()


def _letters_alone(text: str, texts: dict[str, str]) -> set[str]:
    """Letters of an answer that holds nothing else, as "b", "(B)", "Answer: B" and "B B B"."""
    # Words of all languages that only introduce a letter say nothing themselves.
    words = {word.upper() for word in _WORDS.findall(text) if not _FILLING.fullmatch(word)}
    return words if words <= texts.keys() else set()


def _with_text(form: str, text: str, texts: dict[str, str]) -> set[str]:
    """Letters of the options whose text stands in `text`, with its letter or without it, as `form`
    says.
    """
    said = plain(text)
    found = set[str]()
    for letter, option in texts.items():
        pattern = form.format(letter=letter, option=re.escape(option))
        if option and re.search(pattern, said, re.IGNORECASE):
            found.add(letter)
    return found


def _named(text: str, texts: dict[str, str]) -> Meant:
    named = set[str]()
    told = set[str]()
    for match in (*_OPENS.finditer(text), *_NAMED.finditer(text)):
        # "It is not A, it is B": a denial reaches to the end of its clause.
        clause = _CLAUSE_ENDS.split(text[max(0, match.start(1) - _CLAUSE) : match.start(1)])[-1]
        if (letter := match[1].upper()) in texts and not DENIAL.search(clause):
            # A letter with another option's text is unsure: both are noted.
            rest = text[match.end() :].partition("\n")[0].lstrip(" .:)]")
            named |= {letter} | _with_text(_LISTED, rest, texts)
            told |= _with_text(_WHOLE, rest, texts)  # "A: red" where red is B is unsure
    return Meant(named, told)


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
