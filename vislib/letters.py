"""Which option an answer means: a strict and a lenient reading, for the data and for benchmarks.

VisCon-100K (sections 3.3 and 5.2) is silent on this. A strict reader counts "The answer is B." as
wrong, so that a model is punished for its form; a greedy one finds an A in "A cat". The strict
reading takes the letter alone. The lenient one also takes a letter that a sentence names and an
option's own text, and gives up where two options could be meant: no guess is made.
"""

import re
import unicodedata
from collections.abc import Sequence, Set
from typing import NamedTuple

from vislib.media.words import UNSPACED

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SCRIPT = rf"{UNSPACED}가-힣"  # scripts that set no blank between a letter and the word beside it
_STRICT = re.compile(r"\(?([A-Z])[.)]?")
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
_DENIAL = re.compile(
    r"\b(?:not?|never|neither|nor|none|cannot|without|except)\b|n['’]t\b|不", re.IGNORECASE
)
_CLAUSE_ENDS = re.compile(r"[.,;:!?\n。、]")
_CLAUSE = 80  # characters of a clause that are searched for a denial
_QUOTES = " \t\r\n\"'“”‘’«»「」『』`*_.,;:!?。、"
# An option's text as a whole answer, its letter perhaps before it; and in a list, as "C. grey".
_WHOLE = r"\A(\(?{letter}[\s.:)\]、,–—-]{{1,4}})?{option}\Z"
_LISTED = r"\b{letter}[.:)] {option}"
# Letters that an option's text has if it is found inside a sentence: "no" stands in too many.
_LEAST = 3


class Meant(NamedTuple):
    """Letters that an answer names, and letters of the options whose text it gives."""

    named: Set[str] = frozenset()
    told: Set[str] = frozenset()

    @property
    def letters(self) -> Set[str]:
        """All of them: an answer is understood if there is one."""
        return self.named | self.told


def strict_letter(answer: str, letters: str = LETTERS) -> str:
    """The letter, if the answer is that alone (perhaps with a full stop or brackets), else ""."""
    match = _STRICT.fullmatch(answer.strip())
    return match[1] if match and match[1] in letters else ""


def lenient_letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the one option that the answer means, or "" where none or several could be
    meant.

    What `meant` finds decides; after it an option's text in a sentence that denies nothing.
    """
    letters = meant(answer, options).letters or _quoted_inside(_normal(answer), _texts(options))
    return "".join(letters) if len(letters) == 1 else ""


def meant(answer: str, options: Sequence[str]) -> Meant:
    """The options that an answer means by their letter, or by their text alone.

    Asked in turn, the first that finds anything decides: the whole answer is a letter, or an
    option's text, its letter perhaps before it; or several letters; a letter opens a line or is
    named by a clause that denies nothing; one stands in brackets where the answer denies nothing.
    """
    text = _normal(answer)
    texts = _texts(options)
    alone = _letters_alone(text, texts)
    told = _with_text(_WHOLE, text, texts)
    # The surest reading first; the first that finds anything decides.
    if told and len(alone) != 1:
        return Meant(told=told)
    if alone:
        return Meant(named=alone)
    found = _named(text, texts)
    if found.letters or _DENIAL.search(text):
        return found
    return Meant(named=texts.keys() & _BRACKETED.findall(text))


def plain(text: str) -> str:
    """A text as it is compared: case, width, white space, and signs around it apart."""
    return " ".join(
        _MARKUP.sub("", unicodedata.normalize("NFKC", text)).strip(_QUOTES).casefold().split()
    )


def _texts(options: Sequence[str]) -> dict[str, str]:
    return {letter: plain(option) for letter, option in zip(LETTERS, options, strict=False)}


def _normal(answer: str) -> str:
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
        if (letter := match[1].upper()) in texts and not _DENIAL.search(clause):
            # A letter with another option's text is unsure: both are noted.
            rest = text[match.end() :].partition("\n")[0].lstrip(" .:)]")
            named |= {letter} | _with_text(_LISTED, rest, texts)
            told |= _with_text(_WHOLE, rest, texts)  # "A: red" where red is B is unsure
    return Meant(named, told)


def _quoted_inside(text: str, texts: dict[str, str]) -> set[str]:
    """Options whose text stands as whole words in a sentence; one inside a longer one that is found
    does not count.
    """
    spoken = plain(text)
    found = set[str]()
    # The longest first: "green" within "dark green" is not said.
    for letter, option in sorted(texts.items(), key=lambda item: -len(item[1])):
        if len(option) >= _LEAST or option.isdigit() or not option.isascii():
            whole = rf"(?<![a-z0-9]){re.escape(option)}(?![a-z0-9])"
            spoken, times = re.subn(whole, "\0", spoken)
            if times:
                found.add(letter)
    return set() if _DENIAL.search(spoken) else found
