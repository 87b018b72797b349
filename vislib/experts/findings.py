"""What vision experts say of an image, and the one interface that they share (DenseFusion-1M,
Perceptual Fusion).

Coordinates are 0-1 of the width and height of the image as `pixels.read_image` shows it, x to the
right, y downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class Tag:
    """A label for the whole image, and how sure the expert is, 0-1."""

    label: str
    score: float


class Corners:
    """What the corners of a box say of its size, as shares of the picture's sides."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """Share of the picture."""
        return self.width * self.height


@dataclass(frozen=True)
class Box(Corners):
    """An object: its label, score (0-1), and corners, x1 < x2 and y1 < y2."""

    label: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Text(Corners):
    """A line of text that can be read in the image, with score and upright bounding box."""

    text: str
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Findings:
    """What one expert, or several, found in one image."""

    tags: tuple[Tag, ...] = ()
    boxes: tuple[Box, ...] = ()
    texts: tuple[Text, ...] = ()
    notes: tuple[str, ...] = ()  # what run.json counts: that a picture could not be read well, say


class Expert(Protocol):
    """Images in, findings out. `name` is what records call it; `model` and `revision` say what
    answers.
    """

    name: str
    model: str
    revision: str

    def __call__(
        self, images: Sequence[Image.Image], tags: Sequence[Sequence[str]]
    ) -> list[Findings]:
        """Findings of each RGB image, in order; `tags` are the labels that the tagger gave each
        image.

        May raise anything: the stage then asks for the images one by one, and sets aside what fails
        alone.
        """
        ...
