"""What print needs of a figure: every text inside it, and none over another."""

from itertools import combinations
from typing import Any

from matplotlib.figure import Figure


def texts_of(figure: Figure) -> list[Any]:
    """All texts that a figure draws: titles, labels, numbers, legends, ticks in view, notes."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label]
            found += [t.label1 for axis in (axes.xaxis, axes.yaxis) for t in axis._update_ticks()]
        if legend := axes.get_legend():
            found += legend.get_texts()
    return [t for t in found if t is not None and t.get_visible() and t.get_text().strip()]


def assert_readable(figure: Figure, *, may_overlap: Any = ()) -> None:
    """No text is cut, and none overlaps another, but for those of `may_overlap`, which lie on
    pictures.
    """
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    whole = figure.bbox
    for said, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
        assert inside, f"{said!r} is cut: {box} in {whole}"
    for (one, a), (other, b) in combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        # boxes hold the room of the tallest letters: a point of it may be shared
        if wide > 1 and high > 2:
            assert {one, other} & set(may_overlap), f"{one!r} and {other!r} overlap"
