"""Measured picture facts: what the numbers say is what the pixels are."""

import numpy as np
import pytest
from PIL import Image

from vislib.media.picture import measure


def test_picture_facts_are_what_the_pixels_are() -> None:
    pixels = np.zeros((90, 180, 3), dtype=np.uint8)
    pixels[:45], pixels[45:] = (60, 120, 220), (30, 140, 50)
    pixels[5:20, 5:20] = (220, 30, 20)
    facts = measure(Image.fromarray(pixels))
    assert facts is not None
    assert (facts.width, facts.height, facts.grey) == (180, 90, False)
    assert [colour.family for colour in facts.colours][:2] == ["green", "blue"]
    assert facts.colours[0].shade == "green"
    assert facts.colours[1].share == pytest.approx(0.5 - 225 / 16200, abs=0.02)
    assert facts.quarters["upper right"] > facts.quarters["lower right"]


def test_grey_noise_is_grey() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    grey = measure(Image.fromarray(noise).convert("RGB"))
    assert grey is not None
    assert grey.grey


def test_a_picture_too_small_to_speak_of_has_no_facts() -> None:
    assert measure(Image.new("RGB", (15, 400))) is None


@pytest.mark.parametrize(
    ("rgb", "family"),
    [
        ((255, 255, 255), "white"),
        ((5, 5, 8), "black"),
        ((128, 128, 128), "grey"),
        ((220, 20, 20), "red"),
        ((250, 140, 20), "orange"),
        ((110, 70, 35), "brown"),
        ((250, 230, 40), "yellow"),
        ((30, 160, 50), "green"),
        ((40, 190, 180), "turquoise"),
        ((30, 60, 220), "blue"),
        ((130, 60, 200), "purple"),
        ((250, 130, 190), "pink"),
        ((235, 215, 180), "beige"),
    ],
)
def test_colours_have_their_common_names(rgb: tuple[int, int, int], family: str) -> None:
    facts = measure(Image.new("RGB", (32, 32), rgb))
    assert facts is not None
    assert facts.colours[0].family == family
