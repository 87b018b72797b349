"""How far a text answers a question, by words and without a model (ours).

An option is told by the sentences in which its stems stand near the question's, a free answer by
those that hold its own. Words alone: cosines of the small sentence model, tried on the same
questions, favoured the right option over the wrong ones hardly more often than chance. What is
paraphrased, concluded, or told in another language than the question's is not found.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from vislib.media.stems import stems, text_stems
from vislib.media.tokenization import sentences
from vislib.media.words import words
from vislib.qa_options import LETTERS

# Chosen on questions that no error is stated of (`vislib/sample/labels/leakage.csv`, tuning).
_ANYWHERE, _DISTANCE = 0.1, 0.3
Places = Mapping[str, list[int]]  # of each stem, counted in words


@lru_cache(maxsize=256)
def passages(text: str) -> list[Places]:
    """The places of all stems in each two sentences that follow each other."""
    spoken = [one for one in sentences(text) if any(map(str.isalnum, one))]
    found: list[Places] = []
    for first in range(len(spoken)):
        places = defaultdict(list)
        for place, word in enumerate(words(" ".join(spoken[first : first + 2]))):
            for stem in stems(word):
                places[stem].append(place)
        found.append(places)
    return found


def new_stems(text: str, asked: frozenset[str]) -> frozenset[str]:
    """What a text says beyond the question; all of it where it says nothing else."""
    said = text_stems(text)
    return said - asked or said


def support(option: str, asked: frozenset[str], text: str) -> float:
    """0 to 1.1: the share of an option's stems that the best passage holds, the more the nearer
    those that are asked with stand.
    """
    wanted, best = new_stems(option, asked), 0.0
    for places in passages(text):
        if held := wanted & places.keys():
            at = [place for stem in held for place in places[stem]]
            gaps = [
                min(abs(place - other) for place in at for other in places[stem])
                for stem in asked & places.keys()
            ]
            near = sum(1 / (1 + _DISTANCE * gap) for gap in gaps) / max(1, len(asked))
            best = max(best, len(held) / len(wanted) * (_ANYWHERE + near))
    return best


def evidence(question: Mapping[str, Any], text: str) -> float:
    """How far a text answers a question. Multiple choice: by how much it favours the right option
    over the best wrong one. Free form: the share of each sentence's stems in the passage that holds
    most of them, among those with a word of the question.
    """
    asked = text_stems(question["question"])
    if question["options"]:
        favour = [support(option, asked, text) for option in question["options"]]
        return favour.pop(LETTERS.index(question["answer"])) - max(favour)
    related = [places.keys() for places in passages(text) if asked & places.keys()]
    told = [new_stems(sentence, asked) for sentence in sentences(question["answer"])]
    held = sum(max((len(one & stems) for stems in related), default=0) for one in told)
    return held / max(1, sum(map(len, told)))
