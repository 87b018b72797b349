"""Pictures that are far longer than wide, read in overlapping tiles at a scale at which text is
legible.

A screenshot of a whole page, 800 x 8,000 px, scaled by its longest side shows no letter, and an OCR
that is shown it invents some. So such a picture is scaled by its short side, as if it were twice as
long as wide, and read in tiles; a line that two tiles saw becomes one.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from math import ceil

from vislib.experts.findings import Text

_ASPECT = 2  # long side to short side of what is read whole
_OVERLAP = 4  # a tile shares this part of its length with the next: higher than any line but titles
_MOST = 32  # tiles of a picture: half a minute or more; a longer one is scaled further
Size = tuple[int, int]


def legible_scale(size: Size, side: int) -> float:
    """The scale, at most 1, at which a picture of `size` px is read in tiles of at most `side`
    px.
    """
    # Nobody waits an hour for one picture: beyond so many tiles legibility gives way.
    short, long = sorted(size)
    shared = side // _OVERLAP
    most = _MOST * (side - shared) + shared
    return min(1.0, side / min(long, _ASPECT * short), most / long)


def tile_boxes(size: Size, side: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the tiles of a scaled picture, evenly along its long side."""
    width, height = size
    long = max(size)
    if long <= side:
        return [(0, 0, width, height)]
    shared = side // _OVERLAP
    count = ceil((long - shared) / (side - shared))
    starts = [round(i * (long - side) / (count - 1)) for i in range(count)]
    if width > height:
        return [(start, 0, start + side, height) for start in starts]
    return [(0, start, width, start + side) for start in starts]


def merged(tiles: Iterable[list[Text]], *, wide: bool) -> list[Text]:
    """The lines of all tiles, in order, each once; `wide`: tiles stand side by side and cut
    lines.
    """
    done: list[Text] = []
    previous: list[Text] = []
    for found in tiles:
        current: list[Text] = []
        for line in found:
            same = [t for t in (*current, *previous) if _is_same(t, line)]
            cut = [t for t in previous if wide and _goes_on(t, line)]
            # A twin makes place for what the two make together, which may have a twin again.
            if twins := same + cut:
                twin = twins[0]
                (current if twin in current else previous).remove(twin)
                line = _better(twin, line) if same else _joined(twin, line)
            current.append(line)
        done += previous
        previous = current
    return done + previous


def _shared(a: Text, b: Text) -> tuple[float, float]:
    """What two boxes share of the lesser one's width and height."""
    x = min(a.x2, b.x2) - max(a.x1, b.x1)
    y = min(a.y2, b.y2) - max(a.y1, b.y1)
    return x / min(a.width, b.width), y / min(a.height, b.height)


def _is_same(a: Text, b: Text) -> bool:
    return min(_shared(a, b)) > 0.5


def _goes_on(a: Text, b: Text) -> bool:
    x, y = _shared(a, b)
    return x > 0 and y > 0.5


def _better(a: Text, b: Text) -> Text:
    """The whole one of a line that was cut by a tile's end; of two whole ones the surer."""
    small, large = sorted((b, a), key=lambda t: t.area)
    return large if small.area <= 0.8 * large.area else max(a, b, key=lambda t: t.score)


def _joined(a: Text, b: Text) -> Text:
    """One line of two parts that both hold its middle."""
    common = SequenceMatcher(None, a.text, b.text, autojunk=False).find_longest_match()
    # Less in common may be chance: then both parts stand.
    words = a.text[: common.a] + b.text[common.b :] if common.size > 2 else f"{a.text} {b.text}"
    left, top = min(a.x1, b.x1), min(a.y1, b.y1)
    right, bottom = max(a.x2, b.x2), max(a.y2, b.y2)
    return Text(words, min(a.score, b.score), left, top, right, bottom)
