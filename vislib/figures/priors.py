"""Images with what the vision experts found in them, and the captions fused from it
(DenseFusion-1M, examples).

Objects stand in solid boxes with their labels, visible text in dashed ones, numbered as listed
beside the image. The lists are those that a fused prompt holds. A seeded choice picks the samples;
panels are drawn on a `new_sheet`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

from vislib.figures.plots import CONTRAST, EDGE, PAPER_GREY
from vislib.figures.statistics import overlap, source_stems
from vislib.figures.typeset import SIZE, draw_image, draw_text, drawable, shortened
from vislib.priors import FIELDS, as_fields, clearest, objects
from vislib.runs import InputError, choose, tables
from vislib.runs.tables import Row

HEADINGS = dict(zip(FIELDS, ("World knowledge", "Tags", "Detections", "Visible text"), strict=True))
_POOL = 40  # candidates looked at for each example that is wanted
_COLUMN, _HEADING = 225.0, 58.0  # points: widths of an image, and of a heading
_LABEL, _HIGH, _LONGEST = (
    5.0,
    6.0,
    70.0,
)  # points: size of a label, height and greatest width of its plate


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample with its image file, the row of priors of that image, these as a prompt's
    `fields`, and its caption.

    `source` has the stems of what page and picture say: of world knowledge and visible text.
    """

    sample: Row
    image: Path
    priors: Row
    fields: Mapping[str, str]
    source: frozenset[str]
    caption: str


def load_examples(
    *,
    samples: Path,
    images: Path,
    priors: Path,
    captions: Path,
    kind: str,
    ids: Sequence[str],
    n: int,
    seed: int,
) -> list[Example]:
    """The samples `ids`, or for none a seeded choice of `n` from different pages, all with image,
    priors and caption.

    Those with an object or a text come first; those whose text the font cannot set are passed over.
    Raises InputError when none is left, or one of `ids`.
    """
    states = tables.read_rows(captions, ["sample_id", "kind", "status"])
    captioned = {row["sample_id"] for row in states if (row["kind"], row["status"]) == (kind, "ok")}
    pool = list(ids) or choose(sorted(captioned), n * _POOL, seed)
    found = {e.sample["sample_id"]: e for e in _join(pool, samples, images, priors, captions, kind)}
    if not found or set(ids) - set(found):
        raise InputError(
            f"{captions}: {sorted(set(ids) - set(found)) or 'each sample'} lacks an image, priors,"
            f" a caption of kind {kind}, or a script that the font can set; mend sample_ids or"
            " kind, or leave this figure out of the set"
        )
    if ids:
        return [found[name] for name in ids]
    rich = [name for name, e in found.items() if e.priors["boxes"] or e.priors["texts"]]
    pages = {found[name].sample["doc_id"]: name for name in rich or found}
    one_each = {found[name].priors["image_id"]: name for name in pages.values()}
    return [found[name] for name in choose(one_each.values(), n, seed)]


def _join(
    pool: Sequence[str], samples: Path, images: Path, priors: Path, captions: Path, kind: str
) -> Iterator[Example]:
    rows = tables.lookup(samples, "sample_id", pool)
    files = tables.lookup(images, "image_url", [row["image_url"] for row in rows.values()])
    found = tables.lookup(
        priors, "image_id", [file["image_id"] for file in files.values() if file["status"] == "ok"]
    )
    texts = {
        row["sample_id"]: row["caption"]
        for row in tables.read_rows(captions, ["sample_id", "kind", "caption", "status"])
        if row["sample_id"] in rows and (row["kind"], row["status"]) == (kind, "ok")
    }
    for name, sample in rows.items():
        file = files.get(sample["image_url"])
        if file and file["image_id"] in found and name in texts:
            fields = as_fields(sample, found[file["image_id"]])
            known = fields["world_knowledge"].replace(
                "page: ", ""
            )  # which is the prompt's own word
            if all(map(drawable, (*fields.values(), texts[name], sample["page_url"]))):
                yield Example(
                    sample=sample,
                    image=images.parent / file["path"],
                    priors=found[file["image_id"]],
                    fields=fields,
                    source=source_stems(
                        {"page_url": "", "alt_text": known, "context": fields["texts"]}
                    ),
                    caption=texts[name],
                )


def example_table(examples: Sequence[Example]) -> Any:
    """The priors and the caption of each example, with the counts of `overlap`: the table behind
    the figure.
    """
    import pandas

    return pandas.DataFrame(
        [
            {
                "sample_id": e.sample["sample_id"],
                "image_id": e.priors["image_id"],
                "page_url": e.sample["page_url"],
                **{name: len(e.priors[name]) for name in ("boxes", "texts")},
                **overlap(e.caption, e.source),
                **{HEADINGS[name].lower(): text for name, text in e.fields.items()},
                "caption": e.caption,
            }
            for e in examples
        ]
    )


