"""Text as evidence of claims: which words, names, numbers and colours of a claim a text holds.

The judge without a model, for questions that others give to one claim by claim (FActScore, arXiv
2305.14251, of texts; TIFA, arXiv 2303.11897, of pictures). It compares words: it sees neither
negation nor who does what to whom, takes a paraphrase for another thing unless an embedding brings
it near, and of a picture knows only what texts and measurements say of it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from vislib.media.embeddings import SentenceEncoder
from vislib.media.picture import NEIGHBOURS
from vislib.media.stems import text_stems
from vislib.media.tokenization import sentences
from vislib.media.words import words

_COUNTS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTS.split("|"), 2)}
# A capital inside of a sentence; at its beginning every word has one.
_NAME = re.compile(r"(?<=[\w,;:)”\"’'] )[A-Z]\w+")
_MARK = re.compile("<(?:another-)?image>")


class Support(NamedTuple):
    """How far a text holds a claim (0-1), and its sentence that comes nearest, "" for none."""

    score: float
    text: str


def said(text: str) -> frozenset[str]:
    """Words of a text in lower case, numbers from two to twelve in digits."""
    return frozenset(_NUMBERS.get(word, word.replace(",", "")) for word in words(text))


def specifics(claim: str) -> frozenset[str]:
    """Numbers, colours and names of a claim: where one is wrong, all of it is."""
    # "one" is more often a pronoun than a number, and no number here
    names = frozenset(name.lower() for name in _NAME.findall(claim))
    return names | {word for word in said(claim) if word[0].isdigit() or word in NEIGHBOURS}


@dataclass(frozen=True)
class Evidence:
    """What one side says: its sentences, the stems of each, and all its words."""

    sentences: tuple[str, ...]
    stems: tuple[frozenset[str], ...]
    words: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str], known: Iterable[str] = ()) -> "Evidence":
        """The evidence in some texts; `known` are words, such as colours that were measured."""
        lines = [line.strip() for text in texts for line in sentences(_MARK.sub(" ", text))]
        # a caption may say what a sign in its picture reads: each sentence once
        held = tuple(dict.fromkeys(filter(None, lines)))
        return cls(held, tuple(map(text_stems, held)), said("\n".join(held)).union(known))

    def support(self, claim: str) -> Support:
        """The mean of two shares of the claim's stems: of those that stand anywhere in the text,
        and of those that its nearest sentence holds.
        """
        # A long page holds most words somewhere, and a sentence seldom all of a claim: each share
        # mends what the other one gets wrong.
        wanted = text_stems(claim)
        shared = [len(wanted & own) for own in self.stems]
        if not wanted or not any(shared):
            return Support(0.0, "")
        anywhere = len(wanted & frozenset().union(*self.stems))
        best = max(shared)
        return Support((anywhere + best) / (2 * len(wanted)), self.sentences[shared.index(best)])


def similarities(model: str, claim: str, texts: Iterable[str]) -> list[float]:
    """Cosines of a claim's embedding with those of some texts."""
    first, *others = _encoder(model)([claim, *texts])
    return [float(first @ other) for other in others]


@cache
def _encoder(model: str) -> SentenceEncoder:
    # late: it takes seconds, and most claims are settled by words
    return SentenceEncoder(model)
