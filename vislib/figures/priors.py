"""Images with what the vision experts found in them, and the captions fused from it
(DenseFusion-1M, examples).

Objects stand in solid boxes with their labels, visible text in dashed ones, numbered as listed
beside the image. The lists are those that a fused prompt holds. A seeded choice picks the samples;
panels are drawn on a `new_sheet`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox, BboxTransformTo

from vislib.figures.examples import Example, choose
from vislib.figures.style import ASIDE, CONTRAST, EDGE, GREY, Look
from vislib.figures.text import Column, shortened, text_width
from vislib.media.stems import text_stems
from vislib.priors import as_fields, clearest, objects
from vislib.runs import InputError

SAMPLES = """
SELECT samples.sample_id, doc_id, image_index, page_url, alt_text, context, priors.image_id,
    beside_images() || path AS path, tags, boxes, texts, caption,
    len(boxes) + len(texts) > 0 AS rich
FROM samples JOIN images ON images.image_url = samples.image_url AND images.status = 'ok'
JOIN priors ON priors.image_id = images.image_id
JOIN captions ON captions.sample_id = samples.sample_id
    AND captions.status = 'ok' AND kind = '{kind}'
"""
HEADINGS = {  # of the fields of a prompt
    "world_knowledge": "World knowledge",
    "tags": "Tags",
    "detections": "Detections",
    "texts": "Visible text",
}
_COLUMN, _LISTS = 225.0, 300.0  # points: width of an image, and where the lists begin
# a thin line alone is lost on some picture or other
_CASING = withStroke(linewidth=1.2, foreground="white", alpha=0.8)
_OBJECT: Look = {"color": EDGE, "linewidth": 0.6, "zorder": 3, "path_effects": [_CASING]}
_TEXT: Look = {**_OBJECT, "color": CONTRAST, "linestyle": (0, (3, 1.5))}
_LABEL, _HIGH, _LONGEST = 5.0, 6.0, 70.0  # points: size, height and greatest width of a label


def load_examples(
    inputs: Mapping[str, Path], *, kind: str, ids: Sequence[str], n: int, seed: int
) -> list[Example]:
    """Samples with image, priors and caption: `choose` from the tables of `inputs`; those with an
    object or a text come first.

    Each has the `fields` of its prompt, and in `source` the stems of what page and picture say.
    Raises InputError when none is left, or one of `ids`.
    """
    chosen = choose(SAMPLES.format(kind=kind), inputs, ids=ids, n=n, seed=seed)
    if not chosen:
        raise InputError(
            f"no sample has an image, priors, a caption of kind {kind} and a script that the font"
            " can set; mend kind, or leave this figure out of the set"
        )
    for example in chosen:
        fields = example["fields"] = as_fields(example, example)
        # "page" is the prompt's own word, none of the page's
        known = fields["world_knowledge"].replace("page: ", "")
        example["source"] = text_stems(f"{known}\n{fields['texts']}")
    return chosen


def plot_examples(sheet: Column, examples: Sequence[Example], *, lines: int) -> None:
    """Images with their boxes, beside each its priors, at most `lines` of a list, and below its
    caption.

    Words of the caption that stand in world knowledge or visible text are marked.
    """
    for number, example in enumerate(examples):
        if number:
            sheet.axes.plot([1, sheet.width], [sheet.y] * 2, color="0.7", linewidth=0.4)
            sheet.y += 8
        image = sheet.column(0, _COLUMN)
        beside = sheet.column(_LISTS, sheet.width - _LISTS - 8)
        _draw_findings(image, example, lines)
        image.y += 2
        image.write(example["page_url"], size=5, max_lines=1, color=GREY)
        for name, title in HEADINGS.items():
            _write_list(beside, title, example["fields"][name], lines)
        caption = sheet.column(36, sheet.width - 44)
        # below both columns, over the whole width
        caption.y = max(image.y, beside.y) + 3
        caption.hang("Caption", 36)
        caption.write(example["caption"], source=example["source"], max_lines=30)
        sheet.y = caption.y + 5


def _write_list(beside: Column, title: str, text: str, lines: int) -> None:
    beside.hang(title, 64)
    found = text.split("\n")
    for number, line in enumerate(found[:lines], 1):
        # numbers hang in the margin: they are ours, not the text's
        if line and title == HEADINGS["texts"]:
            beside.hang(str(number), 10)
        beside.write(line or "none", max_lines=4)
    if more := len(found[lines:]):
        beside.write(f"and {more} more", **ASIDE)
    beside.y += 3


def _draw_findings(image: Column, example: Example, listed: int) -> None:
    """The picture with all texts and boxes that a prompt holds; the first `listed` of each with
    their number or label.
    """
    picture = image.draw(example["path"], height=140)
    # the same choice and order as in the prompt
    texts = clearest(example["texts"], example["fields"]["texts"].count("\n") + 1)
    boxes = objects(example["boxes"])
    frames = []
    labels = []
    for findings, look in ((texts, _TEXT), (boxes, _OBJECT)):
        for number, found in enumerate(findings, 1):
            seen = Bbox.from_extents(found["x1"], found["y1"], found["x2"], found["y2"])
            at = seen.transformed(BboxTransformTo(picture))
            image.axes.add_patch(Rectangle(at.p0, *at.size, fill=False, **look))
            frames.append(at)
            if number <= listed:
                label = shortened(found.get("label", str(number)), _LONGEST, _LABEL)
                labels.append((label, at, look["color"]))
    # frames first: a label keeps off all of them
    for label, at, color in labels:
        frames.append(_draw_label(image, label, at, picture, frames, color))


def _draw_label(
    image: Column, label: str, at: Bbox, picture: Bbox, taken: Sequence[Bbox], color: str
) -> Bbox:
    """Write a label above, left, right or below its finding, moved into the picture, where it hides
    least; returns where.
    """
    size = np.array([2 + text_width(label, _LABEL), _HIGH])
    left, above = at.p0 - size - 0.5
    places = (at.x0, above), (left, at.y0), (at.x1 + 0.5, at.y0), (at.x0, at.y1 + 0.5)
    # labels outside the picture would run into the lists
    inside = np.clip(places, picture.p0, picture.p1 - size)
    # ties go to the place named first: above, as print labels figures
    plate = min((Bbox([p, p + size]) for p in inside), key=lambda box: box.count_overlaps(taken))
    image.axes.add_patch(
        Rectangle(plate.p0, *plate.size, facecolor="white", alpha=0.92, linewidth=0, zorder=4)
    )
    place = plate.x0 + 1, plate.y1 - 1.4
    image.axes.text(*place, label, fontsize=_LABEL, color=color, zorder=5)
    return plate
