"""The baseline without a model: captions and questions from what a page says and a picture
measures.

It stands beside the models of VisCon-100K (sections 3.2, 3.3) as a floor, and is named in every
record. Nothing is understood: alternative text and the nearest sentences are quoted, colours are
measured, questions fill templates or leave a gap in a sentence. An answer depends on its own
request alone; no token is billed.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import Any, TypeVar

from vislib.engines import Answer, Answered, Request
from vislib.media.picture import NEIGHBOURS, Picture, measure
from vislib.media.pixels import ImageError, read_image
from vislib.media.tokenization import sentences
from vislib.media.words import UNSPACED
from vislib.priors import clearest
from vislib.qa_format import Round, render_rounds
from vislib.runs.seeding import seeded, short_hash

MODEL = "extractive-2"  # raised by whoever changes what it writes
ROUNDS = 4  # of each question type
_SAYS: dict[str, dict[str, list[str]]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text("utf-8")
)
_SOURCES = {  # what a kind may use beside the picture and the text that can be read in it
    "contextual": {"alt_text", "context"},
    "non_contextual": set(),
    "fused": {"alt_text", "boxes"},
    "fused_contextual": {"alt_text", "context", "boxes"},
}
_QUOTED = 2  # sentences nearest to the picture that a caption quotes
_ASKED = 6  # and that questions are about
_SENTENCE = range(30, 261)  # characters of a sentence of prose that can be quoted
_LABEL = range(3, 301)  # characters of an alternative text that somebody wrote for readers
_SURE, _TEXTS, _OBJECTS = 0.95, 6, 6  # score of a text that is quoted; texts and labels named
# Lines that are code, links or questions: quoted, they would say nothing of a picture.
_CODE = re.compile(r"[{}<>|=$\\#@→►©]|::|//|\w\(\)|\.(?:png|jpe?g|gif|html?)\b|\?$", re.IGNORECASE)
_END = re.compile(r"[.!。！؟۔।][\"”’»)\]」』）]*$")
_NUMBER = re.compile(
    r"(?<![\w.,/:-])\d{1,3}(?:,\d{3})+(?![\w.,])|(?<![\w.,/:-])\d+(?![\w/:%-]|[.,]\d)"
)
# Long enough for a content word, in scripts with blanks.
_WORD = re.compile(rf"[^\W\d_{UNSPACED}]{{5,}}")
_LETTERS = re.compile(r"[^\W\d_]{2}")
Item = TypeVar("Item")
_SHAPES = {
    "more than twice as wide as tall": 2.0,
    "wider than tall": 1.05,
    "square": 0.95,
    "taller than wide": 0.0,
}


class Extractive:
    """Answers from the evidence in each request."""

    name = journal = "extractive"
    model = MODEL

    def basis(self, request: Request) -> Mapping[str, Any]:
        """All that an answer is made of; the image by its file's name, which names its content."""
        # the folder of a run must not change the key; the name of the file is its content's hash
        given = dict(request.evidence, image_path="", caption="")
        image = PurePath(str(request.evidence["image_path"])).name
        parts = (request.id, str(request.seed), image, repr(sorted(given.items())))
        return {"evidence": short_hash(*parts)}

    def answer(self, requests: Iterable[Request], *, spent: float = 0.0) -> Answered:
        """Answer each request; one without any evidence fails with reason `no_evidence`."""
        for request in requests:
            text = _write(request)
            answer = Answer(text=text, model=MODEL, finish_reason="stop")
            silent = replace(answer, status="failed", reason="no_evidence")
            yield request, answer if text else silent


@dataclass(frozen=True)
class Evidence:
    """What may be said of one picture; all but `picture` and `texts` is empty for kinds without a
    page.
    """

    label: str  # the alternative text, if somebody wrote it for readers
    sentences: tuple[str, ...]  # whole sentences of the page, the nearest first
    texts: tuple[str, ...]  # visible text that an expert read, in reading order
    objects: tuple[str, ...]  # what experts recognised, the surest first: `person (2)`, `dog`
    picture: Picture | None
    seed: int

    def say(self, key: str, **fields: str) -> str:
        """One of the wordings of `key`, drawn by hash."""
        wordings = _SAYS["wordings"][key]
        return wordings[seeded(self.seed, key) % len(wordings)].format(**fields)


