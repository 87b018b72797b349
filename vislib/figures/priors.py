"""Images with what the vision experts found in them, and the captions fused from it
(DenseFusion-1M, examples).

Objects stand in solid boxes with their labels, visible text in dashed ones, numbered as listed
beside the image. The lists are those that a fused prompt holds. A seeded choice picks the samples;
panels are drawn on a `new_sheet`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from vislib.figures.examples import Example, find, pick
from vislib.figures.statistics import text_stems
from vislib.figures.style import CONTRAST, EDGE, GREY, Look
from vislib.figures.text import Column, drawable, shortened, text_width
from vislib.priors import FIELDS, as_fields, clearest, objects
from vislib.runs import InputError

SAMPLES = """
SELECT samples.sample_id, doc_id, image_index, page_url, alt_text, context, priors.image_id, path,
    tags, boxes, texts, caption
FROM samples JOIN images ON images.image_url = samples.image_url AND images.status = 'ok'
JOIN priors ON priors.image_id = images.image_id
JOIN captions ON captions.sample_id = samples.sample_id
    AND captions.status = 'ok' AND kind = '{kind}'
"""
HEADINGS = dict(
    zip(
        FIELDS,
        ("World knowledge", "Tags", "Detections", "Visible text"),
        strict=True,
    )
)
_COLUMN, _LISTS = (
    225.0,
    300.0,
)  # points: width of an image, and where the lists begin
_OBJECT: Look = {"color": EDGE, "linewidth": 0.6, "linestyle": "-", "zorder": 3}
_TEXT: Look = {
    "color": CONTRAST,
    "linewidth": 0.6,
    "linestyle": (0, (3, 1.5)),
    "zorder": 3,
}
_HEADING: Look = {"size": 5.5, "weight": "bold", "color": GREY}
_LABEL, _HIGH, _LONGEST = (
    5.0,
    6.0,
    70.0,
)  # points: size, height and greatest width of a label


def load_examples(
    inputs: Mapping[str, Path],
    *,
    kind: str,
    ids: Sequence[str],
    n: int,
    seed: int,
) -> list[Example]:
    """Samples with image, priors and caption, from the tables of `inputs`: `ids`, or for none a
    seeded choice of `n` from different pages.

    Each has the `fields` of its prompt, and in `source` the stems of what page and picture say.
    Those with an object or a text come first; those whose text the font cannot set are passed over.
    Raises InputError when none is left, or one of `ids`.
    """
    found = find(SAMPLES.format(kind=kind), inputs, ids=ids, n=n, seed=seed)
    shown = [example for example in map(_with_fields, found) if _settable(example)]
    if not shown:
        raise InputError(
            f"no sample has an image, priors, a caption of kind {kind} and a script that the font"
            " can set; mend kind, or leave this figure out of the set"
        )
    # a figure of priors shows little of a picture without findings
    rich = [example for example in shown if len(example["boxes"]) or len(example["texts"])]
    # one image may stand on several pages
    one_each = {example["image_id"]: example for example in rich or shown}
    return pick(shown if ids else list(one_each.values()), ids=ids, n=n, seed=seed)


def _with_fields(row: Example) -> Example:
    fields = as_fields(row, row)
    # "page" is the prompt's own word, none of the page's
    known = fields["world_knowledge"].replace("page: ", "")
    return {
        **row,
        "fields": fields,
        "source": text_stems(f"{known}\n{fields['texts']}"),
    }


def _settable(example: Example) -> bool:
    said = (
        *example["fields"].values(),
        example["caption"],
        example["page_url"],
    )
    return all(map(drawable, said))


def plot_examples(sheet: Column, examples: Sequence[Example], *, lines: int) -> None:
    """Images with their boxes, beside each its priors, at most `lines` of a list, and below its
    caption.

    Words of the caption that stand in world knowledge or visible text are marked.
    """
    for number, example in enumerate(examples):
        if number:
            sheet.axes.plot([1, sheet.width], [sheet.y] * 2, color="0.7", linewidth=0.4)
            sheet.y += 8
        image, beside = (
            sheet.column(0, _COLUMN),
            sheet.column(_LISTS, sheet.width - _LISTS - 8),
        )
        picture = image.draw(example["path"], height=140)
        _draw_findings(sheet.axes, example, picture, listed=lines)
        image.y += 2
        image.write(example["page_url"], size=5, max_lines=1, color=GREY)
        for name, title in HEADINGS.items():
            beside.column(-64, 60).write(title, **_HEADING)
            _write_list(
                beside,
                example["fields"][name],
                lines,
                numbered=name == "texts",
            )
        caption = sheet.column(36, sheet.width - 44)
        # below both columns, over the whole width
        caption.y = max(image.y, beside.y) + 3
        caption.column(-36, 36).write("Caption", **_HEADING)
        caption.write(example["caption"], source=example["source"], max_lines=30)
        sheet.y = caption.y + 5


def _write_list(beside: Column, text: str, lines: int, *, numbered: bool) -> None:
    found = text.split("\n")
    for number, line in enumerate(found[:lines], 1):
        # numbers hang in the margin: they are ours, not the text's
        if numbered and line:
            left = 3 + text_width(str(number), _LABEL)
            beside.column(-left, 20).write(str(number), size=_LABEL, color=CONTRAST)
        beside.write(line or "none", max_lines=4)
    if more := len(found[lines:]):
        beside.write(f"and {more} more", size=5.5, color=GREY)
    beside.y += 3


def _draw_findings(axes: Axes, example: Example, picture: Bbox, *, listed: int) -> None:
    """All texts and boxes that a prompt holds; those among the first `listed` lines with their
    number or label.
    """
    # the same choice and order as in the prompt
    texts = clearest(list(example["texts"]), example["fields"]["texts"].count("\n") + 1)
    boxes = objects(list(example["boxes"]))
    found = [(f, str(n), _TEXT) for n, f in enumerate(texts[:listed], 1)]
    found += [(f, shortened(f["label"], _LONGEST, _LABEL), _OBJECT) for f in boxes[:listed]]
    found += [(f, "", _TEXT) for f in texts[listed:]] + [(f, "", _OBJECT) for f in boxes[listed:]]
    frames = [_frame(axes, finding, picture, look) for finding, _, look in found]
    # frames first: a label keeps off all of them
    taken = list(frames)
    for (_, label, look), at in zip(found, frames, strict=True):
        if label:
            taken.append(_draw_label(axes, label, at, picture, taken, color=look["color"]))


def _frame(axes: Axes, found: Mapping[str, Any], picture: Bbox, look: Look) -> Bbox:
    """Outline a finding, thin on a pale casing, so that it shows on any picture; returns where, in
    points.
    """
    corners = np.array([[found["x1"], found["y1"]], [found["x2"], found["y2"]]])
    box = Bbox(picture.p0 + corners * picture.size)
    # a thin line alone is lost on some picture or other
    casing = [withStroke(linewidth=1.2, foreground="white", alpha=0.8)]
    axes.add_patch(Rectangle(box.p0, *box.size, fill=False, path_effects=casing, **look))
    return box


def _draw_label(
    axes: Axes,
    label: str,
    at: Bbox,
    picture: Bbox,
    taken: Sequence[Bbox],
    *,
    color: str,
) -> Bbox:
    """Write a label above, left, right or below its finding, moved into the picture, where it hides
    least; returns where.
    """
    wide = 2 + text_width(label, _LABEL)
    # labels outside the picture would run into the lists
    last = picture.p1 - (wide, _HIGH)
    plates = []
    for x, y in (
        (at.x0, at.y0 - _HIGH - 0.5),
        (at.x0 - wide - 0.5, at.y0),
        (at.x1 + 0.5, at.y0),
        (at.x0, at.y1 + 0.5),
    ):
        left, top = np.clip((x, y), picture.p0, last)
        plates.append(Bbox.from_bounds(left, top, wide, _HIGH))
    # ties go to the place named first: above, as print labels figures
    plate = min(plates, key=lambda box: box.count_overlaps(taken))
    white: Look = {
        "facecolor": "white",
        "alpha": 0.92,
        "linewidth": 0,
        "zorder": 4,
    }
    axes.add_patch(Rectangle(plate.p0, wide, _HIGH, **white))
    axes.text(
        plate.x0 + 1,
        plate.y1 - 1.4,
        label,
        fontsize=_LABEL,
        color=color,
        zorder=5,
    )
    return plate
