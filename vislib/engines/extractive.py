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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

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
_SAYS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["wordings"]
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
_SURE = 0.95  # score of a text that is quoted
_NAMED = 6  # texts and labels that are named
# Lines that are code, links or questions: quoted, they would say nothing of a picture.
_CODE = re.compile(r"[{}<>|=$\\#@→►©]|::|//|\w\(\)|\.(?:png|jpe?g|gif|html?)\b|\?$", re.IGNORECASE)
_END = re.compile(r"[.!。！？؟۔।][\"”’»)\]」』）]*$")
_NUMBER = re.compile(
    r"(?<![\w.,/:-])\d{1,3}(?:,\d{3})+(?![\w.,])|(?<![\w.,/:-])\d+(?![\w/:%-]|[.,]\d)"
)
# Long enough for a content word, in scripts with blanks.
_WORD = re.compile(rf"[^\W\d_{UNSPACED}]{{5,}}")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_SHAPES = {  # the least width for a height of 1
    "more than twice as wide as tall": 2.0,
    "wider than tall": 1.05,
    "square": 0.95,
    "taller than wide": 0.0,
}
Item = TypeVar("Item")


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
            evidence = gather(request)
            task = request.evidence["task"]
            text = caption(evidence) if task == "caption" else questions(evidence, task)
            answer = Answer(text=text, model=MODEL, finish_reason="stop")
            silent = replace(answer, status="failed", reason="no_evidence")
            yield request, answer if text else silent


class Fact(NamedTuple):
    """What can be asked: `reply` answers it freely; `answer` and three `wrong` ones make
    options.
    """

    question: str
    reply: str
    answer: str = ""
    wrong: tuple[str, ...] = ()


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

    def say(self, key: str, **fields: Any) -> str:
        """One of the wordings of `key`, drawn by hash."""
        return str(_SAYS[key][seeded(self.seed, key) % len(_SAYS[key])]).format(**fields)

    def shuffled(self, items: Iterable[Item], name: Callable[[Item], str] = str) -> list[Item]:
        """Items in an order drawn by the hash of their names, whatever their order was."""
        return sorted(items, key=lambda item: (seeded(self.seed, name(item)), name(item)))

    def fact(
        self, ask: str, reply: str, answer: str = "", wrong: Iterable[str] = (), **fields: Any
    ) -> Fact:
        """A fact in the wordings of `ask` and `reply` ("": it makes options alone)."""
        question = self.say(ask, **fields)
        replied = self.say(reply, answer=answer, **fields) if reply else ""
        # numbers are drawn without their commas
        drawn = self.shuffled(wrong, lambda word: word.replace(",", ""))
        return Fact(question, replied, answer, tuple(drawn[:3]))


