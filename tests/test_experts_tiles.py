"""Tiles cover a long picture at a legible scale, and each line that two of them saw comes out
once.
"""

from itertools import pairwise

import pytest

from vislib.experts.findings import Text
from vislib.experts.tiles import legible_scale, merged, tile_boxes


@pytest.mark.parametrize(
    ("size", "scale", "tiles"),
    [
        ((640, 480), 1, 1),
        ((1600, 1200), 1, 1),
        ((4000, 3000), 0.4, 1),
        ((3200, 1600), 0.5, 1),
        ((60, 1600), 1, 1),
        ((800, 8000), 1, 7),
        ((8000, 800), 1, 7),
        ((1600, 16_000), 0.5, 7),
        ((1, 1), 1, 1),
        ((1, 3000), 1, 3),
    ],
)
def test_a_picture_is_scaled_by_what_is_read_at_once(size, scale, tiles):
    assert legible_scale(size, 1600) == pytest.approx(scale)
    scaled = round(size[0] * scale), round(size[1] * scale)
    boxes = tile_boxes(scaled, 1600)
    assert len(boxes) == tiles
    along = 0 if scaled[0] > scaled[1] else 1
    assert (boxes[0][along], boxes[-1][along + 2]) == (0, scaled[along])
    assert all(after[along] <= before[along + 2] - 400 for before, after in pairwise(boxes))
    assert all(box[along + 2] - box[along] <= 1600 for box in boxes)


def test_an_endless_picture_is_scaled_further():
    size = (800, 80_000)
    scale = legible_scale(size, 1600)
    assert 0.4 < scale < 0.5
    assert len(tile_boxes((round(800 * scale), round(80_000 * scale)), 1600)) == 32


def line(text: str, x: tuple[float, float], y: tuple[float, float], score: float = 0.9) -> Text:
    return Text(text, score, x[0], y[0], x[1], y[1])


def test_lines_of_a_tall_picture_come_once_and_whole():
    first, cut = line("one", (0.1, 0.9), (0.1, 0.12)), line("fwo", (0.1, 0.9), (0.2, 0.205), 0.95)
    again, three = line("two", (0.1, 0.9), (0.2, 0.22), 0.8), line("three", (0.1, 0.9), (0.3, 0.32))
    unsure = line("thrce", (0.1, 0.9), (0.3, 0.319), 0.7)
    found = merged([[first, cut], [again, three], [unsure]], wide=False)
    assert [text.text for text in found] == ["one", "two", "three"]
    beside = [line("left", (0.1, 0.3), (0.1, 0.12)), line("right", (0.4, 0.6), (0.1, 0.12))]
    assert merged([beside, list(beside)], wide=False) == beside
    assert merged([[], []], wide=False) == []


def test_a_line_across_the_tiles_of_a_wide_picture_is_joined():
    parts = [
        [line("The harbour was op", (0.0, 0.4), (0.1, 0.2)), line("below", (0.0, 0.1), (0.5, 0.6))],
        [
            line("ur was opened in 1932 by th", (0.25, 0.7), (0.1, 0.2), 0.8),
            line("beside", (0.5, 0.6), (0.5, 0.6)),
        ],
        [line("in 1932 by the mayor", (0.55, 1.0), (0.1, 0.2))],
    ]
    found = {text.text: text for text in merged(parts, wide=True)}
    assert set(found) == {"The harbour was opened in 1932 by the mayor", "below", "beside"}
    whole = found["The harbour was opened in 1932 by the mayor"]
    assert (whole.x1, whole.x2, whole.score) == (0.0, 1.0, 0.8)
