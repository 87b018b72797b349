"""Boxes of several experts as one list, of bounded length, small objects kept (DenseFusion-1M,
Perceptual Fusion).

Scores of different experts are compared as they are: nothing calibrates them, and thresholds are
set per expert.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vislib.experts.findings import Box

LIMITS = (32**2, 96**2)  # px of area: COCO's small, medium and large objects
Found = tuple[str, Box]  # the expert, and what it found


def clipped(box: Box) -> Box | None:
    """The part of a box within the image; None without an area, or with a coordinate or score that
    is no number.
    """
    corners = box.x1, box.y1, box.x2, box.y2
    if not all(map(math.isfinite, (box.score, *corners))):
        return None
    within = Box(box.label, box.score, *(min(max(value, 0.0), 1.0) for value in corners))
    return within if within.width > 0 and within.height > 0 else None


def iou(box: Box, others: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of one box with each of others, all with an area."""
    corners = np.array([(o.x1, o.y1, o.x2, o.y2) for o in others], dtype=float)
    # At once for all others: a page of text has hundreds of boxes, and each is held against each.
    x1, y1, x2, y2 = corners.reshape(-1, 4).T
    width = np.clip(np.minimum(box.x2, x2) - np.maximum(box.x1, x1), 0, None)
    height = np.clip(np.minimum(box.y2, y2) - np.maximum(box.y1, y1), 0, None)
    common = width * height
    shared: NDArray[np.float64] = common / (box.area + (x2 - x1) * (y2 - y1) - common)
    return shared


def merge(found: Mapping[str, Sequence[Box]], *, overlap: float) -> list[Found]:
    """All experts' boxes, best first; of two with one label and an IoU above `overlap` (0-1) the
    lesser is left out.

    Labels are compared without case and outer spaces. Boxes must have an area (see `clipped`). The
    order of experts and of their boxes changes nothing.
    """
    waiting: dict[str, list[Found]] = {}
    everyone = [(expert, box) for expert, boxes in found.items() for box in boxes]
    for one in sorted(everyone, key=_rank):
        waiting.setdefault(_name(one), []).append(one)
    # Non-maximum suppression, label by label: two things of different names may share a place.
    kept: list[Found] = []
    for alike in waiting.values():
        while alike:
            first, *others = alike
            kept.append(first)
            apart = iou(first[1], [box for _, box in others]) <= overlap
            alike = [one for one, far in zip(others, apart, strict=True) if far]
    return sorted(kept, key=_rank)


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
    # A box's turn among those of its class and label orders its class; its place there orders all.
    turns: Counter[tuple[int, str]] = Counter()
    turned: list[tuple[int, int, Found]] = []
    for one in ranked:
        kind = _size_class(one[1], size), _name(one)
        turned.append((turns[kind], kind[0], one))
        turns[kind] += 1
    places: Counter[int] = Counter()
    placed: list[tuple[int, int, Found]] = []
    for _, size_class, one in sorted(turned, key=lambda entry: entry[0]):
        placed.append((places[size_class], size_class, one))
        places[size_class] += 1
    chosen = sorted(placed, key=lambda entry: entry[:2])[:max_boxes]
    return sorted((one for *_, one in chosen), key=_rank)


def _size_class(box: Box, size: tuple[int, int]) -> int:
    area = box.area * size[0] * size[1]
    return sum(area >= limit for limit in LIMITS)


def _name(one: Found) -> str:
    return one[1].label.strip().casefold()


def _rank(one: Found) -> tuple[float | str, ...]:
    # Everything that a box has, so that equal scores fall the same way whatever the order.
    expert, box = one
    return -box.score, _name(one), box.x1, box.y1, box.x2, box.y2, expert, box.label