@dataclass(frozen=True)
class Fact:
    """What can be asked: `reply` answers it freely; `answer` and three `wrong` ones make
    options.
    """

    question: str
    reply: str
    answer: str = ""
    wrong: tuple[str, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """The question types that can ask it."""
        free = ("free_form",) if self.reply else ()
        return ("multiple_choice", *free) if len(self.wrong) == 3 else free


def gather(request: Request) -> Evidence:
    """The evidence that a request's kind may use."""
    given = request.evidence
    uses = _SOURCES[given["kind"]]
    sample = given["sample"]
    # kinds without experts have no priors at all
    found = given["priors"] or {"texts": (), "boxes": ()}
    label = ""
    near: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    if "alt_text" in uses:
        named = clean(str(sample["alt_text"] or "")).strip(" .-–:;,")
        # a single word is a file's name or a heading, and labels nothing
        label = named if len(named) in _LABEL and " " in named else ""
    if "context" in uses:
        near = nearest_sentences(str(sample["context"] or ""))
    if "boxes" in uses:
        objects = _objects(found["boxes"])
    sure = [text for text in found["texts"] if text["score"] >= _SURE]
    legible = [text for text in sure if _LETTERS.search(text["text"])]
    quoted = [clean(text["text"]) for text in clearest(legible, _TEXTS)]
    return Evidence(
        label=label,
        sentences=near,
        texts=tuple(dict.fromkeys(quoted)),  # a sign that is read twice is said once
        objects=objects,
        picture=_picture(str(given["image_path"])),
        seed=seeded(request.seed, request.id, given["kind"]),
    )


def clean(text: str) -> str:
    """One line without control characters and pictographs, fit to stand between “ and ”."""
    # pictographs would be read as words by the checks that follow
    kept = [c for c in text if c.isspace() or not unicodedata.category(c).startswith(("C", "So"))]
    line = " ".join("".join(kept).replace("**", "").split())
    return line.translate(str.maketrans('“”"<>', "‘’’‹›"))


def nearest_sentences(context: str) -> tuple[str, ...]:
    """Whole sentences of prose, those nearest to `<image>` first, what follows it before what
    precedes it.
    """
    before, _, after = context.partition("<image>")
    sides = (_prose(after), reversed(list(_prose(before))))
    # one after the other: what follows a picture speaks of it as often as what precedes
    near = (text for pair in zip_longest(*sides) for text in pair if text)
    return tuple(dict.fromkeys(near))[:_ASKED]


def _prose(text: str) -> Iterator[str]:
    for piece in sentences(text):
        line = piece.strip()
        if len(line) in _SENTENCE and _END.search(line) and not _CODE.search(line):
            yield clean(line)


def _objects(boxes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Labels with their number where it is above one, by their best score."""
    ranked = sorted(boxes, key=lambda box: (-box["score"], box["label"]))
    counts = Counter(clean(box["label"]) for box in ranked)
    named = (f"{label} ({n})" if n > 1 else label for label, n in counts.items() if label)
    return tuple(named)[:_OBJECTS]


@lru_cache(maxsize=4096)
def _picture(path: str) -> Picture | None:
    """Measured facts of an image, once per run; None for one that cannot be read."""
    try:
        return measure(read_image(path))
    except (ImageError, OSError):
        return None


def _write(request: Request) -> str:
    evidence = gather(request)
    task = request.evidence["task"]
    if task == "caption":
        return write_caption(evidence)
    rounds = [round_of(fact, evidence.seed, task) for fact in planned(facts(evidence))[task]]
    return render_rounds(rounds)


def write_caption(evidence: Evidence) -> str:
    """What a picture is called, how it looks, what can be read in it, what the page says; "" for
    nothing.
    """
    said = []
    if evidence.label:
        said.append(evidence.say("label", label=evidence.label))
    if p := evidence.picture:
        # smaller shares are noise of scaling and compression
        shades = [colour.shade for colour in p.areas["all"] if colour.share > 0.05][:3]
        kind = "black-and-white picture" if p.grey else "picture in colour"
        said.append(evidence.say("look", kind=kind, shape=shape(p), colours=joined(shades)))
    if evidence.objects:
        said.append(evidence.say("objects", objects=joined(evidence.objects)))
    if evidence.texts:
        said.append(evidence.say("texts", texts=_quoted(evidence.texts)))
    if evidence.sentences:
        said.append(evidence.say("page", text="” “".join(evidence.sentences[:_QUOTED])))
    return " ".join(said)


def facts(evidence: Evidence) -> list[Fact]:
    """All that can be asked, of the page and of the picture in turn."""
    of_picture = _shuffled(_picture_facts(evidence), evidence.seed) if evidence.picture else []
    pairs = zip_longest(_page_facts(evidence), of_picture)
    return [fact for pair in pairs for fact in pair if fact]


def planned(able: Sequence[Fact]) -> dict[str, list[Fact]]:
    """At most `ROUNDS` facts for each question type, none for both: each goes where fewer are.

    Fewer facts make options than make replies: at equal numbers they go to multiple choice. A type
    that is left without any takes one of the other's.
    """
    plan: dict[str, list[Fact]] = {"free_form": [], "multiple_choice": []}
    for fact in able:
        name = min(fact.types, key=lambda kind: len(plan[kind]), default="")
        if name and len(plan[name]) < ROUNDS:
            plan[name].append(fact)
    for name in plan:
        plan[name] = plan[name] or [fact for fact in able if name in fact.types][:1]
    return plan


def round_of(fact: Fact, seed: int, task: str) -> Round:
    """The round of one question type; the place of the right option is drawn by hash."""
    if task == "free_form":
        return Round(fact.question, (), fact.reply)
    # by hash, so that no letter is right more often than another
    place = seeded(seed, fact.question) % 4
    options = [*fact.wrong[:place], fact.answer, *fact.wrong[place:]]
    return Round(fact.question, tuple(options), "ABCD"[place])


def _fact(
    evidence: Evidence, ask: str, reply: str, answer: str = "", wrong: Sequence[str] = (), **of: str
) -> Fact:
    """A fact in the wordings of `ask` and `reply` ("": it makes options alone)."""
    replied = evidence.say(reply, **of) if reply else ""
    return Fact(evidence.say(ask, **of), replied, answer, tuple(wrong))


def _page_facts(evidence: Evidence) -> Iterator[Fact]:
    """Questions that the page, or the words in the picture, answer."""
    if evidence.label:
        yield _fact(evidence, "ask_label", "label", label=evidence.label)
    if evidence.texts:
        yield _fact(evidence, "ask_texts", "texts", texts=_quoted(evidence.texts))
    # a word that stands in two sentences would be no gap: the other one gives it away
    words = Counter(word for text in evidence.sentences for word in set(_WORD.findall(text)))
    for number, text in enumerate(evidence.sentences):
        if gap := _gap(text, words, evidence):
            yield gap
        elif number < _QUOTED:
            ask = "ask_more" if number else "ask_page"
            start = " ".join(text.split()[:4])
            yield _fact(evidence, ask, "page", start=start, text=text)


def _gap(text: str, words: Mapping[str, int], evidence: Evidence) -> Fact | None:
    """A sentence with a number left out, else with the longest word that stands in no other
    sentence.
    """
    if found := _NUMBER.search(text):
        kind = "number"
        wrong = _other_numbers(found[0], evidence.seed)
    else:
        own = [m for m in _WORD.finditer(text) if words[m[0]] == 1 and m.start() > 0]
        if not own:
            return None
        kind = "word"
        found = max(own, key=lambda m: len(m[0]))
        here = {word.casefold() for word in _WORD.findall(text)}
        # another word of the sentence might fit the gap; a capital would give the answer away
        alike = [w for w in words if w.istitle() == found[0].istitle()]
        wrong = _some([w for w in alike if w.casefold() not in here], evidence.seed)
    gap = f"{text[: found.start()]}____{text[found.end() :]}"
    question = evidence.say("ask_gap", kind=kind, text=gap)
    reply = evidence.say("gap", answer=found[0], text=text)
    return Fact(question, reply, found[0], tuple(wrong))


def _other_numbers(text: str, seed: int) -> list[str]:
    """Three numbers of the same form near a number of digits, with or without commas."""
    number = int(text.replace(",", "")) if len(text) < 16 else 0
    commas = "," in text
    # years lie nearer to each other than amounts
    is_year = 1000 <= number <= 2100 and not commas
    step = max(1, number // (50 if is_year else 4))
    near = [number + step * k for k in (-3, -2, -1, 1, 2, 3) if number + step * k > 0]
    return [f"{n:,}" if commas else str(n) for n in _some(near, seed)]


def _picture_facts(evidence: Evidence) -> Iterator[Fact]:
    """Questions that measured facts answer with a clear margin."""
    p = evidence.picture
    seed = evidence.seed
    assert p is not None
    whole = p.areas["all"]
    families = [colour.family for colour in whole]
    for area, colours in p.areas.items():
        top = colours[0]
        key = "main" if area == "all" else "area"
        if top.share > 0.55 and (area == "all" or top.family != families[0]):
            # colours with a small share in the area are neither right nor surely wrong
            wrong = _far_colours(colour.family for colour in colours if colour.share > 0.02)
            of = {"area": area, "shade": top.shade}
            yield _fact(evidence, f"ask_{key}", key, top.family, _some(wrong, seed), **of)
    far = _far_colours(families)
    if len(whole) > 2 and whole[1].share > max(0.08, 1.6 * whole[2].share):
        of = {"first": families[0], "shade": whole[1].shade}
        yield _fact(evidence, "ask_second", "second", families[1], _some(far, seed), **of)
    if absent := _shuffled(far, seed):
        of = {"colour": absent[0], "colours": joined([colour.shade for colour in whole[:2]])}
        yield _fact(evidence, "ask_absent", "absent", **of)
        present = families[1] if len(whole) > 1 and whole[1].share > 0.04 else families[0]
        yield _fact(evidence, "ask_present", "", present, absent[1:4])
    first, second, *_, last = sorted(p.quarters, key=lambda name: -p.quarters[name])
    # 14 of 255: a difference that one sees
    if p.quarters[first] > p.quarters[second] + 14:
        others = [name for name in p.quarters if name != first]
        of = {"quarter": first, "other": last}
        yield _fact(evidence, "ask_brightest", "brightest", first, _some(others, seed), **of)
    others = [words for words in _SHAPES if words != shape(p)]
    of = {"shape": shape(p), "width": str(p.width), "height": str(p.height)}
    yield _fact(evidence, "ask_shape", "shape", shape(p), _some(others, seed), **of)
    if not 0.1 <= p.even <= 0.7:
        yield _fact(evidence, "ask_even", "flat" if p.even > 0.7 else "gradual")


def _far_colours(shown: Iterable[str]) -> list[str]:
    """Colours that nobody takes for one of those shown."""
    near = {name for family in shown for name in (family, *NEIGHBOURS[family])}
    return [family for family in NEIGHBOURS if family not in near]


def _some(wrong: Iterable[Item], seed: int) -> list[Item]:
    return _shuffled(wrong, seed)[:3]


def _shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    """Items in an order drawn by hash, whatever their order was."""
    return sorted(items, key=lambda item: (seeded(seed, str(item)), str(item)))


def shape(p: Picture) -> str:
    """How width and height compare, in words."""
    return next(words for words, least in _SHAPES.items() if p.width / p.height >= least)


def _quoted(texts: Sequence[str]) -> str:
    return joined([f"“{text}”" for text in texts])


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
