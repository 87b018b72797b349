"""Questions from the words of one sentence, by rules that turn `subject verb rest` into a question.

The embedded stand-in for the language model of VisCon-100K (section 3.3). Without a parser only sentences of a plain
build are used: a short subject, a verb of a closed list, and a rest whose answer stands where a rule of
`language.toml` expects it. What no rule can turn around stays unasked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vislib.engines.extractive.evidence import LANGUAGE, PATTERNS, WORDS, Sentence, fold

_PAST, _PRESENT = (dict(pair.split(":") for pair in WORDS[tense]) for tense in ("past", "present"))
_BASES = _PAST | _PRESENT
_VERBS = WORDS["be"] | WORDS["modal"] | set(_BASES)
NUMBER_WORDS = tuple(LANGUAGE["words"]["numbers"].split())
_SMALL = {"the", "a", "an", *NUMBER_WORDS}
_DONE = rf"(?:[a-z]+ed|{'|'.join(sorted(WORDS['participles']))})"
_NUMBER = rf"(?:(?:\d[\d,.]*\d|\d|{'|'.join(NUMBER_WORDS)})(?: (?:hundred|thousand|million|billion))?)"
_BOUNDARY, _YEAR, _MONTH = re.compile(PATTERNS["boundary"]), PATTERNS["year"], PATTERNS["month"]
_LEANING, _POINTING = (re.compile(rf"\b{PATTERNS[name]}\b") for name in ("leaning", "pointing"))
_FREE_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,/(:-])\d[\d,.]*(?<![.,])(?! ?(?:[ap]\.?m\b|o’clock|:|%)|[A-Za-z0-9_-]|[.,]\d)"
)
_KINDS = {
    "be": WORDS["be"], "modal": WORDS["modal"], "act": frozenset(_BASES),
    "transitive": frozenset(verb for verb, base in _BASES.items() if base in WORDS["transitive"]),
}  # fmt: skip


_RULES = [  # (what the rest must be, verbs that fit, question, type of answer)
    (
        re.compile(rule["rest"].format(done=_DONE, number=_NUMBER, **PATTERNS)),
        frozenset().union(*(_KINDS[kind] for kind in rule["verbs"].split())), rule["ask"], rule.get("pool", ""),
    )
    for rule in LANGUAGE["rules"]
]  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """Something that can be asked: wordings, the short answer, a full reply, and where wrong answers come from."""

    topic: str  # a sample asks about each topic once
    forms: tuple[str, ...]  # wordings, the preferred one first
    answer: str  # as an option of multiple choice; "": free form only
    reply: str  # in free form; "": multiple choice only
    wrong: tuple[str, ...] = ()  # wrong answers of a closed set
    pool: str = ""  # else the type of value that other documents lend


@dataclass(frozen=True)
class Clause:
    """A sentence taken apart into `subject verb rest`."""

    subject: str
    verb: str
    rest: str

    def asked(self, rest: str) -> str:
        """The clause in the order of a question, with another rest: `was the bridge built`."""
        if base := _BASES.get(self.verb):
            return f"{'did' if self.verb in _PAST else 'does'} {self.subject} {base} {rest}".strip()
        return f"{self.verb} {self.subject} {rest}".strip()

    @property
    def core(self) -> str:
        """The rest up to the first boundary of a clause."""
        return _BOUNDARY.split(self.rest, maxsplit=1)[0].strip()


def parse(sentence: str, context: str) -> Clause | None:
    """Take a plain English sentence apart; None if its build is any other. `context` tells names from words."""
    text = sentence.rstrip('"”’) ').rstrip(".!")
    if led := re.match(rf"(In {_YEAR}),? (?!and|to)([^,;:]+)$", text):  # In 1889 the tower was opened.
        text = f"{led[2]} {led[1].lower()}"
    words = text.split()
    for i, word in enumerate(words[:9]):
        if i and word in _VERBS and words[i - 1].casefold() not in _SMALL:  # `the left pane` has no verb yet
            head, rest = words[:i], words[i + 1 :]
            plain = rest and rest[0] not in ("not", "also", "to", "no") and _is_subject(head)
            subject = _lowered(" ".join(head), context) if plain and not _is_participle(word, rest) else None
            return Clause(subject, word, " ".join(rest)) if subject else None
        if word[-1] in ",;:":
            return None
    return None


def _is_subject(words: list[str]) -> bool:
    """Whether words before a verb are one noun phrase."""
    low = [word.casefold() for word in words]
    lean = WORDS["not_subject"] | WORDS["inside"]
    if low[0] in lean or low[-1] in lean | _SMALL or low[0].endswith("ly") or low[-1].endswith("ly"):
        return False
    inner = WORDS["not_subject"] - {"last", "first", "second", "third", "and"}
    return not inner & set(low[1:]) and words[0][0].isalnum() and not re.search(r"[(\"“]", " ".join(words))


def _is_participle(verb: str, rest: list[str]) -> bool:
    """Whether the verb found belongs to a longer subject (`the bridge built in 1932 was …`) or to a longer verb."""
    if verb in ("has", "had") and re.match(rf"(?:been|never|always|already|long|[a-z]+ly|{_DONE})\b", rest[0]):
        return True
    ahead = _BOUNDARY.split(" ".join(rest), maxsplit=1)[0].split()
    return verb in _PAST and any(word in _VERBS for word in ahead)


def _lowered(subject: str, context: str) -> str | None:
    """The subject as it stands inside a sentence; None if nothing tells whether it begins with a name."""
    first, _, rest = subject.partition(" ")
    small = first[0].lower() + first[1:]
    if small in _SMALL or first.endswith("ing"):
        return f"{small} {rest}".strip()
    if not first[1:].islower() or rest[:1].isupper():
        return subject
    as_name = len(re.findall(rf"[a-z,] {re.escape(first)}\b", context))
    as_word = len(re.findall(rf"(?<![\w./@-]){re.escape(small)}(?![\w/@-]|\.\w)", context))
    return None if as_name == as_word == 0 else subject if as_name > as_word else f"{small} {rest}".strip()


def facts(sentence: Sentence, context: str) -> Iterator[Fact]:
    """What can be asked about a sentence, most telling first; `context` is all that the page says."""
    clause = parse(sentence.text, context) if sentence.english and sentence.alone else None
    for pattern, verbs, ask, pool in _RULES if clause else ():
        match = pattern.fullmatch(clause.core if pool else clause.rest) if clause and clause.verb in verbs else None
        if clause and match and (fact := _turned(match, ask, pool, clause, sentence.text)):
            yield fact
    if clause and not _LEANING.search(clause.subject) and not clause.subject.startswith(("a ", "an ")):
        forms = tuple(ask.format(clause.subject) for ask in LANGUAGE["about"])
        yield Fact(topic_of(sentence.text), forms, "", sentence.text, pool="about")
    yield from _gap(sentence)


def topic_of(text: str) -> str:
    """The topic of all questions about one sentence."""
    return f"text {fold(text)[:60]}"


def _turned(match: re.Match[str], ask: str, pool: str, clause: Clause, text: str) -> Fact | None:
    """The fact of a rule with three wordings of its question; None where either would not stand alone.

    An answer may not break off inside a list, only one may be right, and neither may lean on another sentence.
    """
    groups, cut = match.groupdict(default=""), clause.rest[len(clause.core) :].lstrip()
    question = ask.format(asked=clause.asked(groups.get("keep", "")), **groups)
    answer, pool = groups.get("answer", "").strip(" ,"), pool.format(verb=clause.verb, **groups)
    listed = cut.startswith(("(", ":", "–", "—")) or re.match(r",\s+(?:\w+[ ,]+){1,5}(?:and|or)\b", cut)
    broken = (listed or " between " in clause.core) and pool not in ("year", "number", "")
    several = pool == "year" and (len(re.findall(_YEAR, text)) > 1 or re.search(" and | or ", groups["keep"]))
    first = clause.subject.split()[0]
    bare = pool.startswith("definition w") and first.islower() and first not in _SMALL
    leans = _LEANING.search(question) or _LEANING.match(answer.lower()) or _POINTING.search(answer)
    long = len(question) > 120 or len(answer.split()) > 16 or question.count(" and ") > 1
    if broken or several or bare or leans or long or (pool.startswith("definition") and first.endswith("ing")):
        return None
    inner = question[0].lower() + question[1:]
    forms = (f"{question}?", f"According to the page, {inner}?", f"{question}, according to the page?")
    return Fact(topic_of(text), forms, answer[:1].upper() + answer[1:], text, pool=pool)


def _gap(sentence: Sentence) -> Iterator[Fact]:
    """A sentence with its only number left out: a form that any language bears."""
    text = sentence.text
    date = re.search(rf"\b\d{{1,2}} {_MONTH}(?: {_YEAR})?\b", text)
    found = date or _FREE_NUMBER.search(text)
    if not found or not found.start() or not 20 <= len(text) <= 160 or not sentence.alone:
        return
    left, right = text[: found.start()], text[found.end() :]
    named = re.search(r"[\w,] [A-Z]\w+ $", left) and not re.search(rf"{_MONTH} $", left)
    leans = re.search(r"\b(?:he|she|they|it|him|her|them)\b", left.lower()) or re.search(r"\b[Tt]his\b", text)
    coded = left.endswith(("version ", "chapter ")) or found[0].count(".") > 1
    if named or leans or coded or re.search(r"\d", left + right):
        return
    noun = "date" if date else "year" if re.fullmatch(_YEAR, found[0]) else "number"
    forms = tuple(ask.format(noun=noun, left=left, right=right) for ask in LANGUAGE["gap"])
    reply = f"The missing {noun} is {found[0]}. {text}"
    yield Fact(topic_of(text), forms, found[0], reply, (), {"number": "figure"}.get(noun, noun))
