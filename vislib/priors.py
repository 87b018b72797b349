"""Experts' priors as text, the way a fused prompt carries them (DenseFusion-1M, Perceptual Fusion).

One line of world knowledge, one of tags, one per object and one per visible text. Every word comes
from strangers, a model's labels too: each stays on its line, and whoever prints it fences it.
Bounds keep a poster or a crowd near 2,000 tokens, no more than the rules that stand before it; what
a bound keeps is the best; objects are printed by label and place, texts as they are read.
"""

import re
from collections.abc import Mapping, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import Any

FIELDS = ("world_knowledge", "tags", "detections", "texts")
_MOST = 40  # tags, objects and texts each; an object costs about 30 tokens, a tag 3, a text 15
# Characters of one:
_KNOWLEDGE = 300
_LABEL = 60
_TEXT = 120
# The longest first line that is no paragraph: 15 words and 120 characters. A sentence is no title.
_TITLE = re.compile(r"(?=.{1,120}\Z)(?!.*<another-image>)\S+(?: \S+){0,14}(?<![.,;:。])")
_CORNERS = "[{x1:.3f}, {y1:.3f}, {x2:.3f}, {y2:.3f}]"  # more decimals would be tokens for nothing
Found = Mapping[str, Any]  # a tag, box or text of the contract's `priors`


def as_fields(sample: Found, priors: Found) -> dict[str, str]:
    """The text of each of `FIELDS`, "" for nothing found: of a row of 02 or 04 and the row of 05 on
    its image.
    """
    tags = [_line(tag["label"], _LABEL) for tag in priors["tags"][:_MOST]]
    boxes = []
    for box in objects(priors["boxes"]):
        label = _line(box["label"], _LABEL)
        corners = _CORNERS.format_map(box)
        boxes.append(f"{label}: {corners}")
    texts = [_line(text["text"], _TEXT) for text in clearest(priors["texts"], _MOST)]
    return {
        "world_knowledge": world_knowledge(sample),
        "tags": ", ".join(tags),
        "detections": "\n".join(boxes),
        "texts": "\n".join(texts),
    }


def world_knowledge(sample: Found) -> str:
    """What is known of an image beforehand, on one line: its alternative text, and the title of its
    page.

    OBELICS has no column for titles: one is taken from the first line of the context, if the page
    is there from its beginning and that line is as short as titles are.
    """
    alt_text = sample["alt_text"] or ""
    known = [_line(alt_text, _KNOWLEDGE)]
    context = sample["context"] or ""
    before, _, _ = context.partition("<image>")
    first, _, _ = before.partition("\n")
    title = _line(first, _TEXT + 1)
    # A blank line follows each block: with fewer than stand before the image, the page begins
    # earlier, and the first line is any heading.
    blocks = before.count("\n\n")
    whole = blocks >= sample["image_index"] > 0
    if whole and _TITLE.fullmatch(title):
        known.append(f"page: {title}")
    return " | ".join(filter(None, known))


def objects(boxes: Sequence[Found]) -> list[Found]:
    """The boxes that a prompt holds, by label and place."""
    # The first: 05 writes the best first, and its `max_boxes` has let labels and sizes take turns.
    by_place = itemgetter("label", "y1", "x1", "y2", "x2")
    return sorted(boxes[:_MOST], key=by_place)


def clearest(texts: Sequence[Found], count: int) -> list[Found]:
    """The `count` texts that are read most surely and stand largest, in their own order: 05 writes
    them line by line, left to right.
    """

    def clarity(place: int) -> float:
        text = texts[place]
        # The short side of its box is the size of its letters: some text runs upwards.
        width = text["x2"] - text["x1"]
        height = text["y2"] - text["y1"]
        return float(text["score"] * min(width, height))

    places = nlargest(count, range(len(texts)), key=clarity)
    places.sort()
    return [texts[place] for place in places]


def _line(text: str, limit: int) -> str:
    """One line of at most `limit` characters: line breaks inside a text would pass for another
    prior.
    """
    line = " ".join(text.split())
    return line[:limit].strip()
