"""Unit vectors of a whole run's images, by a CLIP-family model as in DenseFusion-1M (selection), or
by an embedded stand-in for it.

Threads decode while the model runs; vectors lie in files, and a killed run goes on. The stand-in,
`colour-gradient`, needs no model. It sees where which colours and edges lie, and knows no meaning:
a red car and a red door may be alike, two photographs of one cat need not be. It is there so that
the sample set runs; data for training want a CLIP-family model.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vislib.media.pixels import read_image
from vislib.media.vision import load_vision_model
from vislib.runs import InputError, short_hash

Vectors = NDArray[np.float32]
WINDOW = 8192  # images per file of vectors: 16 MB at 512 dimensions
_AHEAD = 2  # batches that are decoded while one is with the model
COLOUR_GRADIENT = "colour-gradient"
_SIDE = 48  # px of the picture that is looked at
_CELLS, _EDGE_CELLS = 6, 4  # a side, of layout and of edges
_ANGLES = 8  # directions of edges
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
    window: int = WINDOW,
    on_done: Callable[[int], object] = lambda n: None,
) -> tuple[Vectors, dict[int, str]]:
    """Unit vectors of the pictures that have one, on disk and in order; and why the others, by
    place, have none.

    Each window is a file in `folder`, named by model and ids: after an interruption a further call
    goes on at the first that is missing. Memory holds a window and `_AHEAD` + 1 prepared batches;
    of whole pictures, one per worker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = len(ids), encoder.dimension
    vectors: Vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, shape)
    failures: dict[int, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(ids), window):
            members = slice(start, start + window)
            file = folder / f"{short_hash(encoder.name, *ids[members])}.npz"
            if file.exists():
                on_done(len(ids[members]))
            else:
                batches = _prepared(paths[members], encoder, pool, batch_size)
                _write_window(file, batches, encoder, on_done)
            with np.load(file) as found:
                # Those that failed leave no gap.
                at = start - len(failures)
                vectors[at : at + len(found["vectors"])] = found["vectors"]
                places = (start + found["failed"]).tolist()
                failures |= zip(places, found["reasons"].tolist(), strict=True)
    return vectors[: len(ids) - len(failures)], failures


def _write_window(
    file: Path,
    batches: Iterator[list[Any | Exception]],
    encoder: Encoder,
    on_done: Callable[[int], object],
) -> None:
    found: list[Vectors | Exception] = []
    for prepared in batches:
        found += _encoded(prepared, encoder)
        on_done(len(prepared))
    good = [one for one in found if not isinstance(one, Exception)]
    failed = {place: _said(one) for place, one in enumerate(found) if isinstance(one, Exception)}
    with file.with_suffix(".tmp").open("wb") as stream:
        np.savez(
            stream,
            vectors=np.array(good, np.float32).reshape(-1, encoder.dimension),
            failed=np.array([*failed], np.int64),
            reasons=np.array([*failed.values()], np.str_),
        )
    os.replace(file.with_suffix(".tmp"), file)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


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

    waiting: deque[list[Future[Any]]] = deque()
    # Some empty batches end the line, so that the last full ones come out of it.
    for start in range(0, len(paths) + _AHEAD * batch_size, batch_size):
        waiting.append([pool.submit(prepare, path) for path in paths[start : start + batch_size]])
        if len(waiting) > _AHEAD and (ready := waiting.popleft()):
            yield [future.result() for future in ready]


def _encoded(prepared: Sequence[Any | Exception], encoder: Encoder) -> list[Vectors | Exception]:
    """Unit vectors of a batch; if the model fails, each picture is tried alone and pays for
    itself.
    """
    good = [one for one in prepared if not isinstance(one, Exception)]
    try:
        vectors = encoder(good) if good else np.empty((0, encoder.dimension), np.float32)
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
