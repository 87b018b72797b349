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
from collections.abc import Collection, Iterator, Sequence
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

_PAIRS = {'"': '"', "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』", "`": "`"}
_QUOTED = re.compile(
    "|".join(f"{a}[^{a}{b}\n]{{0,2000}}[{b}]" for a, b in _PAIRS.items())
    + r"|(?<!\w)['‘](?:[^'‘’\n]|(?<=\w)['’](?=\w)){1,500}['’](?!\w)"
)
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
_LEAKS = _pattern(_PHRASES["leakage"]["any"]), _pattern(_PHRASES["leakage"]["start"], r"\A\W{0,4}")
_BOXES = _pattern(_PHRASES["coordinates"]["any"])

_TOKEN = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w){{1,30}}|([^\w\s])\1{{0,29}}")
_GRAM, _CHARACTERS = (
    8,
    24,
)  # tokens that repeat together; in scripts without spaces, where a token is a character
_FEWEST, _SHARE, _ROUNDS = (
    24,
    0.4,
    3,
)  # repeated tokens in all; as a share of the text; times in a row

_BREAK = re.compile(r"(?<=[.!?])\s+")
_ALIKE, _FRAME, _GAP, _FRAMED = (
    5,
    3,
    3,
    30,
)  # sentences of one frame; words of a frame, of its gap, of a sentence

_SENTENCE = re.compile(r"[^\W\d_]{2}[.!?][\"”’»)\]]{0,3}\s+(?=\S)")
_OPEN_END = re.compile(
    r"[,:(\[“„«‘「『（、，：]\Z|(?<![\w'’])(?:the|a|an|and|or|its|their|our|your|my|whose|than)\Z"
)
_NO_END = re.compile(
    r"\b(?:is|are|was|were|has|with|of|from|into|in|on|at|by|for|to|that|which|while)\Z"
)
_WHOLE_END = re.compile(r"[^\w\s]\Z|(?:://|www\.|@)\S+\Z")
_LIST_ITEM = re.compile(r"\s*(?:[-*•–+>|#]|\(?\w{1,3}[.):])\s")

_LEAST, _SURE, _MAYBE, _DOUBT = (
    60,
    0.9,
    0.2,
    0.02,
)  # bytes; probabilities of the text's, page's, wanted languages
_LONGEST, _PART = 6000, 200  # characters whose language is looked at; of a page, at a time


class Checks:
    """The rules `names`, in the order of `RULES`, and the `language` of texts: `page` (or English),
    or a code.
    """

    def __init__(self, names: Collection[str], language: str = "page") -> None:
        if unknown := sorted(set(names) - set(RULES)):
            raise InputError(f"checks: {unknown[0]!r} is none of {', '.join(RULES)}")
        if "language" in names and language not in ("page", *(codes := _identifier().labels)):
            raise InputError(
                f"language is {language!r}; take page, or one of the codes"
                f" {', '.join(sorted(codes))}"
            )
        self.names, self.language = [name for name in RULES if name in names], language

    def fault(
        self, text: str, *, prompt: str = "", page: str = "", fragment: bool = False
    ) -> tuple[str, str]:
        """The first rule that `text` fails and what it found; two empty strings if there is none.

        `prompt` is the template by which it was asked for, `page` the text around the image. A
        `fragment` may end anywhere.
        """
        said = _QUOTED.sub("“”", text.replace("’", "'"))
        for name in self.names:
            match name:
                case "refusal":
                    found = _found(said, _REFUSAL)
                case "repetition":
                    found = repetition(text) or loop(text)
                case "truncation":
                    found = "" if fragment else truncation(text)
                case "leakage":
                    found = _found(said, *_LEAKS) or echo(said, prompt)
                case "coordinates":
                    found = _found(said, _BOXES)
                case _:
                    found = (
                        foreign(said, page)
                        if self.language == "page"
                        else foreign(said, wanted=(self.language,))
                    )
            if found:
                return name, found
        return "", ""


def _found(text: str, *patterns: re.Pattern[str]) -> str:
    matches = (pattern.search(text) for pattern in patterns)
    return next((match.group().strip() for match in matches if match), "")


def repetition(text: str) -> str:
    """Where a text repeats if much of it stood before, or if a passage stands there several times
    in a row; else "".

    A token is a word, a sign, or a character of a script without spaces.
    """
    tokens = [match.group() for match in _TOKEN.finditer(text.casefold())]
    size = (
        _CHARACTERS
        if 2 * sum("\u0e00" <= token < "\uac00" for token in tokens) > len(tokens)
        else _GRAM
    )
    last: dict[tuple[str, ...], int] = {}
    again = until = since = distance = (
        0  # tokens that repeat; where they end; how long at one distance, and which
    )
    for at, gram in enumerate(zip(*(tokens[n:] for n in range(size)), strict=False)):
        if (before := last.get(gram)) is not None:
            again += at + size - max(at, until)
            until = at + size
            since = since + 1 if at - before == distance else 1
            distance = at - before
            looped = since + size - 1 + distance  # tokens of the passage in all its rounds
            if again >= _FEWEST and (
                again > _SHARE * len(tokens) or looped >= max(_FEWEST, _ROUNDS * distance)
            ):
                return " ".join(tokens[before : before + 20])
        last[gram] = at
    return ""


