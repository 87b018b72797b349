"""What can be asked about one sample: measured facts of the picture, and what its page says.

As VisCon-100K (section 3.3) wants it: visual and contextual questions, also about what is surely not there, each
answered by the evidence alone. Wordings come from `wordings.toml` and are chosen by hash.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from vislib.engines.extractive import clauses
from vislib.engines.extractive.clauses import Fact
from vislib.engines.extractive.evidence import PATTERNS, WORD, Evidence, script
from vislib.engines.extractive.picture import NEIGHBOURS, Colour, Picture
from vislib.runs.seeding import seeded

_FILE = Path(__file__).parent / "wordings.toml"
WORDINGS: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
_FORMATS, _PARTS = WORDINGS["formats"], WORDINGS["parts"]
_KIND = re.compile(rf"(?:an? |the )?(?P<rest>{PATTERNS['kind_of_picture']} (?:of|showing|with|from|that|for) .+)", re.I)
_COUNTS = "|".join(clauses.NUMBER_WORDS)
_DETERMINED = re.compile(rf"(?:an?|the|some|several|{_COUNTS}) (?!.*\b(?:is|are|was|were)\b)", re.I)
_SHAPE, _TONE = ("format",), ("light", "brightest", "darkest", "contrast")  # what such words would answer
Item = TypeVar("Item")


def shuffled(items: Iterable[Item], seed: int, *parts: str) -> list[Item]:
    """Items in an order drawn by hash, whatever their order was."""
    return sorted(items, key=lambda item: (seeded(seed, *parts, str(item)), str(item)))


def amount(share: float) -> str:
    """A part of an area in plain words."""
    return next(words for words, least in WORDINGS["amounts"].items() if share >= least)


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def quotable(text: str) -> str:
    """Text fit to stand between “ and ”."""
    return re.sub(r'"([^"]*)"', r"‘\1’", text).replace("“", "‘").replace("”", "’").replace('"', "’")


def as_quotes(texts: Sequence[str]) -> str:
    """`“a”, “b” and “c”`."""
    return joined([f"“{quotable(text)}”" for text in texts])


def noun_phrase(label: str) -> tuple[str, str]:
    """How a label stands in a sentence: (`is`, `shows` or `label`, the words)."""
    if match := _KIND.fullmatch(label):
        rest = match["rest"] if match["rest"].split()[0].isupper() else match["rest"][0].lower() + match["rest"][1:]
        return "is", f"{'an' if rest[0].lower() in 'aeiou' else 'a'} {rest}"
    if _DETERMINED.match(label) and not re.search(r"[.;:!?]", label):
        return "shows", label[0].lower() + label[1:]
    return "label", quotable(label)


@dataclass(frozen=True)
class Asker:
    """Makes facts about one picture: what it is called, how it looks, and the seed of the sample."""

    picture: Picture | None
    label: str
    seed: int

    def fact(self, key: str, answer: str, wrong: Iterable[str] = (), *, topic: str = "", reply: str | None = None,
             pool: str = "", **fields: str) -> Fact:  # fmt: skip
        """A fact with the wordings of `key`; `reply` names other wordings of the reply, "": multiple choice only."""
        fields["answer"] = answer
        values = fields | {k.capitalize(): v[:1].upper() + v[1:] for k, v in fields.items()}
        asks, names = WORDINGS["ask"][key], self._names() if key not in ("shown", "named") else []
        named, described = (
            shuffled((ask.format(ref=ref, **values) for ask, ref in product(asks, references)), self.seed)
            for references in (names, self._looks(key))
        )
        first, then = (named, described) if seeded(self.seed, key) % 2 else (described, named)
        said = [text.format(**values) for text in WORDINGS["reply"].get(key if reply is None else reply, [])]
        return Fact(
            topic or key, (*first[:4], *then[:4], *first[4:6]), answer[:1].upper() + answer[1:],
            shuffled(said, self.seed)[0] if said else "",
            tuple(option[0].upper() + option[1:] for option in shuffled(wrong, self.seed, key)[:3]), pool,
        )  # fmt: skip

    def _names(self) -> list[str]:
        """Names for the picture by its label, if that is short."""
        brief = re.split(r"[,;:(] ?| with | that | which ", self.label)[0].strip()
        way, words = noun_phrase(brief if len(brief.split()) > 2 else self.label)
        if not words or len(words.split()) > 9:
            return []
        quoted = [f"the picture “{words}”", f"the picture labelled “{words}”"]
        return {"is": [f"the {words.partition(' ')[2]}"], "shows": [f"the picture of {words}"]}.get(way, quoted)

    def _looks(self, topic: str) -> list[str]:
        """Names for the picture by its look, without the property that is asked for."""
        words: list[str] = []
        if p := self.picture:
            ratio = p.width / p.height
            shape = "square" if abs(ratio - 1) < 0.02 else "wide" if ratio > 1.3 else "tall" if ratio < 0.77 else ""
            tone = "dark" if p.light < 80 else "bright" if p.light > 190 else ""
            words = [w for w, hidden in ((shape, _SHAPE), (tone, _TONE)) if w and topic not in hidden]
        looks = ["", *words, ", ".join(words)] if len(words) > 1 else ["", *words]
        nouns = product(("this", "the"), looks, ("picture", "image"))
        return [" ".join(" ".join(noun).split()) for noun in nouns]


def candidates(evidence: Evidence, picture: Picture | None, seed: int) -> list[Fact]:
    """All facts of a sample, text and picture in turn by twos, each topic once."""
    asker = Asker(picture, evidence.label, seed)
    lists = (_text_facts(asker, evidence), _picture_facts(asker, picture) if picture else [])
    pairs = zip_longest(*(zip_longest(facts[::2], facts[1::2]) for facts in lists), fillvalue=())
    unique: dict[str, Fact] = {}
    for fact in (fact for group in pairs for pair in group for fact in pair if fact):
        unique.setdefault(fact.topic, fact)
    return list(unique.values())


def types(fact: Fact) -> tuple[str, ...]:
    """The question types that can ask a fact."""
    able = {"free_form": fact.reply, "multiple_choice": fact.answer and (fact.pool or len(fact.wrong) == 3)}
    return tuple(name for name, can in able.items() if can)


def _text_facts(asker: Asker, evidence: Evidence) -> list[Fact]:
    """Questions that the page, or the words in the picture, answer: sentences turned around, others, and gaps."""
    least = 0.35 * max((s.score for s in evidence.sentences), default=0)  # what is far from the picture asks nothing
    best = [s for s in evidence.sentences[:16] if s.score > least]
    found = [list(clauses.facts(sentence, evidence.context)) for sentence in best]
    turned = [fact for facts in found for fact in facts[:1] if fact.pool not in ("about", "figure", "date")]
    rest = [fact for facts in found for fact in facts if fact.pool == "about"][:2]
    gaps = [fact for facts in found for fact in facts[-1:] if fact.pool in ("figure", "date")][:3]
    plain: list[Fact] = []
    if evidence.texts:
        word = next(filter(WORD.search, evidence.texts), "")  # of numbers a reader misses some: others might be there
        plain.append(asker.fact("texts", word, reply="", pool="text"))
        plain.append(asker.fact("words", "", texts=as_quotes(evidence.texts)))
    if evidence.objects:
        plain.append(asker.fact("objects", "", objects=joined([quotable(name) for name in evidence.objects])))
    if evidence.label:
        short = len(evidence.label.split()) <= 16
        label, pool = quotable(evidence.label), f"label {script(evidence.label)}"
        key = "shown" if evidence.context else "named"
        plain.append(asker.fact(key, evidence.label if short else "", topic="shown", label=label, pool=pool))
    standing = [s for s in best[:5] if s.alone]
    for key, s in zip(shuffled(("describe", "statement"), asker.seed), standing[:2] * 2, strict=False):
        topic, pool = clauses.topic_of(s.text), f"statement {script(s.text)} {s.english}"
        if key == "describe":
            plain.append(asker.fact(key, "", topic=topic, text=quotable(s.text)))
        elif len(s.text) <= 180:
            plain.append(asker.fact(key, s.text, topic=topic, reply="", pool=pool))
    mixed = zip_longest(turned, shuffled(plain, asker.seed, "plain"), [*gaps, *rest])
    return [fact for group in mixed for fact in group if fact]


def _picture_facts(asker: Asker, p: Picture) -> list[Fact]:
    """Questions that measured facts answer: six of the telling ones, then the others, in orders drawn by hash."""
    telling = shuffled([*_colour_facts(asker, p), *_place_facts(asker, p)], asker.seed, "telling")
    others = [*telling[6:], *_presence_facts(asker, p), *_plain_facts(asker, p)]
    return telling[:6] + shuffled(others, asker.seed, "plain")


def _others(area: Sequence[Colour], answer: str) -> list[str]:
    """Colours that an area surely does not show, and that nobody takes for the answer."""
    shown = {colour.family for colour in area if colour.share > 0.02} | {answer, *NEIGHBOURS[answer]}
    return [family for family in NEIGHBOURS if family not in shown]


def _colour_facts(asker: Asker, p: Picture) -> Iterator[Fact]:
    whole, areas = p.areas["all"], {k: v for k, v in p.areas.items() if k not in ("all", "border")}
    top, two, three = (*whole, *[Colour("", "", 0.0)] * 2)[:3]
    if top.share > 0.55:
        yield asker.fact("main", top.family, _others(whole, top.family), shade=top.shade, amount=amount(top.share))
    if two.share > max(0.08, 1.6 * three.share):
        far, both = _others(whole, two.family), amount(top.share + two.share)
        if top.share > 1.3 * two.share and two.family not in NEIGHBOURS[top.family]:
            yield asker.fact("second", two.family, far, first=top.shade, shade=two.shade, amount=amount(two.share))
        pairs = [f"{a} and {b}" for a, b in zip((top.family, *far[1::2]), far[::2], strict=False)]
        yield asker.fact("pair", f"{top.family} and {two.family}", pairs, topic="main", amount=both)
    by_news = sorted(areas, key=lambda k: (areas[k][0].family == top.family, seeded(asker.seed, k)))
    for number, name in enumerate([k for k in by_news if areas[k][0].share > 0.55][:2]):
        c = areas[name][0]
        if c.family != top.family or number == 0:
            fields = {"area": name, "shade": c.shade, "amount": amount(c.share)}
            yield asker.fact("area", c.family, _others(areas[name], c.family), topic=f"area {number}", **fields)
    if (edge := p.areas["border"][0]).share > 0.7 and edge.family != top.family:
        yield asker.fact("border", edge.family, _others(p.areas["border"], edge.family), shade=edge.shade)
    for words, c in product(_PARTS, whole[:3]):
        if _PARTS[words][0] <= c.share <= _PARTS[words][1]:
            yield asker.fact("share", words, set(_PARTS) - {words}, colour=c.family, amount=words)


def _place_facts(asker: Asker, p: Picture) -> Iterator[Fact]:
    for key, opposite, values in (("brightest", "darkest", p.corners), ("busiest", "plainest", p.detail)):
        first, second, third, last = sorted(values, key=lambda corner: -values[corner])
        for name, end, next_one, other in ((key, first, second, last), (opposite, last, third, first)):
            big, small = sorted((values[end], values[next_one]), reverse=True)
            if big > small + 14 if values is p.corners else big > 1.3 * small:
                wrong = [f"in the {corner}" for corner in values if corner != end]
                yield asker.fact(name, f"in the {end}", wrong, place=end, other=other)
    for family, (place, without) in list(p.spots.items())[:2]:
        yield asker.fact("spot", place, without, topic=f"spot {family}", colour=family, place=place)


def _presence_facts(asker: Asker, p: Picture) -> Iterator[Fact]:
    """What is there, and what is surely not: no shade near an absent colour was measured anywhere."""
    whole = p.areas["all"]
    near = {c.family for c in whole} | {name for c in whole for name in NEIGHBOURS[c.family]}
    absent = [] if p.grey else shuffled(set(NEIGHBOURS) - near, asker.seed, "absent")
    present = [c for c in whole if c.share > 0.04]
    if absent and (sure := [c for c in present[1:] if c.share > 0.1]) and asker.seed % 2:
        other = sure[asker.seed // 2 % len(sure)]
        yield asker.fact("absent", "", reply="present", colour=other.family, amount=amount(other.share))
    elif absent:
        yield asker.fact("absent", "", colour=absent[0], widest=joined([c.shade for c in present[:3]]))
    if absent[2:]:
        seen = shuffled([c.family for c in present[1:] or present], asker.seed)
        yield asker.fact("present", seen[0], absent, reply="")
    if absent[1:] and present[2:]:
        yield asker.fact("missing", absent[1], [c.family for c in present], reply="")


def _plain_facts(asker: Asker, p: Picture) -> Iterator[Fact]:
    for words, (low, high) in _FORMATS.items():
        if low <= p.width / p.height <= high:
            yield asker.fact("format", words, set(_FORMATS) - {words}, width=str(p.width), height=str(p.height))
    bright = [c.shade for c in p.areas["all"] if c.family not in ("black", "white", "grey") and c.share > 0.02]
    if p.grey or len(bright) > 1:
        only = [f"only shades of {name}" for name in ("grey", "blue", "brown", "green")]
        answer, wrong = (only[0], ["several colours", *only[1:]]) if p.grey else ("several colours", only)
        reply = "grey" if p.grey else "coloured"
        yield asker.fact("tone", answer, wrong, reply=reply, widest=joined([c.shade for c in p.areas["all"][:3]]))
    levels = {
        "light": (p.light, 70, 195, "dark", "bright"), "even": (p.even, 0.1, 0.7, "gradual", "flat"),
        "contrast": (p.contrast, 25, 75, "weak", "strong"),
    }  # fmt: skip
    for key, (value, low, high, below, above) in levels.items():
        if not low <= value <= high:
            yield asker.fact(key, "", reply=below if value < low else above)
