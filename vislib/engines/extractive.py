"""The baseline without a model: captions and questions from what a page says and a picture
measures.

It stands beside the models of VisCon-100K (sections 3.2, 3.3) as a floor, and is named in every
record. Nothing is understood: alternative text and the nearest sentences are quoted, colours are
measured, questions fill templates or leave a gap in a sentence. An answer depends on its own
request alone; no token is billed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, zip_longest
from pathlib import PurePath
from typing import Any

from vislib.engines import Answer, Answered, Json, Request
from vislib.media.picture import NEIGHBOURS, Colour, Picture, measure
from vislib.media.pixels import ImageError, read_image
from vislib.media.tokenization import sentences
from vislib.media.words import UNSPACED
from vislib.priors import clearest
from vislib.qa_format import Round, render_rounds
from vislib.runs import seeded, short_hash

MODEL = "extractive-3"  # raised by whoever changes what it writes
ROUNDS = 4  # of each question type
# Kinds that may use the page; `fused` may use the alternative text, and all the visible text.
_OF_PAGE = ("contextual", "fused_contextual")
_QUOTED = 2  # sentences nearest to the picture that a caption quotes
_ASKED = 8  # and that questions are about
_SENTENCE = range(30, 261)  # characters of a sentence of prose that can be quoted
_LABEL = range(3, 301)  # characters of an alternative text that somebody wrote for readers
_SURE = 0.95  # score of a text that is quoted
_NAMED = 6  # texts that are named
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


class Extractive:
    """Answers from the evidence in each request."""

    name = journal = "extractive"
    model = MODEL

    def basis(self, request: Request) -> Json:
        """All that an answer is made of; the image by its file's name, which names its content."""
        # the folder of a run must not change the key; the name of the file is its content's hash
        given = dict(request.evidence, image_path="", caption="")
        image = PurePath(str(request.evidence["image_path"])).name
        evidence = repr(sorted(given.items()))
        return {"evidence": short_hash(request.id, str(request.seed), image, evidence)}

    def answer(self, requests: Iterable[Request]) -> Answered:
        """Answer each request; one without any evidence fails with reason `no_evidence`."""
        writers = {"caption": caption, "free_form": free_form, "multiple_choice": multiple_choice}
        for request in requests:
            text = writers[request.evidence["task"]](gather(request))
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
    picture: Picture | None
    seed: int

    def options(self, question: str, right: str, wrong: Iterable[str]) -> Iterator[Round]:
        """A round of multiple choice, if there are three wrong options; all are placed by hash."""
        # so that no letter is right more often than another
        place = seeded(self.seed, question) % 4
        options = sorted(wrong, key=lambda word: seeded(self.seed, word))[:3]
        if len(options) == 3:
            options.insert(place, right)
            yield Round(question, tuple(options), "ABCD"[place])


