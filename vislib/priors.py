"""Experts' priors as text, the way a fused prompt carries them (DenseFusion-1M, Perceptual Fusion).

One line of world knowledge, one of tags, one per object and one per visible text. Every word comes
from strangers, a model's labels too: each stays on its line, and whoever prints it fences it.
Bounds keep a poster or a crowd near 2,000 tokens, no more than the rules that stand before it; what
a bound keeps is the best, printed in an order of its own.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

FIELDS = ("world_knowledge", "tags", "detections", "texts")
_MOST = 40  # tags, objects and texts each; an object costs about 30 tokens, a tag 3, a text 15
_KNOWLEDGE, _LABEL, _TEXT = 300, 60, 120  # characters of one
# The longest first line that is no paragraph: 15 words and 120 characters. A sentence is no title.
_TITLE = re.compile(r"(?=.{1,120}\Z)(?!.*<another-image>)\S+(?: \S+){0,14}(?<![.,;:。])")
_CORNERS = "[{x1:.3f}, {y1:.3f}, {x2:.3f}, {y2:.3f}]"  # more decimals would be tokens for nothing
_place = itemgetter("y1", "x1", "y2", "x2")
Found = Mapping[str, Any]  # a tag, box or text of the contract's `priors`


def as_fields(sample: Found, priors: Found) -> dict[str, str]:
    """The text of each of `FIELDS`, "" for nothing found: of a row of 02 or 04 and the row of 05 on
    its image.
    """
    tags = sorted(priors["tags"], key=lambda tag: (-tag["score"], tag["label"]))
    # Two experts may give one label: it stands once, where the surer one put it.
    labels = dict.fromkeys(_line(tag["label"], _LABEL) for tag in tags)
    boxes = [
        f"{_line(box['label'], _LABEL)}: {_CORNERS.format_map(box)}"
        for box in objects(priors["boxes"])
    ]
    texts = [_line(text["text"], _TEXT) for text in clearest(priors["texts"], _MOST)]
    return {
        "world_knowledge": world_knowledge(sample),
        "tags": ", ".join(list(labels)[:_MOST]),
        "detections": "\n".join(boxes),
        "texts": "\n".join(texts),
    }


def world_knowledge(sample: Found) -> str:
    """What is known of an image beforehand, on one line: its alternative text, and the title of its
    page.

    OBELICS has no column for titles: one is taken from the first line of the context, if the page
    is there from its beginning and that line is as short as titles are.
    """
    known = [_line(sample["alt_text"] or "", _KNOWLEDGE)]
    before = str(sample["context"] or "").partition("<image>")[0]
    title = _line(before.partition("\n")[0], _TEXT + 1)
    # A blank line follows each block: with fewer than stand before the image, the page begins
    # earlier, and the first line is any heading.
    whole = before.count("\n\n") >= sample["image_index"] > 0
    if whole and _TITLE.fullmatch(title):
        known.append(f"page: {title}")
    return " | ".join(filter(None, known))


def objects(boxes: Sequence[Found]) -> list[Found]:
    """At most so many boxes as a prompt holds, by label and place: the best of every label before
    the second best.
    """
    seen, turns = Counter[str](), list[tuple[int, Found]]()
    for box in sorted(boxes, key=lambda box: (-box["score"], _place(box), box["label"])):
        seen[box["label"]] += 1
        turns.append((seen[box["label"]], box))
    turns.sort(key=itemgetter(0))  # stable: the surest of each turn stay in front
    kept = [box for _, box in turns[:_MOST]]
    return sorted(kept, key=lambda box: (box["label"], _place(box)))


def clearest(texts: Sequence[Found], count: int) -> list[Found]:
    """The `count` texts that are read most surely and stand largest, in reading order: line by
    line, left to right.
    """

    def doubt(text: Found) -> tuple[float, ...]:
        # The short side of its box is the size of its letters: some text runs upwards.
        side = min(text["x2"] - text["x1"], text["y2"] - text["y1"])
        return (-text["score"] * side, *_place(text))

    lines: list[list[Found]] = []
    kept = sorted(texts, key=doubt)[:count]
    for text in sorted(kept, key=lambda text: (text["y1"] + text["y2"], text["x1"])):
        # A text is of a line if its middle lies beside the line's first text.
        if not lines or text["y1"] + text["y2"] >= 2 * lines[-1][0]["y2"]:
            lines.append([])
        lines[-1].append(text)
    return [text for line in lines for text in sorted(line, key=itemgetter("x1"))]


def _line(text: str, limit: int) -> str:
    """One line of at most `limit` characters: line breaks inside a text would pass for another
    prior.
    """
    return " ".join(text.split())[:limit].strip()
