"""What a page says about one picture: its label, and the sentences that stand nearest (VisCon-100K, section 3.2).

Beside the page stands what experts found: visible text, and objects by label (DenseFusion-1M, Perceptual Fusion).

Only complete sentences are quoted, without navigation, code or links. Nearness to the picture counts most, then
words shared with the label. A rule that is not sure keeps silent: web text is long, and one sentence is enough.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from vislib.priors import Found, clearest, size

LANGUAGE: dict[str, Any] = tomllib.loads((Path(__file__).parent / "language.toml").read_text(encoding="utf-8"))
WORDS: dict[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in LANGUAGE["words"].items()}
PATTERNS = {name: f"(?:{'|'.join(parts)})" for name, parts in LANGUAGE["patterns"].items()}
_MARKS = re.compile(r"(<image>|<another-image>)")
_UNQUOTABLE, _EMPTY = (re.compile(PATTERNS[name], re.IGNORECASE) for name in ("unquotable", "empty_label"))
_LEANS = re.compile(rf"(?:{PATTERNS['dangling']}|{PATTERNS['order']})\b")
_PRONOUN = re.compile(r"\b(?:it|them|him|her|he|she|they)\b")
_ABBREVIATION = re.compile(rf"(?:^|[\s(]){PATTERNS['abbreviation']}\.$")
WORD = re.compile(r"[^\W\d_]{3}|[\u3040-\u9fff\uac00-\ud7a3]{2}")
_SOURCES = {  # what a kind's captions and questions may use beside the picture and the text that can be read in it
    "contextual": {"alt_text", "context"}, "non_contextual": set(), "fused": {"alt_text", "boxes"},
    "fused_contextual": {"alt_text", "context", "boxes"},
}  # fmt: skip
_VERBS = WORDS["be"] | WORDS["modal"] | {part for k in ("past", "present") for p in WORDS[k] for part in p.split(":")}
_NEAR = 400  # characters: at this distance from the picture nearness is halved
_SURE, _WORDS = 0.95, 0.7  # of a quoted text: the reader's score, and letters and digits as a share of its signs
_LARGER = 1.4  # times the size of the largest word: above it a number is the subject, below it the mark of an axis
_TEXTS, _OBJECTS = 6, 6  # texts that are quoted, labels that are named
_OTHER, _BEFORE = 500, 100  # characters added for another picture in between, and for text that comes before


@dataclass(frozen=True)
class Sentence:
    """A complete sentence of the page and how well it suits the picture."""

    text: str
    number: int  # neighbours in one paragraph differ by one
    score: float
    english: bool
    alone: bool  # neither leans on the sentence before nor tells the reader to do something


@dataclass(frozen=True)
class Evidence:
    """What may be said beside the measured facts; of a kind without a page, `sentences` and `context` are empty."""

    label: str  # what the picture is called: alternative text or figure caption
    sentences: tuple[Sentence, ...]  # best first
    context: str
    page: str  # everything that the page and the picture say, folded
    texts: tuple[str, ...]  # visible text that an expert read in the picture: the clearest, in reading order
    objects: tuple[str, ...] = ()  # what experts recognised in it, the surest first: `person (2)`, `dog`


def gather(sample: Mapping[str, Any], priors: Mapping[str, Any] | None, *, kind: str) -> Evidence:
    """Evidence of one 02 sample and its 05 priors, as far as a caption of that kind may use them."""
    found, uses = priors or {"texts": (), "boxes": ()}, _SOURCES[kind]
    context, alt = (str(sample.get(key) or "") if key in uses else "" for key in ("context", "alt_text"))
    label = _label(clean(alt), str(sample.get("image_url") or "")) or _figure_caption(context)
    objects = _objects(found["boxes"]) if "boxes" in uses else ()
    page = fold(" ".join((context, alt, *(str(text["text"]) for text in found["texts"]))))
    return Evidence(label, _ranked(context, label), context, page, _texts(found["texts"]), objects)


def _texts(found: Sequence[Found]) -> tuple[str, ...]:
    """The largest of the texts that were surely read; of those without a word, as on an axis, only the very large."""
    read = [dict(text, text=clean(text["text"])) for text in found if text["score"] >= _SURE]
    once = list({text["text"]: text for text in sorted(read, key=size) if _legible(text["text"])}.values())
    largest = max((size(text) for text in once if WORD.search(text["text"])), default=0.0)
    kept = [text for text in once if WORD.search(text["text"]) or size(text) > _LARGER * largest]
    return tuple(text["text"] for text in clearest(kept, _TEXTS))


def _legible(text: str) -> bool:
    signs = sum(map(str.isalnum, text))
    return len(text) <= 60 and signs > 1 and signs >= _WORDS * len(text.replace(" ", ""))


def _objects(boxes: Sequence[Found]) -> tuple[str, ...]:
    """Labels with their number where it is above one, by their best score."""
    counts = Counter(clean(box["label"]) for box in sorted(boxes, key=lambda box: (-box["score"], box["label"])))
    return tuple(f"{label} ({n})" if n > 1 else label for label, n in counts.items() if label)[:_OBJECTS]


def clean(text: str) -> str:
    """One line without pictographs, control characters and marks that our formats reserve."""
    unwanted = ("C", "So", "Sk")
    kept = (c for c in text if c.isspace() or c == "°" or not unicodedata.category(c).startswith(unwanted))
    return " ".join("".join(kept).replace("**", "").replace("<", "‹").replace(">", "›").split())


def fold(text: str) -> str:
    """Letters and digits in lower case, words between single spaces: for comparing."""
    return " ".join(("", *re.findall(r"[^\W_]+", text.casefold()), ""))


def stems(text: str) -> set[str]:
    """Content words of a text, cut to six letters so that inflections meet."""
    return {word[:6] for word in fold(text).split() if word not in WORDS["stop"] and len(word) > 2}


def script(text: str) -> str:
    """Script of the first letter: LATIN, CJK (kana too), ARABIC …"""
    name = next((unicodedata.name(c, "").split()[0] for c in text if c.isalpha()), "")
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name


def _label(alt: str, url: str) -> str:
    """The alternative text if somebody wrote it for readers, else nothing."""
    label = re.split(r"\s+[|·]\s+", alt)[0].strip(" .\"“”'-–:;,")
    stem = PurePosixPath(unquote(urlsplit(url).path)).stem
    machine = label.islower() and fold(label).replace(" ", "") == fold(stem).replace(" ", "")
    empty = machine or _EMPTY.fullmatch(label) or re.search(PATTERNS["file_label"], label)
    return "" if empty or not 3 <= len(label) <= 300 or not _balanced(label) else label


def _figure_caption(context: str) -> str:
    """The figure caption on the line after or before the picture."""
    before, mark, after = context.partition("<image>")
    for line in (after.strip().partition("\n")[0], before.strip().rpartition("\n")[2]) if mark else ():
        if match := re.fullmatch(PATTERNS["figure"], clean(line)):
            return match["label"].strip(" .")
    return ""


def _balanced(text: str) -> bool:
    return all(text.count(a) == text.count(b) for a, b in ("()", "“”", "[]", "「」")) and text.count('"') % 2 == 0


def _pieces(text: str) -> Iterator[str]:
    """Sentences of a text in order, "" between two lines; a line that was only wrapped goes on."""
    for line in re.sub(r"(?<=[^\s.!?:;。！？]{2})[ \t]*\n(?=[a-z(,])", " ", text).split("\n"):
        line, start = clean(line), 0
        for end in re.finditer(rf"{PATTERNS['end']}\s*", line):
            rest, piece = line[end.end() :], line[start : end.end()].strip()
            unfinished = _ABBREVIATION.search(piece) or (rest[:1].isdigit() and piece.endswith(("no.", "No.")))
            if not rest or not (unfinished or rest[0].islower()):
                yield piece
                start = end.end()
        yield ""


def _complete(text: str) -> bool:
    """Whether a piece of text reads as one whole sentence of prose."""
    if not text or _UNQUOTABLE.search(text) or not _balanced(text) or len(text) > 260:
        return False
    if script(text) == "CJK":
        return 12 <= len(text) <= 140 and text[-1] in "。！？"
    words = text.split()
    letters = sum(c.isalpha() or c.isspace() for c in text) / len(text)
    capitals = sum(w[0].isupper() for w in words[1:]) / max(1, len(words) - 1)
    begins = text[0].isupper() or text[0].isdigit() or script(text) != "LATIN"
    if not (6 <= len(words) <= 38 and begins and letters >= 0.82 and capitals < 0.6):
        return False
    return len(words) > 12 or not _is_english(text) or any(w in _VERBS or w.endswith("ed") for w in fold(text).split())


def _is_english(text: str) -> bool:
    words = fold(text).split()
    return sum(w in WORDS["function"] for w in words) >= 0.13 * len(words) > 0


def _ranked(context: str, label: str) -> tuple[Sentence, ...]:
    """Complete sentences of the page, best first: near the picture, about its label, able to stand alone."""
    parts, known = _MARKS.split(context), stems(label)
    lengths = [{"<image>": 0, "<another-image>": _OTHER}.get(part, len(part)) for part in parts]
    here = sum(lengths[: parts.index("<image>")]) if "<image>" in parts else 0
    found: dict[str, Sentence] = {}
    number = 0
    for i, part in enumerate(parts):
        at = sum(lengths[:i])
        for text in _pieces(part) if not _MARKS.fullmatch(part) else ():
            distance = at - here if at >= here else max(here - at - len(text), 0) + _BEFORE
            number, at = number + 1, at + len(text)
            if _complete(text):
                fitting = 3 / (1 + distance / _NEAR) + 0.6 * min(4, len(known & stems(text)))
                alone, score = not _LEANS.match(text), fitting - bool(_PRONOUN.search(text)) / 2
                found.setdefault(fold(text), Sentence(text, number, score, _is_english(text), alone))
    return tuple(sorted(found.values(), key=lambda s: (not s.alone, -s.score, s.number)))
