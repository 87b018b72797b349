"""Priors drawn on their picture, for people to check (DenseFusion-1M shows its experts' boxes in
this way).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vislib.media.pixels import read_image
from vislib.runs import Run, sql, tables
from vislib.runs.tables import Row

_OBJECT, _TEXT = "#d62728", "#1f5fbf"  # red and blue, which colour-blind readers tell apart


def overlay(path: str | Path, prior: Mapping[str, Any], *, side: int = 480) -> Image.Image:
    """The picture with its longest side at `side` px, smaller or larger: objects in red with
    labels, texts in blue.

    Texts bear their number, counted from 1 in the prior's order. Raises ImageError, as `read_image`
    does.
    """
    image = read_image(path)
    scale = side / max(image.size)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    image = image.resize((width, height))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    # Words are too long to stand on their own line of text: they bear numbers.
    shown = [(box, box["label"], _OBJECT) for box in prior["boxes"]]
    shown += [(text, str(number), _TEXT) for number, text in enumerate(prior["texts"], 1)]
    for entry, label, colour in shown:
        left, right = entry["x1"] * image.width, entry["x2"] * image.width
        top, bottom = entry["y1"] * image.height, entry["y2"] * image.height
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
        draw.text(
            # Above it, not on what it names; at the upper edge there is no room but within.
            (left, max(top, 16)),
            label,
            colour,
            font,
            anchor="lb",
            stroke_width=2,
            stroke_fill="white",
        )
    return image


def _described(prior: Mapping[str, Any]) -> dict[str, list[str]]:
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


def examples(run: Run, count: int) -> list[Row]:
    """A seeded handful to look at, those with boxes or texts first.

    Rows of `priors` with the `picture` that shows them, and their lists as lines for people.
    """
    # An image may stand in the ledger under several addresses.
    query = f"""
    SELECT priors.row AS prior, path
    FROM priors JOIN (SELECT image_id, min(path) AS path FROM images GROUP BY image_id)
        USING (image_id)
    ORDER BY len(boxes) + len(texts) = 0, {sql.drawn("image_id", run.seed)} LIMIT {count}
    """
    ledger = run.table("images")
    shown = run.sql(query, into="shown", priors=run.data / "priors", images=ledger)
    rows = []
    for found in tables.read_rows(shown):
        prior = found["prior"]
        picture = run.scratch / f"{prior['image_id']}.png"
        overlay(ledger.parent / found["path"], prior).save(picture)
        rows.append(prior | {"picture": picture} | _described(prior))
    return rows