def loop(text: str) -> str:
    """The sentence that much of a text is built of, with another thing in it each time; "" if there
    is none.

    `There is a cup on the table. There is a plate on the table.` and so on: captioners run dry this
    way. Sentences that differ in a number are no loop: so are the values of a chart told.
    """
    sentences = [re.findall(r"\w+", sentence) for sentence in _BREAK.split(text.casefold())]
    alike: dict[tuple[tuple[str, ...], ...], set[int]] = defaultdict(set)
    for number, words in enumerate(sentences):
        for gap in range(1, _GAP + 1) if len(words) <= _FRAMED else ():
            if len(words) - gap >= max(_FRAME, 1.5 * gap):
                for at in range(len(words) - gap + 1):
                    if not any(word.isdigit() for word in words[at : at + gap]):
                        alike[tuple(words[:at]), tuple(words[at + gap :])].add(number)
    total = sum(map(len, sentences))
    for numbers in alike.values():
        if (
            len(numbers) >= _ALIKE
            and sum(len(sentences[number]) for number in numbers) > _SHARE * total
        ):
            return " ".join(sentences[min(numbers)])
    return ""


def truncation(text: str) -> str:
    """The end of a text that stops in mid-sentence; "" if it may be whole, as a label, a list or an
    address is.
    """
    body = text.rstrip(" \t\n*_~")
    line = body[body.rfind("\n") + 1 :]
    if len(body.split()) > 3 and _OPEN_END.search(body):
        return body[-60:]
    sentences = list(_SENTENCE.finditer(body))
    if len(sentences) < 2 or _WHOLE_END.search(body) or _LIST_ITEM.match(line):
        return ""
    rest = body[sentences[-1].end() :]
    stops = len(rest.split()) > 4 or _NO_END.search(rest)
    return rest[-60:] if stops and "\n" not in body[sentences[-1].start() :] else ""


def echo(text: str, prompt: str) -> str:
    """What a text holds of its prompt's own words: a line, or `_GRAM` words in a row; "" if
    nothing.
    """
    lines, grams = _fixed(prompt)
    if found := next((line for line in text.split("\n") if line.strip() in lines), ""):
        return found.strip()
    words = re.findall(r"\w+", text.casefold())
    return " ".join(next((gram for gram in _grams(words) if gram in grams), ()))


@cache
def _fixed(prompt: str) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    lines = frozenset(
        line.strip() for line in prompt.split("\n") if len(line.split()) > 2 and line[0] not in '<"'
    )
    return lines, frozenset(
        _grams(re.findall(r"\w+", re.sub(r"\{\{\w+\}\}", "", prompt).casefold()))
    )


def _grams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[n:] for n in range(_GRAM)), strict=False)


def foreign(text: str, page: str = "", *, wanted: Collection[str] = ()) -> str:
    """The language of a text that is surely in none of `wanted` (none given: English and the
    page's); else "".

    A short text passes, and one of which a half, or what is in Latin letters, could be in a wanted
    language.
    """
    text = text[:_LONGEST]
    if len(text.encode()) < _LEAST or max(_languages(text).values()) < _SURE:
        return ""
    wanted = wanted or _of_page(page)
    for piece in (text, text[: len(text) // 2], text[len(text) // 2 :], _letters(text, latin=True)):
        if (
            len(piece.encode()) >= _LEAST // 2
            and sum(_languages(piece).get(code, 0.0) for code in wanted) > _DOUBT
        ):
            return ""
    return max(_languages(text), key=lambda code: _languages(text)[code])


def _letters(text: str, *, latin: bool) -> str:
    return " ".join("".join(c if (c < "\u0250") == latin else " " for c in text).split())


@lru_cache(maxsize=64)
def _of_page(page: str) -> frozenset[str]:
    """English, and whatever any part of a page may be written in; all languages for a page of a few
    words.
    """
    if len(page.encode()) < _LEAST:
        return frozenset(_identifier().labels if re.search(r"[^\W\d]", page) else ["en"])
    parts = [page[at : at + _PART] for at in range(0, len(page), _PART)]
    parts += [page[-_PART:], _letters(page[:_LONGEST], latin=False)]
    found = [_languages(part) for part in parts if len(part.encode()) >= _LEAST]
    return frozenset({"en", *(code for part in found for code, p in part.items() if p > _MAYBE)})


@lru_cache(maxsize=256)
def _languages(text: str) -> dict[str, float]:
    return dict(_identifier().rank(text))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(
        [code for code in identifier.labels if len(code) == 2]
    )  # the others are kin of these
    return identifier
