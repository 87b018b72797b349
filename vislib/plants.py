"""Copies of a data set's own pictures and questions, changed as copies on the web are, which show
what a search for contamination would find.

The changes are those of copy detection (image similarity challenges: crops, re-encoding, resizing,
frames, mirroring), drawn by hash of seed and id; questions are put into a benchmark's template,
lose a word, or are said in other words where somebody wrote some.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random

from PIL import Image, ImageOps

from vislib.media.pixels import read_image
from vislib.runs import Run, choose, seeded
from vislib.runs.tables import Row

PLANTED = "planted"  # the benchmark that copies make up
_TEMPLATE = "Look at the image and answer the question with the option's letter. {}"
Picture = Image.Image


def crop(image: Picture, draw: Random, *, lost: float) -> Picture:
    """A part of the picture, of another shape, without a share `lost` of its area."""
    width = draw.uniform(1 - lost, 1)
    size = round(image.width * width), round(image.height * (1 - lost) / width)
    left, top = (
        draw.randint(0, whole - side) for whole, side in zip(image.size, size, strict=True)
    )
    return image.crop((left, top, left + size[0], top + size[1]))


CHANGES: dict[str, Callable[[Picture, Random], Picture]] = {
    "re-encoded": lambda image, draw: image,
    "smaller": lambda image, draw: image.resize((image.width // 3 + 1, image.height // 3 + 1)),
    "framed": lambda image, draw: ImageOps.expand(image, max(image.size) // 12, "white"),
    "mirrored": lambda image, draw: ImageOps.mirror(image),
    **{f"crop {share} %": partial(crop, lost=share / 100) for share in (10, 20, 30, 50)},
}


def pictures(units: Sequence[Row], run: Run) -> Iterator[Row]:
    """Every change of `plants` of the pictures; an id is its origin's and the change."""
    folder = run.scratch / PLANTED
    folder.mkdir(parents=True, exist_ok=True)
    for unit in choose(units, run.params.plants, run.seed, key=lambda row: str(row["id"])):
        image = read_image(unit["path"])
        for change, make in CHANGES.items():
            file = folder / f"{unit['id']} {change}.jpg"
            make(image, Random(seeded(run.seed, unit["id"], change))).save(file, quality=40)
            yield {"id": f"{unit['id']}/{change}", "path": str(file)}


def questions(units: Sequence[Row], run: Run) -> Iterator[Row]:
    """As many questions in a template and without a word, and all those that somebody said in other
    words.
    """
    said = dict[str, str]()
    for place in run.inputs("paraphrases"):
        with place.open(encoding="utf-8", newline="") as stream:
            said |= {row["question"]: row["paraphrase"] for row in csv.DictReader(stream)}
    for unit in choose(units, run.params.plants, run.seed, key=lambda row: str(row["id"])):
        words = unit["text"].split()
        del words[seeded(run.seed, unit["id"], "word") % len(words)]
        texts = {"template": _TEMPLATE.format(unit["text"]), "a word less": " ".join(words)}
        for change, text in texts.items():
            yield unit | {"id": f"{unit['id']}/{change}", "text": text}
    for unit in units:
        # once, though two kinds may ask the same
        if text := said.pop(unit["text"], ""):
            yield unit | {"id": f"{unit['id']}/other words", "text": text, "options": []}
