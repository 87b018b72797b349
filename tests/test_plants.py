"""Planted copies: what each change does, and that equal seeds plant equal copies."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from vislib.plants import CHANGES, crop

PICTURE = Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 40).convert("RGB")


@pytest.mark.parametrize("lost", [0.1, 0.3, 0.5])
def test_a_crop_loses_its_share_and_nothing_else(lost: float) -> None:
    shapes = set()
    for seed in range(20):
        part = crop(PICTURE, Random(seed), lost=lost)
        shapes.add(part.size)
        area = part.width * part.height / (300 * 200)
        assert area == pytest.approx(1 - lost, abs=0.01)
        assert part.width <= 300
        assert part.height <= 200
    assert len(shapes) > 10
    assert crop(PICTURE, Random(1), lost=lost) == crop(PICTURE, Random(1), lost=lost)


def test_each_change_is_one() -> None:
    made = {name: make(PICTURE, Random(0)) for name, make in CHANGES.items()}
    assert made["smaller"].size == (90, 60)
    assert made["framed"].size == (350, 250)
    assert made["mirrored"].getpixel((0, 0)) == PICTURE.getpixel((299, 0))
    assert np.array_equal(made["re-encoded"], PICTURE)  # by the JPEG that it is saved as
