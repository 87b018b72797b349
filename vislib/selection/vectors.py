"""Unit vectors of a whole run's images, by a CLIP-family model as in DenseFusion-1M (selection), or
by an embedded stand-in for it.

Threads decode while the model runs; vectors lie in a file, and a killed run goes on. The stand-in,
`colour-gradient`, needs no model. It sees where which colours and edges lie, and knows no meaning:
a red car and a red door may be alike, two photographs of one cat need not be. It is there so that
the sample set runs; data for training want a CLIP-family model.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vislib.media.pixels import read_image
from vislib.media.vision import load_vision_model
from vislib.runs import InputError, short_hash

Vectors = NDArray[np.float32]
_SAVED_AFTER = 4096  # images: a killed run embeds as many anew at most
_AHEAD = 2  # batches that are decoded while one is with the model
COLOUR_GRADIENT = "colour-gradient"
_SIDE = 48  # px of the picture that is looked at
_CELLS, _EDGE_CELLS = 6, 4  # a side, of layout and of edges
_ANGLES = 8  # directions of edges
_FAINT = 0.05  # below this norm a part counts less: noise of a blank picture is no layout


class ColourGradient:
    """Palette, colour layout and edge directions of a picture: 336 values around zero, of unit
    length.
    """

    name = f"{COLOUR_GRADIENT} 1"  # with the number of its making: it names files of vectors
    dimension = 100 + 3 * _CELLS**2 + _ANGLES * _EDGE_CELLS**2

    def prepare(self, image: Image.Image) -> Vectors:
        """The vector of one RGB picture, shape (336,)."""
        from skimage.color import rgb2lab

        # Lab, in which equal steps look about equally large.
        small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
        lab = rgb2lab(np.asarray(small)) / 100
        parts = _palette(lab[::2, ::2].reshape(-1, 3)), _layout(lab), _edges(lab[..., 0])
        lengths = [float(np.linalg.norm(part)) for part in parts]
        even = [part / max(length, _FAINT) for part, length in zip(parts, lengths, strict=True)]
        return np.concatenate(even).astype(np.float32)

    def __call__(self, prepared: Sequence[Any]) -> Vectors:
        """Vectors of one batch, shape (len(prepared), 336)."""
        return np.stack(prepared)


def _palette(pixels: Any) -> Any:
    """How much there is of each of 4 x 5 x 5 colours, softly, against an even palette."""
    light = np.linspace(0.125, 0.875, 4)
    hue = np.linspace(-0.6, 0.6, 5)
    levels = np.meshgrid(light, hue, hue, indexing="ij")
    colours = np.stack(levels, axis=-1).reshape(-1, 3)
    near = np.exp(-((pixels[:, None] - colours) ** 2).sum(axis=-1) / 0.04)
    near /= near.sum(axis=1, keepdims=True)
    shares: Any = np.sqrt(near.mean(axis=0))
    return shares - shares.mean()


def _layout(lab: Any) -> Any:
    """Colour of each cell against the picture's mean."""
    step = _SIDE // _CELLS
    cells: Any = lab.reshape(_CELLS, step, _CELLS, step, 3).mean(axis=(1, 3))
    return (cells - cells.mean(axis=(0, 1))).ravel()


def _edges(lightness: Any) -> Any:
    """Strength of edges by cell and direction, against even edges everywhere."""
    down, right = np.gradient(lightness)
    strength = np.hypot(down, right)
    turn = np.arctan2(down, right) / np.pi * _ANGLES
    lower = np.floor(turn).astype(int)
    cell = np.arange(_SIDE) * _EDGE_CELLS // _SIDE
    place = (cell[:, None] * _EDGE_CELLS + cell) * _ANGLES
    total = np.zeros(_ANGLES * _EDGE_CELLS**2)
    # An edge between two directions counts for both.
    for angle, share in ((lower, lower + 1 - turn), (lower + 1, turn - lower)):
        bins = place + angle % _ANGLES
        total += np.bincount(bins.ravel(), (strength * share).ravel(), len(total))
    shares: Any = np.sqrt(total / _SIDE**2)
    return shares - shares.mean()


