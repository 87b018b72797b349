"""Vectors of images: a CLIP-family model's, as in DenseFusion-1M (selection), or an embedded
stand-in for it.

`colour-gradient` needs no model. It sees where which colours and edges lie, and knows no meaning: a
red car and a red door may be alike, two photographs of one cat need not be. It is there so that the
sample set runs; data for training want a CLIP-family model.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vislib.media.vision import load_vision_model
from vislib.runs import InputError

Vectors = NDArray[np.float32]
COLOUR_GRADIENT = "colour-gradient"
_SIDE, _CELLS, _EDGE_CELLS, _ANGLES = (
    48,
    6,
    4,
    8,
)  # px; cells a side of layout and edges; directions
_FAINT = 0.05  # below this norm a part counts less: noise of a blank picture is no layout


class Encoder(Protocol):
    """Pictures in, vectors out. `prepare` runs in threads, so that a large picture is let go at
    once.
    """

    name: str
    dimension: int

    def prepare(self, image: Image.Image) -> Any: ...

    def __call__(self, prepared: Sequence[Any]) -> Vectors: ...


class ColourGradient:
    """Palette, colour layout and edge directions of a picture: 336 values around zero, of unit
    length.
    """

    name, dimension = f"{COLOUR_GRADIENT} 1", 100 + 3 * _CELLS**2 + _ANGLES * _EDGE_CELLS**2

    def prepare(self, image: Image.Image) -> Vectors:
        """The vector of one RGB picture, shape (336,)."""
        from skimage.color import rgb2lab

        small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
        lab = rgb2lab(np.asarray(small)) / 100
        parts = _palette(lab[::2, ::2].reshape(-1, 3)), _layout(lab), _edges(lab[..., 0])
        lengths = [float(np.linalg.norm(part)) for part in parts]
        return np.concatenate(
            [p / max(n, _FAINT) for p, n in zip(parts, lengths, strict=True)]
        ).astype(np.float32)

    def __call__(self, prepared: Sequence[Any]) -> Vectors:
        """Vectors of one batch, shape (len(prepared), 336)."""
        return np.stack(prepared)


def _palette(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much there is of each of 4 x 5 x 5 colours, softly, against an even palette."""
    levels = np.meshgrid(
        np.linspace(0.125, 0.875, 4), *2 * [np.linspace(-0.6, 0.6, 5)], indexing="ij"
    )
    colours = np.stack(levels, axis=-1).reshape(-1, 3)
    near = np.exp(-((pixels[:, None] - colours) ** 2).sum(axis=-1) / 0.04)
    shares = np.sqrt((near / near.sum(axis=1, keepdims=True)).mean(axis=0))
    return cast(NDArray[np.float64], shares - shares.mean())


def _layout(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colour of each cell against the picture's mean."""
    step = _SIDE // _CELLS
    cells = lab.reshape(_CELLS, step, _CELLS, step, 3).mean(axis=(1, 3))
    return cast(NDArray[np.float64], (cells - cells.mean(axis=(0, 1))).ravel())


def _edges(lightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strength of edges by cell and direction, against even edges everywhere."""
    down, right = np.gradient(lightness)
    strength, turn = np.hypot(down, right), np.arctan2(down, right) / np.pi * _ANGLES
    lower = np.floor(turn).astype(int)
    cell = np.arange(_SIDE) * _EDGE_CELLS // _SIDE
    place = (cell[:, None] * _EDGE_CELLS + cell) * _ANGLES
    total = np.zeros(_ANGLES * _EDGE_CELLS**2)
    for angle, share in (
        (lower, lower + 1 - turn),
        (lower + 1, turn - lower),
    ):  # an edge between two counts for both
        total += np.bincount(
            (place + angle % _ANGLES).ravel(), (strength * share).ravel(), len(total)
        )
    shares = np.sqrt(total / _SIDE**2)
    return cast(NDArray[np.float64], shares - shares.mean())


class ClipFamily:
    """The image side of a CLIP-family model (CLIP, SigLIP, SigLIP 2 ...): a hub id, `id@revision`,
    or a folder.
    """

    def __init__(self, value: str, *, device: str) -> None:
        self.vision = load_vision_model(
            value, "AutoModel", parameter="embedding_model", device=device
        )
        if not hasattr(self.vision.model, "get_image_features"):
            kind = type(self.vision.model).__name__
            raise InputError(
                f"embedding_model is {value!r}, a {kind}, which gives no image features; name a"
                f" CLIP-family model (CLIP, SigLIP, SigLIP 2) or {COLOUR_GRADIENT}"
            )
        self.name = f"{value} {self.vision.revision}"
        self.dimension = self([self.prepare(Image.new("RGB", (64, 64), "grey"))]).shape[1]

    def prepare(self, image: Image.Image) -> Any:
        """The model's input for one picture, a batch of one."""
        return self.vision.inputs([image])

    def __call__(self, prepared: Sequence[Any]) -> Vectors:
        """Image features of one batch, shape (len(prepared), dimension)."""
        import torch

        batch = type(prepared[0])(
            {name: torch.cat([one[name] for one in prepared]) for name in prepared[0]}
        )
        with torch.inference_mode():
            found = self.vision.model.get_image_features(**batch)
        features = getattr(
            found, "pooler_output", found
        )  # older model code gives the tensor itself
        return cast(Vectors, features.float().cpu().numpy())


def load_encoder(value: str, *, device: str) -> Encoder:
    """The encoder that the parameter `embedding_model` names. Raises InputError."""
    if not value:
        raise InputError(f"embedding_model is empty: name {COLOUR_GRADIENT} or a CLIP-family model")
    return ColourGradient() if value == COLOUR_GRADIENT else ClipFamily(value, device=device)
