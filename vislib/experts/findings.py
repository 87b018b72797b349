"""What vision experts say of an image, the interface that they share, and the boxes of several as
one list of bounded length (DenseFusion-1M, Perceptual Fusion).

Coordinates are 0-1 of the width and height of the image as `pixels.read_image` shows it, x to the
right, y downwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from PIL import Image

_LIMITS = (32**2, 96**2)  # px of area: COCO's small, medium and large objects


@dataclass(frozen=True)
class Tag:
    """A label for the whole image, and how sure the expert is, 0-1."""

    label: str
    score: float


@dataclass(frozen=True)
class Box:
    """An object or a line of text: its name or words, score (0-1) and corners, x1 < x2, y1 < y2."""

    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Share of the picture's."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Share of the picture's."""
        return self.y2 - self.y1


@dataclass(frozen=True)
class Findings:
    """What one expert, or several, found in one image."""

    tags: tuple[Tag, ...] = ()
    boxes: tuple[Box, ...] = ()
    texts: tuple[Box, ...] = ()
    notes: tuple[str, ...] = ()  # what run.json counts: that a picture could not be read well, say


class Expert(Protocol):
    """An image in, findings out. `name` is what records call it; `model` and `revision` say what
    answers.
    """

    name: str
    model: str
    revision: str

    def __call__(self, image: Image.Image, tags: Sequence[str]) -> Findings:
        """Findings of an RGB image; `tags` are the labels that the tagger gave it.

        May raise anything: the stage then sets aside what it was asked for.
        """
        ...


Found = tuple[str, Box]  # the expert, and what it found


def merge(found: Mapping[str, Sequence[Box]], *, overlap: float) -> list[Found]:
    """All experts' boxes, best first; of two with one label and an IoU above `overlap` (0-1) the
    lesser is left out.

    Labels are compared without case and outer spaces. Scores of different experts are compared as
    they are: nothing calibrates them, and thresholds are set per expert. The order of experts and
    of their boxes changes nothing.
    """
    import cv2

    boxes = [(name, box) for name, of_expert in found.items() for box in of_expert]
    if not boxes:
        return []
    ranked = sorted(boxes, key=_rank)
    corners = [(box.x1, box.y1, box.width, box.height) for _, box in ranked]
    # Places stand for scores: of equal ones OpenCV would keep any.
    places = [float(place) for place in range(len(ranked), 0, -1)]
    # Label by label: two things of different names may share a place.
    names = pd.Series(map(_name, ranked))
    labels, _ = pd.factorize(names)
    kept = cv2.dnn.NMSBoxesBatched(corners, places, labels.tolist(), 0.0, overlap)
    return [ranked[index] for index in sorted(kept)]


def balanced(found: Sequence[Found], max_boxes: int, size: tuple[int, int]) -> list[Found]:
    """At most `max_boxes` (0: all) of them, best first; when there are more, small, medium and
    large ones in turn.

    `size` is the image's width and height in px, for COCO's classes of size. Within a class labels
    take turns too, best scores first, so that a crowd of one thing leaves room for the others.
    """
    # Best scores alone would keep the large things: detectors are surer of them.
    ranked = sorted(found, key=_rank)
    if not max_boxes or len(ranked) <= max_boxes:
        return ranked
    boxes = pd.DataFrame({"label": map(_name, ranked)})
    width, height = size
    area = np.array([box.width * box.height for _, box in ranked]) * width * height
    boxes["size"] = np.searchsorted(_LIMITS, area, side="right")
    # A box's turn among those of its size and label orders its size; its place there orders all.
    boxes["turn"] = boxes.groupby(["size", "label"]).cumcount()
    boxes = boxes.sort_values("turn", kind="stable")
    boxes["place"] = boxes.groupby("size").cumcount()
    chosen = boxes.sort_values(["place", "size"]).index[:max_boxes]
    return [ranked[index] for index in sorted(chosen)]


def _name(one: Found) -> str:
    return one[1].label.strip().casefold()


def _rank(one: Found) -> tuple[float | str, ...]:
    # Everything that a box has, so that equal scores fall the same way whatever the order.
    expert, box = one
    return -box.score, _name(one), *vars(box).values(), expert
