"""Priors drawn on their picture, for people to check (DenseFusion-1M shows its experts' boxes in
this way).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vislib.media.pixels import read_image

_OBJECT, _TEXT = "#d62728", "#1f5fbf"  # red and blue, which colour-blind readers tell apart


def overlay(path: str | Path, prior: Mapping[str, Any], *, side: int = 480) -> Image.Image:
    """The picture with its longest side at `side` px, smaller or larger: objects in red with
    labels, texts in blue.

    Texts bear their number, counted from 1 in the prior's order. Raises ImageError, as `read_image`
    does.
    """
    image = read_image(path)
    scale = side / max(image.size)
    wide, high = (max(1, round(edge * scale)) for edge in image.size)
    image = image.resize((wide, high))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    # Words are too long to stand on their own line of text: they bear numbers.
    shown = [(box, box["label"], _OBJECT) for box in prior["boxes"]]
    shown += [(text, str(number), _TEXT) for number, text in enumerate(prior["texts"], 1)]
    for entry, label, colour in shown:
        x1, y1 = entry["x1"] * image.width, entry["y1"] * image.height
        x2, y2 = entry["x2"] * image.width, entry["y2"] * image.height
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        width, height = draw.textlength(label, font) + 4, 15
        # Above, or before: not on what it names.
        x, y = (x1, y1 - height) if y1 >= height else (x1 - width, y1)
        x = max(0, min(x, image.width - width))
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + 2, y), label, "white", font)
    return image


def described(prior: Mapping[str, Any]) -> dict[str, list[str]]:
    """A prior's lists as lines for people: `label 0.93` of tags and boxes, `1 text 0.93` of
    texts.
    """
    return {
        "tags": [f"{tag['label']} {tag['score']:.2f}" for tag in prior["tags"]],
        "boxes": [f"{box['label']} {box['score']:.2f} ({box['expert']})" for box in prior["boxes"]],
        "texts": [
            f"{n} {text['text']} {text['score']:.2f}" for n, text in enumerate(prior["texts"], 1)
        ],
    }