def plot_examples(axes: Axes, examples: Sequence[Example], *, width: float, lines: int) -> float:
    """Images with their boxes, beside each its priors, at most `lines` of a list, and below its
    caption.

    Words of the caption that stand in world knowledge or visible text are marked. Returns the
    height in points.
    """
    y = 2.0
    for example in examples:
        y = _plot_example(axes, example, y=y, width=width, lines=lines) + 5
        if example is not examples[-1]:
            axes.plot([1, width - 1], [y, y], color="0.7", linewidth=0.4)
            y += 8
    return y


def _plot_example(axes: Axes, example: Example, *, y: float, width: float, lines: int) -> float:
    below = draw_image(axes, example.image, x=1, y=y, width=_COLUMN, height=140)
    _draw_boxes(
        axes, example, Bbox([[1, y], [axes.images[-1].get_extent()[1], below]]), listed=lines
    )
    grey: dict[str, Any] = {"max_lines": 1, "color": PAPER_GREY}
    below = draw_text(
        axes, example.sample["page_url"], x=1, y=below + 2, width=_COLUMN, size=5, **grey
    )
    heading: dict[str, Any] = {"width": _HEADING, "size": 5.5, "weight": "bold", **grey}
    left = _COLUMN + 18 + _HEADING
    for name, title in HEADINGS.items():
        draw_text(axes, title, x=_COLUMN + 12, y=y + 0.7, **heading)
        found = example.fields[name].split("\n")
        for number, line in enumerate(found[:lines], 1):
            if name == "texts" and line:
                axes.text(
                    left - 3, y + SIZE, str(number), fontsize=_LABEL, color=CONTRAST, ha="right"
                )
            y = draw_text(axes, line or "none", x=left, y=y, width=width - left - 8, max_lines=4)
        if more := len(found[lines:]):
            y = draw_text(
                axes, f"and {more} more", x=left, y=y, width=width - left, size=5.5, **grey
            )
        y += 3
    y = max(y, below) + 3
    draw_text(axes, "Caption", x=1, y=y + 0.7, **heading)
    return draw_text(
        axes, example.caption, x=36, y=y, width=width - 44, source=example.source, max_lines=30
    )


def _draw_boxes(axes: Axes, example: Example, picture: Bbox, *, listed: int) -> None:
    """All boxes that a prompt holds; those among the first `listed` lines with their label or
    number.
    """
    texts = clearest(example.priors["texts"], example.fields["texts"].count("\n") + 1)
    boxes = objects(example.priors["boxes"])
    taken = [
        _frame(axes, found, picture, margin=0.8, color=CONTRAST, linestyle=(0, (3, 1.5)))
        for found in texts
    ]
    for number, at in enumerate(taken[:listed], 1):
        x, y = at.x0 - 2 - 3.2 * len(str(number)), (at.y0 + at.y1 - _HIGH) / 2
        places = [(x, y), (at.x1 + 0.5, y), (at.x0, at.y0 - _HIGH - 0.5)]
        _draw_label(axes, str(number), places, picture, taken, color=CONTRAST)
    for position, found in enumerate(boxes):
        at = _frame(axes, found, picture, color=EDGE, linestyle="-")
        if position < listed:
            places = [
                (at.x0, at.y0 - _HIGH - 0.5),
                (at.x0, at.y0),
                (at.x0, at.y1 + 0.5),
                (at.x1, at.y0),
            ]
            _draw_label(
                axes,
                shortened(found["label"], _LONGEST, _LABEL),
                places,
                picture,
                taken,
                color=EDGE,
            )


def _frame(
    axes: Axes, found: Mapping[str, Any], picture: Bbox, *, margin: float = 0.0, **look: Any
) -> Bbox:
    """Outline a finding, thin on a pale casing, so that it shows on any picture; returns where, in
    points.
    """
    corners = np.array([[found["x1"], found["y1"]], [found["x2"], found["y2"]]])
    box = Bbox(picture.p0 + corners * picture.size).padded(margin)
    casing = [withStroke(linewidth=1.2, foreground="white", alpha=0.8)]
    axes.add_patch(
        Rectangle(
            box.p0, box.width, box.height, fill=False, linewidth=0.6, path_effects=casing, **look
        )
    )
    return box


def _draw_label(
    axes: Axes,
    label: str,
    places: Sequence[tuple[float, float]],
    picture: Bbox,
    taken: list[Bbox],
    *,
    color: str,
) -> None:
    """Write a label at that of `places` (top left corners, moved into the picture) where it hides
    least of `taken`.
    """
    wide = 2 + TextPath((0, 0), label, size=_LABEL).get_extents().width
    last = picture.x1 - wide, picture.y1 - _HIGH
    inside = [
        (max(picture.x0, min(x, last[0])), max(picture.y0, min(y, last[1]))) for x, y in places
    ]
    plate = min(
        (Bbox.from_bounds(x, y, wide, _HIGH) for x, y in inside),
        key=lambda box: box.count_overlaps(taken),
    )
    taken.append(plate)
    axes.add_patch(
        Rectangle(
            (plate.x0, plate.y0), wide, _HIGH, facecolor="white", alpha=0.92, linewidth=0, zorder=3
        )
    )
    axes.text(plate.x0 + 1, plate.y1 - 1.4, label, fontsize=_LABEL, color=color, zorder=4)
