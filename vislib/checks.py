"""Rules that set a caption, a question or an answer aside: how models fail (VisCon-100K, sections
3.2 and 3.3).

DenseFusion-1M removed incomplete and repetitive captions by hand: here `truncation` and
`repetition` do. Each rule reads one text and says what offends in it. All take linear time, and in
doubt a text passes. Words in quotation marks speak for what they quote, a sign or a page, never for
the model: most rules leave them out.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from vislib.media.words import UNSPACED
from vislib.runs.errors import InputError

RULES = {
    "refusal": "the model declines, or speaks of itself",
    "repetition": (
        "a good part of the text is there twice or more, word for word or but for one thing in a"
        " sentence"
    ),
    "truncation": "the text ends in mid-sentence",
    "leakage": (
        "it holds marks or words of the prompt or of the chat format, or speaks of the text it was"
        " made from"
    ),
    "coordinates": "it prints boxes, coordinates or scores of the priors",
    "language": "it is neither in the language asked for nor, for `page`, in English",
}

_QUOTED = re.compile(
    '"[^"\n]{0,2000}"'
    "|“[^“”\n]{0,2000}”"
    "|„[^„“\n]{0,2000}“"  # German
    "|«[^«»\n]{0,2000}»"
    "|「[^「」\n]{0,2000}」"
    "|『[^『』\n]{0,2000}』"
    "|`[^`\n]{0,2000}`"  # code
    r"|(?<!\w)['‘](?:[^'‘’\n]|(?<=\w)['’](?=\w)){1,500}['’](?!\w)"  # around words
)
Words = tuple[str, ...]
_FILE = Path(__file__).with_suffix(".toml")
_PHRASES: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))


def _pattern(phrases: Sequence[str], before: str = "") -> re.Pattern[str]:
    """Any of the `phrases` after `before`; names of parts stand for the parts, which may name those
    before them.
    """
    text = "|".join(phrases)
    for name, part in reversed(_PHRASES["parts"].items()):
        text = text.replace(name, part)
    return re.compile(f"{before}(?:{text})", re.IGNORECASE | re.MULTILINE)


_REFUSAL = _pattern(_PHRASES["refusal"]["any"], r"(?:\A|[.!?。！？\n])[\s*_>#(-]{0,5}(?=[^\W_])")
_LEAKS = _pattern(_PHRASES["leakage"]["any"])
_OPENERS = _pattern(_PHRASES["leakage"]["start"], r"\A\W{0,4}")
_BOXES = _pattern(_PHRASES["coordinates"]["any"])

_TOKEN = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w){{1,30}}|([^\w\s])\1{{0,29}}")
_GRAM = 8  # tokens that repeat together
_CHARACTERS = 24  # the same in scripts without spaces, where a token is a character
_FEWEST = 24  # repeated tokens: people repeat a line, too
_SHARE = 0.4  # of the text that repeats
_ROUNDS = 3  # times that a passage stands in a row

_BREAK = re.compile(r"(?<=[.!?])\s+")
_ALIKE = 5  # sentences of one frame that are a loop
_FRAME = 3  # words of a frame, at least
_GAP = 3  # words that differ in it, at most
_FRAMED = 30  # words of a sentence that is looked at: the pairs of its parts grow with it

_SENTENCE = re.compile(r"[^\W\d_]{2}[.!?][\"”’»)\]]{0,3}\s+(?=\S)")
# Ends that stop in mid-sentence in any text of a few words, and in one that has sentences.
_OPEN_END = re.compile(
    r"[,:(\[“„«‘「『（、，：]\Z|(?<![\w'’])(?:the|a|an|and|or|its|their|our|your|my|whose|than)\Z"
)
_NO_END = re.compile(
    r"\b(?:is|are|was|were|has|with|of|from|into|in|on|at|by|for|to|that|which|while)\Z"
)
_WHOLE_END = re.compile(r"[^\w\s]\Z|(?:://|www\.|@)\S+\Z")  # a sign, an address
_LIST_ITEM = re.compile(r"\s*(?:[-*•–+>|#]|\(?\w{1,3}[.):])\s")

_LEAST = 60  # bytes of a text whose language can be told
_SURE = 0.9  # probability of the text's language from which it counts
_MAYBE = 0.2  # probability from which a page may be in a language
_DOUBT = 0.02  # probability of the wanted languages that lets a text pass
_LONGEST = 6000  # characters whose language is looked at
_PART = 200  # characters of a page that are looked at together


class Checks:
    """The rules `names`, in the order of `RULES`, and the `language` of texts: `page` (or English),
    or a code.
    """

    def __init__(self, names: Collection[str], language: str = "page") -> None:
        if unknown := sorted(set(names) - set(RULES)):
            raise InputError(f"checks: {unknown[0]!r} is none of {', '.join(RULES)}")
        # Its model is loaded for the rule alone.
        codes = ["page", *sorted(_identifier().labels)] if "language" in names else [language]
        if language not in codes:
            raise InputError(
                f"language is {language!r}; take page, or one of the codes {', '.join(codes[1:])}"
            )
        self.names = [name for name in RULES if name in names]
        self.language = language

    def fault(self, text: str, *, prompt: str = "", page: str = "") -> tuple[str, str]:
        """The first rule that `text` fails and what it found; two empty strings if there is none.

        `prompt` is the template by which it was asked for, `page` the text around the image.
        """
        said = _QUOTED.sub("“”", text.replace("’", "'"))
        # For `page`, none: `foreign` asks the page itself.
        wanted = () if self.language == "page" else (self.language,)
        rules: dict[str, Callable[[], str]] = {
            "refusal": lambda: _found(_REFUSAL, said),
            "repetition": lambda: repetition(text) or loop(text),
            "truncation": lambda: truncation(text),
            "leakage": lambda: _found(_LEAKS, said) or _found(_OPENERS, said) or echo(said, prompt),
            "coordinates": lambda: _found(_BOXES, said),
            "language": lambda: foreign(said, page, wanted=wanted),
        }
        for name in self.names:
            if found := rules[name]():
                return name, found
        return "", ""


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[0].strip() if match else ""


def repetition(text: str) -> str:
    """Where a text repeats if much of it stood before, or if a passage stands there several times
    in a row; else "".

    A token is a word, a sign, or a character of a script without spaces.
    """
    tokens = [match[0] for match in _TOKEN.finditer(text.casefold())]
    characters = sum("\u0e00" <= token < "\uac00" for token in tokens)
    size = _CHARACTERS if 2 * characters > len(tokens) else _GRAM
    last: dict[Words, int] = {}
    again = 0  # tokens that repeat
    until = 0  # where they end
    distance = 0  # at which a passage stood before
    since = 0  # how long at this one
    for at, gram in enumerate(_grams(tokens, size)):
        before = last.get(gram)
        last[gram] = at
        if before is None:
            continue
        again += at + size - max(at, until)
        until = at + size
        since = since + 1 if at - before == distance else 1
        distance = at - before
        looped = since + size - 1 + distance  # tokens of the passage in all its rounds
        if again < _FEWEST:
            continue
        if again > _SHARE * len(tokens) or looped >= max(_FEWEST, _ROUNDS * distance):
            return " ".join(tokens[before : before + 20])
    return ""


def loop(text: str) -> str:
    """The sentence that much of a text is built of, with another thing in it each time; "" if there
    is none.

    `There is a cup on the table. There is a plate on the table.` and so on: captioners run dry this
    way. Sentences that differ in a number are no loop: so are the values of a chart told.
    """
    parts = _BREAK.split(text.casefold())
    sentences = [re.findall(r"\w+", part) for part in parts]
    alike: dict[tuple[Words, Words], list[list[str]]] = defaultdict(list)
    for words in sentences:
        if len(words) <= _FRAMED:
            for frame in set(_frames(words)):
                alike[frame].append(words)
    total = sum(map(len, sentences))
    for framed in alike.values():
        if len(framed) >= _ALIKE and sum(map(len, framed)) > _SHARE * total:
            return " ".join(framed[0])
    return ""


def _frames(words: Sequence[str]) -> Iterator[tuple[Words, Words]]:
    """What stands before and after each gap of a sentence."""
    for gap in range(1, _GAP + 1):
        if len(words) - gap < max(_FRAME, 1.5 * gap):
            return
        for begin in range(len(words) - gap + 1):
            end = begin + gap
            if not any(map(str.isdigit, words[begin:end])):
                yield tuple(words[:begin]), tuple(words[end:])


def truncation(text: str) -> str:
    """The end of a text that stops in mid-sentence; "" if it may be whole, as a label, a list or an
    address is.
    """
    body = text.rstrip(" \t\n*_~")
    _, _, line = body.rpartition("\n")
    if len(body.split()) > 3 and _OPEN_END.search(body):
        return body[-60:]
    sentences = list(_SENTENCE.finditer(body))
    if len(sentences) < 2 or _WHOLE_END.search(body) or _LIST_ITEM.match(line):
        return ""
    last = sentences[-1]
    if "\n" in body[last.start() :]:  # a title or a label after it
        return ""
    rest = body[last.end() :]
    return rest[-60:] if len(rest.split()) > 4 or _NO_END.search(rest) else ""


def echo(text: str, prompt: str) -> str:
    """What a text holds of its prompt's own words: a line, or `_GRAM` words in a row; "" if
    nothing.
    """
    lines, grams = _fixed(prompt)
    for line in text.split("\n"):
        if line.strip() in lines:
            return line.strip()
    words = re.findall(r"\w+", text.casefold())
    for gram in _grams(words):
        if gram in grams:
            return " ".join(gram)
    return ""


@cache
def _fixed(prompt: str) -> tuple[frozenset[str], frozenset[Words]]:
    """Lines of a prompt that are neither its fields nor marks of the format, and its grams."""
    # Two words are a title; what begins with < or " is an example of the format to be written.
    lines = [line for line in prompt.split("\n") if len(line.split()) > 2]
    lines = [line.strip() for line in lines if line[0] not in '<"']
    said = re.sub(r"\{\{\w+\}\}", "", prompt)
    words = re.findall(r"\w+", said.casefold())
    return frozenset(lines), frozenset(_grams(words))


def _grams(words: Sequence[str], size: int = _GRAM) -> Iterator[Words]:
    return zip(*(words[n:] for n in range(size)), strict=False)


def foreign(text: str, page: str = "", *, wanted: Collection[str] = ()) -> str:
    """The language of a text that is surely in none of `wanted` (none given: English and the
    page's); else "".

    A short text passes, and one of which a half, or what is in Latin letters, could be in a wanted
    language.
    """
    text = text[:_LONGEST]
    surest, likely = _identifier().rank(text)[0]
    if len(text.encode()) < _LEAST or likely < _SURE:
        return ""
    half = len(text) // 2
    # A name or a quotation in another script must not decide for the rest.
    latin = " ".join(re.findall("[!-\u024f]+", text))
    pieces = text, text[:half], text[half:], latin
    known = set(wanted) or _of_page(page)
    return "" if known & _codes(pieces, _LEAST // 2, _DOUBT) else str(surest)


@lru_cache(maxsize=64)  # captions and questions of one page come together
def _of_page(page: str) -> set[str]:
    """English, and whatever any part of a page may be written in; all languages for a page of a few
    words.
    """
    if len(page.encode()) < _LEAST:
        words = re.search(r"[^\W\d]", page)
        return set(_identifier().labels) if words else {"en"}
    parts = [page[at : at + _PART] for at in range(0, len(page), _PART)]
    # The last part may be short, and scripts other than Latin stand in few words of some pages.
    others = " ".join(re.findall("[^\0-\u024f]+", page[:_LONGEST]))
    parts += [page[-_PART:], others]
    return {"en"} | _codes(parts, _LEAST, _MAYBE)


def _codes(texts: Iterable[str], least: int, likely: float) -> set[str]:
    """The languages that any of the texts of `least` bytes may be in."""
    codes = set()
    for text in texts:
        if len(text.encode()) >= least:
            ranked = _identifier().rank(text)
            codes |= {code for code, probability in ranked if probability > likely}
    return codes


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Codes of three letters are kin of those of two, and would share their probability.
    identifier.set_languages([code for code in identifier.labels if len(code) == 2])
    return identifier