def gather(request: Request) -> Evidence:
    """The evidence that a request's kind may use."""
    given = request.evidence
    uses = _SOURCES[given["kind"]]
    sample = given["sample"]
    # kinds without experts have no priors at all
    found = given["priors"] or {"texts": (), "boxes": ()}
    label = clean(str(sample["alt_text"] or "")).strip(" .-–:;,") if "alt_text" in uses else ""
    legible = (t for t in found["texts"] if t["score"] >= _SURE and _LETTERS.search(t["text"]))
    texts = [clean(text["text"]) for text in clearest(list(legible), _NAMED)]
    return Evidence(
        # a single word is a file's name or a heading, and labels nothing
        label=label if len(label) in _LABEL and " " in label else "",
        sentences=nearest_sentences(str(sample["context"] or "")) if "context" in uses else (),
        texts=tuple(dict.fromkeys(texts)),  # a sign that is read twice is said once
        objects=_objects(found["boxes"]) if "boxes" in uses else (),
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
    # one after the other: what follows a picture speaks of it as often as what precedes
    pairs = zip_longest(_prose(after), reversed(_prose(before)))
    near = (text for pair in pairs for text in pair if text)
    return tuple(dict.fromkeys(near))[:_ASKED]


def _prose(text: str) -> list[str]:
    lines = map(str.strip, sentences(text))
    whole = (line for line in lines if len(line) in _SENTENCE and _END.search(line))
    return [clean(line) for line in whole if not _CODE.search(line)]


def _objects(boxes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Labels with their number where it is above one, by their best score."""
    ranked = sorted(boxes, key=lambda box: (-box["score"], box["label"]))
    counts = Counter(clean(box["label"]) for box in ranked)
    named = [f"{label} ({n})" if n > 1 else label for label, n in counts.items() if label]
    return tuple(named[:_NAMED])


@lru_cache(maxsize=4096)
def _picture(path: str) -> Picture | None:
    """Measured facts of an image, once per run; None for one that cannot be read."""
    try:
        return measure(read_image(path))
    except (ImageError, OSError):
        return None


def caption(evidence: Evidence) -> str:
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


def questions(evidence: Evidence, task: str) -> str:
    """Rounds of one question type, of the page and of the picture in turn, as a model is asked to
    write them.
    """
    of_picture = evidence.shuffled(_picture_facts(evidence))
    pairs = zip_longest(_page_facts(evidence), of_picture)
    chosen = planned([fact for pair in pairs for fact in pair if fact])[task]
    if task == "free_form":
        return render_rounds([Round(fact.question, (), fact.reply) for fact in chosen])
    rounds = []
    for fact in chosen:
        # by hash, so that no letter is right more often than another
        place = seeded(evidence.seed, fact.question) % 4
        options = (*fact.wrong[:place], fact.answer, *fact.wrong[place:])
        rounds.append(Round(fact.question, options, "ABCD"[place]))
    return render_rounds(rounds)


def planned(able: Sequence[Fact]) -> dict[str, list[Fact]]:
    """At most `ROUNDS` facts for each question type, none for both: each goes where fewer are.

    Fewer facts make options than make replies: at equal numbers they go to multiple choice. A type
    that is left without any takes one of the other's.
    """
    fit = {
        "multiple_choice": [fact for fact in able if len(fact.wrong) == 3],
        "free_form": [fact for fact in able if fact.reply],
    }
    plan: dict[str, list[Fact]] = {name: [] for name in fit}
    for fact in able:
        names = [name for name in fit if fact in fit[name]]
        name = min(names, key=lambda name: len(plan[name]), default="")
        if name and len(plan[name]) < ROUNDS:
            plan[name].append(fact)
    return {name: chosen or fit[name][:1] for name, chosen in plan.items()}


def _page_facts(evidence: Evidence) -> Iterator[Fact]:
    """Questions that the page, or the words in the picture, answer."""
    if evidence.label:
        yield evidence.fact("ask_label", "label", label=evidence.label)
    if evidence.texts:
        yield evidence.fact("ask_texts", "texts", texts=_quoted(evidence.texts))
    # a word that stands in two sentences would be no gap: the other one gives it away
    words = Counter(word for text in evidence.sentences for word in set(_WORD.findall(text)))
    for number, text in enumerate(evidence.sentences):
        if gap := _gap(text, words, evidence):
            yield gap
        elif number < _QUOTED:
            ask = "ask_more" if number else "ask_page"
            yield evidence.fact(ask, "page", start=" ".join(text.split()[:4]), text=text)


def _gap(text: str, words: Mapping[str, int], evidence: Evidence) -> Fact | None:
    """A sentence with a number left out, else with the longest word that stands in no other
    sentence.
    """
    kind = "number"
    if found := _NUMBER.search(text):
        wrong = _other_numbers(found[0])
    else:
        own = [m for m in _WORD.finditer(text) if words[m[0]] == 1 and m.start() > 0]
        if not own:
            return None
        kind = "word"
        found = max(own, key=lambda m: len(m[0]))
        here = {word.casefold() for word in _WORD.findall(text)}
        # another word of the sentence might fit the gap; a capital would give the answer away
        alike = (word for word in words if word.istitle() == found[0].istitle())
        wrong = [word for word in alike if word.casefold() not in here]
    gap = f"{text[: found.start()]}____{text[found.end() :]}"
    return evidence.fact("ask_gap", "gap", found[0], wrong, kind=kind, gap=gap, text=text)


def _other_numbers(text: str) -> list[str]:
    """Numbers of the same form near a number of digits, with or without commas."""
    number = int(text.replace(",", "")) if len(text) < 16 else 0
    # years lie nearer to each other than amounts
    step = max(1, number // (50 if 1000 <= number <= 2100 and "," not in text else 4))
    near = [number + step * k for k in (-3, -2, -1, 1, 2, 3)]
    return [f"{n:,}" if "," in text else str(n) for n in near if n > 0]


def _picture_facts(evidence: Evidence) -> Iterator[Fact]:
    """Questions that measured facts answer with a clear margin."""
    if (p := evidence.picture) is None:
        return
    whole = p.areas["all"]
    families = [colour.family for colour in whole]
    for area, colours in p.areas.items():
        top = colours[0]
        key = "main" if area == "all" else "area"
        if top.share > 0.55 and (area == "all" or top.family != families[0]):
            # colours with a small share in the area are neither right nor surely wrong
            wrong = _far_colours(colour.family for colour in colours if colour.share > 0.02)
            yield evidence.fact(f"ask_{key}", key, top.family, wrong, area=area, shade=top.shade)
    far = _far_colours(families)
    if len(whole) > 2 and whole[1].share > max(0.08, 1.6 * whole[2].share):
        of = {"first": families[0], "shade": whole[1].shade}
        yield evidence.fact("ask_second", "second", families[1], far, **of)
    if far:
        absent, *others = evidence.shuffled(far)
        shades = joined([colour.shade for colour in whole[:2]])
        yield evidence.fact("ask_absent", "absent", colour=absent, colours=shades)
        present = families[1] if len(whole) > 1 and whole[1].share > 0.04 else families[0]
        yield evidence.fact("ask_present", "", present, others)
    first, second, third, last = sorted(p.quarters, key=lambda name: -p.quarters[name])
    # 14 of 255: a difference that one sees
    if p.quarters[first] > p.quarters[second] + 14:
        of = {"quarter": first, "other": last}
        yield evidence.fact("ask_brightest", "brightest", first, (second, third, last), **of)
    form = shape(p)
    others = [words for words in _SHAPES if words != form]
    of = {"shape": form, "width": str(p.width), "height": str(p.height)}
    yield evidence.fact("ask_shape", "shape", form, others, **of)
    if not 0.1 <= p.even <= 0.7:
        yield evidence.fact("ask_even", "flat" if p.even > 0.7 else "gradual")


def _far_colours(shown: Iterable[str]) -> list[str]:
    """Colours that nobody takes for one of those shown."""
    near = {name for family in shown for name in (family, *NEIGHBOURS[family])}
    return [family for family in NEIGHBOURS if family not in near]


def shape(p: Picture) -> str:
    """How width and height compare, in words."""
    return next(words for words, least in _SHAPES.items() if p.width / p.height >= least)


def _quoted(texts: Sequence[str]) -> str:
    return joined([f"“{text}”" for text in texts])


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