class ClipFamily:
    """The image side of a CLIP-family model (CLIP, SigLIP, SigLIP 2 ...): a hub id, `id@revision`,
    or a folder.
    """

    def __init__(self, value: str, *, device: str) -> None:
        options = {"parameter": "embedding_model", "device": device}
        self.vision = load_vision_model(value, "AutoModel", **options)
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

        names = prepared[0].keys()
        batch = {name: torch.cat([one[name] for one in prepared]) for name in names}
        with torch.inference_mode():
            found = self.vision.model.get_image_features(**batch)
        features = getattr(found, "pooler_output", found)  # older code gives the tensor itself
        vectors: Vectors = features.float().cpu().numpy()
        return vectors


Encoder = ColourGradient | ClipFamily


def load_encoder(value: str, *, device: str) -> Encoder:
    """The encoder that the parameter `embedding_model` names. Raises InputError."""
    if not value:
        raise InputError(f"embedding_model is empty: name {COLOUR_GRADIENT} or a CLIP-family model")
    return ColourGradient() if value == COLOUR_GRADIENT else ClipFamily(value, device=device)


def embed_images(
    ids: Sequence[str],
    paths: Sequence[str],
    *,
    encoder: Encoder,
    folder: Path,
    batch_size: int,
    workers: int,
    on_done: Callable[[int], object] = lambda n: None,
) -> tuple[Vectors, dict[int, str]]:
    """Unit vectors of the pictures that have one, on disk and in order; and why the others, by
    place, have none.

    After an interruption a further call with the same model and ids goes on where
    that was. Memory holds `_AHEAD` + 1 prepared batches; of whole pictures, one per worker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, of = folder / "embedded.json", short_hash(encoder.name, *ids)
    begun = json.loads(state.read_text("utf-8")) if state.exists() else {}
    done: int = begun["done"] if begun.get("of") == of else 0
    failures = {int(place): why for place, why in begun["failures"].items()} if done else {}
    vectors: Vectors = np.lib.format.open_memmap(
        folder / "vectors.npy",
        "r+" if done else "w+",
        np.float32,
        (len(ids), encoder.dimension),
    )
    on_done(saved := done)
    with ThreadPoolExecutor(workers) as pool:
        for prepared in _prepared(paths[done:], encoder, pool, batch_size):
            for one in _encoded(prepared, encoder):
                if isinstance(one, Exception):
                    failures[done] = " ".join(str(one).split())[:200] or type(one).__name__
                else:
                    vectors[done - len(failures)] = one  # those that failed leave no gap
                done += 1
            on_done(len(prepared))
            if done >= saved + _SAVED_AFTER or done == len(ids):
                # After its vectors: what it says is done, is.
                saved, now = done, {"of": of, "done": done, "failures": failures}
                state.with_suffix(".tmp").write_text(json.dumps(now), encoding="utf-8")
                os.replace(state.with_suffix(".tmp"), state)
    return vectors[: len(ids) - len(failures)], failures


def _prepared(
    paths: Sequence[str], encoder: Encoder, pool: ThreadPoolExecutor, batch_size: int
) -> Iterator[list[Any | Exception]]:
    """Batches of the model's inputs in order, an exception in place of each picture that gave
    none.
    """

    def prepare(path: str) -> Any | Exception:
        try:
            return encoder.prepare(read_image(path))
        except MemoryError:  # a full machine says nothing about the picture
            raise
        except Exception as error:  # processors fail with any exception there is
            return error

    waiting: deque[Iterator[Any]] = deque()
    for start in range(0, len(paths), batch_size):
        waiting.append(pool.map(prepare, paths[start : start + batch_size]))
        if len(waiting) > _AHEAD:
            yield list(waiting.popleft())
    yield from map(list, waiting)


def _encoded(prepared: Sequence[Any | Exception], encoder: Encoder) -> list[Vectors | Exception]:
    """Unit vectors of a batch; if the model fails, each picture is tried alone and pays for
    itself.
    """
    good = [one for one in prepared if not isinstance(one, Exception)]
    if not good:
        return list(prepared)
    try:
        vectors = encoder(good)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            # Its cosine would be none, and k-means would end for all.
            raise ValueError("the model's vector is zero or not finite")
    except MemoryError:
        raise
    except Exception as error:  # and models
        return [error] if len(prepared) == 1 else [_encoded([one], encoder)[0] for one in prepared]
    # Each picture's vector, or its fault, in the place of the picture.
    unit = iter(vectors / lengths)
    return [one if isinstance(one, Exception) else next(unit) for one in prepared]