def gather(request: Request) -> Evidence:
    """The evidence that a request's kind may use."""
    given = request.evidence
    kind, sample = given["kind"], given["sample"]
    label = "" if kind == "non_contextual" else clean(sample["alt_text"] or "").strip(" .-–:;,")
    # kinds without experts have no priors at all
    texts = (given["priors"] or {"texts": ()})["texts"]
    legible = [t for t in texts if t["score"] >= _SURE and _LETTERS.search(t["text"])]
    named = (clean(text["text"]) for text in clearest(legible, _NAMED))
    return Evidence(
        # a single word is a file's name or a heading, and labels nothing
        label=label if len(label) in _LABEL and " " in label else "",
        sentences=nearest_sentences(sample["context"] or "") if kind in _OF_PAGE else (),
        texts=tuple(dict.fromkeys(named)),  # a sign that is read twice is said once
        picture=_picture(str(given["image_path"])),
        seed=seeded(request.seed, request.id, kind),
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
    return tuple(dict.fromkeys(_in_turn(_prose(after), reversed(_prose(before)))))[:_ASKED]


def _prose(text: str) -> list[str]:
    lines = map(str.strip, sentences(text))
    whole = (line for line in lines if len(line) in _SENTENCE and _END.search(line))
    return [clean(line) for line in whole if not _CODE.search(line)]


def _in_turn(*lists: Iterable[Any]) -> Iterator[Any]:
    """The first of each, the second of each, …"""
    return (item for row in zip_longest(*lists) for item in row if item)


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
        said.append(f"It is labelled “{evidence.label}”.")
    if p := evidence.picture:
        kind = "black-and-white picture" if p.grey else "picture in colour"
        said.append(f"It is a {kind}, {shape(p)}, mostly {_shades(p)}.")
    if evidence.texts:
        said.append(f"It reads {_quoted(evidence.texts)}.")
    if evidence.sentences:
        said.append(f"The page says: {_quoted(evidence.sentences[:_QUOTED])}")
    return " ".join(said)


def free_form(evidence: Evidence) -> str:
    """Questions with an answer in words, of the page and of the picture in turn."""
    of_page = []
    if evidence.label:
        of_page.append(("How does the page label the picture?", f"“{evidence.label}”."))
    if evidence.texts:
        of_page.append(("What text can be read in it?", f"It reads {_quoted(evidence.texts)}."))
    for text in evidence.sentences[::2]:  # the other half has gaps: see `multiple_choice`
        start = " ".join(text.split()[:4])
        of_page.append((f"What does the page say, beginning with “{start}”?", f"“{text}”"))
    of_picture = []
    if p := evidence.picture:
        size = f"It is {p.width} by {p.height} pixels: {shape(p)}."
        of_picture.append(("What size and format does the picture have?", size))
        widest = f"The widest colours are {_shades(p)}."
        of_picture.append(("Which colours cover most of the picture?", widest))
        if far := _far_colours(p):
            absent = far[evidence.seed % len(far)]
            question = f"Does {absent} cover any noticeable part of the picture?"
            of_picture.append((question, f"No, no area of {absent} can be measured."))
    chosen = islice(_in_turn(of_page, of_picture), ROUNDS)
    return render_rounds(Round(question, (), answer) for question, answer in chosen)


def multiple_choice(evidence: Evidence) -> str:
    """Questions with four options, of the page and of the picture in turn."""
    # a word that stands in two sentences would be no gap: the other one gives it away
    words = Counter(word for text in evidence.sentences for word in set(_WORD.findall(text)))
    of_page = (gap for text in evidence.sentences[1::2] for gap in _gap(text, words, evidence))
    return render_rounds(islice(_in_turn(of_page, _picture_choices(evidence)), ROUNDS))


def _gap(text: str, words: Mapping[str, int], evidence: Evidence) -> Iterator[Round]:
    """A sentence with a number left out, else with the longest word that stands in no other
    sentence.
    """
    own = [m for m in _WORD.finditer(text) if words[m[0]] == 1 and m.start() > 0]
    if found := _NUMBER.search(text):
        number = int(found[0].replace(",", ""))
        near = [number + (1 + number // 50) * k for k in range(-3, 4) if k]
        wrong = [f"{n:,}" if "," in found[0] else str(n) for n in near if n > 0]
    elif found := max(own, key=lambda m: len(m[0]), default=None):
        here = {word.casefold() for word in _WORD.findall(text)}
        # another word of the sentence might fit the gap; a capital would give the answer away
        alike = [word for word in words if word.istitle() == found[0].istitle()]
        wrong = [word for word in alike if word.casefold() not in here]
    else:
        return
    gap = f"{text[: found.start()]}____{text[found.end() :]}"
    yield from evidence.options(f"What is missing on the page: “{gap}”", found[0], wrong)


def _picture_choices(evidence: Evidence) -> Iterator[Round]:
    """Questions that measured facts answer with a clear margin."""
    if (p := evidence.picture) is None:
        return
    first, *others = sorted(p.quarters, key=lambda name: -p.quarters[name])
    # 14 of 255: a difference that one sees
    if p.quarters[first] > p.quarters[others[0]] + 14:
        yield from evidence.options("Which quarter of the picture is brightest?", first, others)
    far = _far_colours(p)
    if p.colours[0].share > 0.55:
        main = p.colours[0].family
        yield from evidence.options("Which colour covers most of the picture?", main, far)
    own = _wide(p)[-1].family
    yield from evidence.options("Which of these colours does the picture hold?", own, far)
    others = [words for words in _SHAPES if words != shape(p)]
    yield from evidence.options("How do its width and height compare?", shape(p), others)


def _wide(p: Picture) -> Sequence[Colour]:
    """The widest colours; smaller shares are noise of scaling and compression."""
    return [colour for colour in p.colours if colour.share > 0.05][:3]


def _shades(p: Picture) -> str:
    return joined([colour.shade for colour in _wide(p)])


def _far_colours(p: Picture) -> list[str]:
    """Colours that nobody takes for one of those in the picture."""
    near = {name for colour in p.colours for name in (colour.family, *NEIGHBOURS[colour.family])}
    return [family for family in NEIGHBOURS if family not in near]


def shape(p: Picture) -> str:
    """How width and height compare, in words."""
    return next(words for words, least in _SHAPES.items() if p.width / p.height >= least)


def _quoted(texts: Sequence[str]) -> str:
    return joined([f"“{text}”" for text in texts])


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
