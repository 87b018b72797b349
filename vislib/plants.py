"""Copies of a data set's own pictures and questions, changed as copies on the web are, which show
what a search for contamination would find.

The changes are those of copy detection (crops, re-encoding, resizing, frames, mirroring), drawn by
hash of seed and id; questions are put into a benchmark's template, lose a word, or are said in
other words where somebody wrote some.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from random import Random

import pandas as pd
from PIL import Image, ImageOps

from vislib.media.pixels import read_image
from vislib.runs import Run
from vislib.runs.tables import Row

_TEMPLATE = "Look at the image and answer the question with the option's letter. "
_Change = Callable[[Image.Image, Random], Image.Image]


def crop(image: Image.Image, draw: Random, *, lost: float) -> Image.Image:
    """A part of the picture, of another shape, without a share `lost` of its area."""
    share = draw.uniform(1 - lost, 1)
    width = image.width * share
    height = image.height * (1 - lost) / share
    left = draw.uniform(0, image.width - width)
    top = draw.uniform(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


CHANGES: dict[str, _Change] = {
    "re-encoded": lambda image, draw: image,
    "smaller": lambda image, draw: ImageOps.scale(image, 0.3),
    "framed": lambda image, draw: ImageOps.expand(image, max(image.size) // 12, "white"),
    "mirrored": lambda image, draw: ImageOps.mirror(image),
}
CHANGES |= {f"crop {n} %": partial(crop, lost=n / 100) for n in (10, 20, 30, 50)}


def copies(units: Iterable[Row], run: Run) -> Iterator[Row]:
    """Every change of the `plants` pictures and questions that rank first, and all questions that
    somebody said in other words; an id is its origin's and the change.
    """
    folder = run.scratch / "planted"
    folder.mkdir(exist_ok=True)
    said = dict[str, str]()
    for place in run.inputs("paraphrases"):
        said |= pd.read_csv(place).set_index("question")["paraphrase"].to_dict()
    for unit in units:
        origin, text = unit["id"] + "/", unit["text"]
        draw = Random(f"{run.seed} {origin}")
        if text in said:  # once, though two kinds may ask the same
            yield unit | {"id": origin + "other words", "text": said.pop(text), "options": ""}
        if unit["rank"] > run.params.plants:
            continue
        if text:
            words = text.split()
            words.pop(draw.randrange(len(words)))
            yield unit | {"id": origin + "a word less", "text": " ".join(words)}
            yield unit | {"id": origin + "template", "text": _TEMPLATE + text}
            continue
        image = read_image(unit["path"])
        for change, make in CHANGES.items():
            file = folder / f"{unit['id']} {change}.jpg"
            make(image, draw).save(file, quality=40)
            yield unit | {"id": origin + change, "path": str(file)}
