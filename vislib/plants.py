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
    # what stays is `share` of the width, and so much of the height that areas agree
    share = draw.uniform(1 - lost, 1)
    width = image.width * share
    height = image.height * (1 - lost) / share
    # and anywhere
    left = draw.uniform(0, image.width - width)
    top = draw.uniform(0, image.height - height)
    right = left + width
    bottom = top + height
    return image.crop((left, top, right, bottom))


# a crop alone is drawn
CHANGES: dict[str, _Change] = {
    "re-encoded": lambda image, _: image,
    "smaller": lambda image, _: ImageOps.scale(image, 0.3),
    "framed": lambda image, _: ImageOps.expand(image, max(image.size) // 12, "white"),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "crop 10 %": partial(crop, lost=0.1),
    "crop 20 %": partial(crop, lost=0.2),
    "crop 30 %": partial(crop, lost=0.3),
    "crop 50 %": partial(crop, lost=0.5),
}


def copies(units: Iterable[Row], run: Run) -> Iterator[Row]:
    """Every change of the `plants` pictures and questions that rank first, and all questions that
    somebody said in other words; an id is its origin's and the change.
    """
    said = dict[str, str]()
    for place in run.inputs("paraphrases"):
        # a question and a paraphrase a row
        said |= pd.read_csv(place).set_index("question")["paraphrase"].to_dict()
    for unit in units:
        origin = unit["id"] + "/"
        text = unit["text"]
        # random numbers of its own: one unit more or less changes no other's copies
        draw = Random(f"{run.seed} {origin}")
        if text in said:
            # once, though two kinds may ask the same
            yield unit | {
                "id": origin + "other words",
                "text": said.pop(text),
                "options": "",  # nobody said those in other words
            }
        if unit["rank"] > run.params.plants:
            continue
        if text:
            words = text.split()
            lost = draw.randrange(len(words))
            del words[lost]
            shorter = " ".join(words)
            yield unit | {"id": origin + "a word less", "text": shorter}
            longer = _TEMPLATE + text
            yield unit | {"id": origin + "template", "text": longer}
            continue
        image = read_image(unit["path"])
        for change, make in CHANGES.items():
            name = f"planted {unit['id']} {change}.jpg"
            file = run.scratch / name
            # as poor as pictures get that were saved again and again
            copied = make(image, draw)
            copied.save(file, quality=40)
            yield unit | {"id": origin + change, "path": str(file)}
