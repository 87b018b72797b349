"""Wrong answers of the same type as the right one, lent by other documents (VisCon-100K, section 3.3).

Exactly one option may be valid: a lent value stands nowhere on the sample's own page, comes from another document
and differs from the answer in more than its writing.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from vislib.engines.extractive.clauses import NUMBER_WORDS, Fact
from vislib.engines.extractive.evidence import Evidence, fold, script, stems
from vislib.runs.seeding import seeded

_KEPT = 4000  # values of one type: those of the smallest hashes, so that the order of adding does not matter
_NUMERIC = ("year", "date", "figure", "number")
_NUMERAL = re.compile(r"\d[\d,.]*\d|\d")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)


class Pool:
    """Values by type, with the documents that hold them."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, set[str]]] = defaultdict(dict)

    def add(self, facts: Iterable[Fact], doc_id: str) -> None:
        """Lend the answers of one document's facts; a quantity lends its number."""
        for fact in facts:
            numeral = _NUMERAL.search(fact.answer)
            if fact.pool and fact.answer and (numeral or fact.pool != "number"):
                kind, value = ("figure", numeral[0]) if numeral and fact.pool == "number" else (fact.pool, fact.answer)
                kept = self._values[kind]
                kept.setdefault(value, set()).add(doc_id)
                for excess in sorted(kept, key=lambda v: seeded(0, v))[_KEPT:] if len(kept) > 2 * _KEPT else ():
                    del kept[excess]

    def draw(self, fact: Fact, evidence: Evidence, doc_id: str, seed: int) -> tuple[str, ...]:
        """Three wrong answers, or fewer if other documents have no more that fit."""
        chosen: list[str] = []
        for value, option in sorted(self._lent(fact, doc_id), key=lambda pair: (seeded(seed, pair[0]), pair)):
            apart = all(_differ(option, other, fact.pool) for other in (fact.answer, *chosen))
            if apart and fold(value) not in evidence.page and _fits(fact, option):
                chosen.append(option[0].upper() + option[1:])
            if len(chosen) == 3:
                break
        return tuple(chosen)

    def _lent(self, fact: Fact, doc_id: str) -> Iterator[tuple[str, str]]:
        """Values of the fact's type with the options that they make."""
        if fact.pool == "number" and not _NUMERAL.search(fact.answer):
            yield from ((word, _NUMBER_WORD.sub(word, fact.answer, count=1)) for word in NUMBER_WORDS)
            return
        for value, documents in self._values["figure" if fact.pool == "number" else fact.pool].items():
            if doc_id not in documents:
                yield value, _NUMERAL.sub(value, fact.answer, count=1) if fact.pool == "number" else value


def _differ(one: str, other: str, pool: str) -> bool:
    """Whether two options say different things; two labels must share no word, for both may fit one picture."""
    a, b = stems(one), stems(other)
    if pool in _NUMERIC or not a & b:
        return fold(one) != fold(other)
    return not pool.startswith("label") and len(a & b) <= 0.5 * min(len(a), len(b))


def _fits(fact: Fact, option: str) -> bool:
    """Whether a wrong answer could pass for the right one."""
    if fact.pool not in _NUMERIC:
        return script(option) == script(fact.answer) and 0.4 <= len(option) / len(fact.answer) <= 2.5
    if fact.pool == "date":
        return len(option.split()) == len(fact.answer.split())
    a, b = _number(fact.answer), _number(option)
    return (a % 1 == 0) == (b % 1 == 0) and (abs(a - b) <= 80 if fact.pool == "year" else a / 5 <= b <= a * 5)


def _number(text: str) -> float:
    """The first number of a text, 0 if it has none."""
    found = _NUMERAL.search(text)
    plain = re.sub(r",(?=\d{3}\b)", "", found[0]).replace(",", ".") if found else ""
    return float(plain) if plain.count(".") <= 1 and plain else 0.0
