"""Boxes by class activation: on the thing that a photograph shows."""

import pytest
from PIL import Image

from vislib.experts.activation import ActivationDetector
from vislib.experts.findings import Box, Findings
from vislib.media.pixels import read_image
from vislib.sample import image_file


@pytest.fixture(scope="module")
def detector() -> ActivationDetector:
    return ActivationDetector(threshold=0.5, device="cpu")


def iou(box: Box, other: tuple[float, float, float, float]) -> float:
    x1, y1, x2, y2 = other
    width = min(box.x2, x2) - max(box.x1, x1)
    height = min(box.y2, y2) - max(box.y1, y1)
    common = max(0, width) * max(0, height)
    return common / (box.width * box.height + (x2 - x1) * (y2 - y1) - common)


@pytest.mark.parametrize(
    ("name", "label", "place"),  # places were measured on the pictures
    [
        ("chelsea.jpg", "Egyptian cat", (0.1, 0.02, 0.85, 1.0)),
        ("clock-ten-past-ten.png", "analog clock", (0.03, 0.03, 0.97, 0.97)),
        ("bukkokaku.jpg", "bell cote", (0.05, 0.1, 0.95, 0.85)),
        ("orbiter-model.jpg", "space shuttle", (0.2, 0.15, 0.75, 0.9)),
    ],
)
def test_the_box_lies_on_what_is_named(detector, name, label, place) -> None:
    [box] = detector(read_image(image_file(name))).boxes
    assert box.label == label
    assert box.score > 0.5
    assert iou(box, place) > 0.5


@pytest.mark.parametrize("corner", [0, 1])
def test_a_thing_in_a_corner_is_framed_there(detector, corner) -> None:
    tripod = read_image(image_file("tripod.jpg"))
    canvas = Image.new("RGB", (tripod.width * 2, tripod.height * 2), "white")
    canvas.paste(tripod, (tripod.width * corner, tripod.height * corner))
    [box] = detector(canvas).boxes
    assert box.label == "tripod"
    assert iou(box, (corner / 2, corner / 2, (corner + 1) / 2, (corner + 1) / 2)) > 0.7


def test_what_it_is_not_sure_of_has_no_box(detector) -> None:
    assert detector(Image.new("RGB", (90, 60), "grey")) == Findings()
