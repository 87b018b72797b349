"""Which option an answer means: a strict and a lenient reading (VisCon-100K, section 5.2, is silent on this).

A strict reader counts "The answer is B." as wrong, so that a model is punished for its form; a greedy one finds an A
in "A cat". The strict reading takes the letter alone. The lenient one also takes a letter that a sentence names and an
option's own text, and gives up where two options could be meant: no guess is made, and the share of answers that were
not understood stands beside every accuracy.
"""

import re
import unicodedata
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STRICT = re.compile(r"\(?([A-Z])[.)]?")
_LETTER_ENDS = r"(?=\s*(?:$|[.;:!)\]\"'”’*]|,(?!\s*(?:or|and)?\s*[A-Z]\b)|[ ](?:because|since)\b))"
_OPENS = re.compile(  # "B: red", "(B) red", "b) red", "B - red", "B is correct", at the start of a line, or "B" on one
    r"^[\s(\[\"'“*]{0,4}([A-Z])(?:[\s*]{0,3}[.:)\]][\s*]{0,3}(?=\s|$)"
    r"(?!\s*(?:(?:or|and)\s*[(\[]?[A-Z]\b|is(?:n['’]t|\s+not)\b))|[ ][-–—][ ]|[ *\"'”]{0,3}$"
    r"|,?[ ](?:because|since)\b|[ ]is[ ](?:the[ ])?(?:correct|right|best)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_NAMED = re.compile(  # "The answer is B.", "Answer: (B)", "I choose B", "option B"
    r"\b(?:answer|option|choice|letter|is|it['’]s|be|choose|chose|pick|select|say|think|with)\s*:?\s*[(\[\"'“*]{0,3}"
    rf"([A-Z])\b{_LETTER_ENDS}",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_DENIAL = re.compile(r"\b(?:not?|never|neither|nor|none|cannot|without|except)\b|n['’]t\b", re.IGNORECASE)
_CLAUSE_ENDS, _CLAUSE = re.compile(r"[.,;:!?\n]"), 80  # characters of a clause that are searched for a denial
_QUOTES = " \t\r\n\"'“”‘’«»`*_.,;:!?"
_CJK = "぀-ヿ㐀-鿿豈-﫿ｦ-ﾟ"
_LEAST = 3  # letters that an option's text has if it is found inside a sentence: "no" stands in too many


def strict_letter(answer: str, letters: str = LETTERS) -> str:
    """The letter, if the answer is that alone (perhaps with a full stop or brackets), else ""."""
    match = _STRICT.fullmatch(answer.strip())
    return match[1] if match and match[1] in letters else ""


def lenient_letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the one option that the answer means, or "" where none or several could be meant.

    Asked in turn, the first that finds anything decides: the whole answer is a letter, or an option's text; a letter
    opens a line or is named by a clause that denies nothing; one stands in brackets, or an option's text in a sentence,
    where the answer denies nothing.
    """
    letters, text = LETTERS[: len(options)], unicodedata.normalize("NFKC", answer).strip()
    texts = {letter: _plain(option) for letter, option in zip(letters, options, strict=True)}
    for found in (
        _letters_alone(text, letters),
        _quoted_whole(text, texts),
        _named(text, texts),
        set() if _DENIAL.search(text) else {match[1] for match in _BRACKETED.finditer(text)} & set(letters),
        _quoted_inside(text, texts),
    ):
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).strip(_QUOTES).casefold().split())


def _letters_alone(text: str, letters: str) -> set[str]:
    """Letters of an answer that holds nothing else, as "b", "(B)" and "B B B"."""
    words = [word.upper() for word in re.findall(r"\w+", text)]
    return set(words) if all(len(word) == 1 and word in letters for word in words) else set()


def _quoted_whole(text: str, texts: dict[str, str]) -> set[str]:
    return {letter for letter, option in texts.items() if option and option == _plain(text)}


def _named(text: str, texts: dict[str, str]) -> set[str]:
    found = set()
    for match in (*_OPENS.finditer(text), *_NAMED.finditer(text)):
        clause = _CLAUSE_ENDS.split(text[max(0, match.start(1) - _CLAUSE) : match.start(1)])[-1]
        if (letter := match[1].upper()) in texts and not _DENIAL.search(clause):
            rest = text[match.end() :].partition("\n")[0]
            found |= {letter} | _quoted_whole(rest, texts) | _listed(rest, texts)  # "A: red" where red is B is unsure
    return found


def _listed(line: str, texts: dict[str, str]) -> set[str]:
    """Options that a line repeats letter and all, as "B. green C. grey"."""
    spoken = _plain(line)
    return {o for o, option in texts.items() if option and re.search(rf"\b{o}[.:)] {re.escape(option)}", spoken, re.I)}


def _quoted_inside(text: str, texts: dict[str, str]) -> set[str]:
    """Options whose text stands as whole words in a sentence; one inside a longer one that is found does not count."""
    spoken, found = _plain(text), set()
    for letter, option in sorted(texts.items(), key=lambda item: -len(item[1])):
        if len(option) >= _LEAST or option.isdigit() or not option.isascii():
            before = spoken
            spoken = re.sub(rf"(?<![a-z0-9]){re.escape(option)}(?![a-z0-9])", "\0", spoken) if option else spoken
            found |= {letter} if spoken != before else set()
    return set() if _DENIAL.search(spoken) else found


def strict_yes_no(answer: str) -> str:
    """`yes` or `no`, if the answer is that word alone (case and a full stop apart), else ""."""
    word = answer.strip().rstrip(".").lower()
    return word if word in ("yes", "no") else ""


def lenient_yes_no(answer: str) -> str:
    """`yes` or `no`, if the answer begins with that word (not "yes or no") or holds only that one, else ""."""
    words: list[str] = re.findall(r"\w+", unicodedata.normalize("NFKC", answer).lower())
    said = {word for word in words if word in ("yes", "no")}
    if words and words[0] in said and words[1:2] != ["or"]:
        return words[0]
    return next(iter(said)) if len(said) == 1 else ""


def options_in(prompt: str) -> list[str]:
    """Texts of the options that a prompt lists one a line, `A. …` onwards; none if it lists none."""
    found: list[str] = []
    for line in prompt.splitlines():
        match = re.fullmatch(r"\s*([A-Z])\.\s(.*)", line)
        if match and match[1] in ("A", LETTERS[len(found) : len(found) + 1]):
            found = [*(found if match[1] != "A" else []), match[2].strip()]
    return found if len(found) > 1 else []


def word_count(text: str) -> int:
    """Words of an answer, by spaces; a Chinese or Japanese character counts as one."""
    return len(re.findall(rf"[{_CJK}]|[^\s{_CJK}]+", text))
