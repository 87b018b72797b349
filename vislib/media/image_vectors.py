"""Unit vectors of a whole run's images, by a CLIP-family model as in DenseFusion-1M (selection), or
by any other image model of transformers.

Threads decode while the model runs; vectors lie in a file, and a killed run goes on.
"""

import json
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
from vislib.runs.redaction import write_redacted

Vectors = NDArray[np.float32]
_SAVED_AFTER = 4096  # images: a killed run embeds as many anew at most
_AHEAD = 2  # batches that are decoded while one is with the model


class Encoder:
    """The image side of a model: the projected features of the CLIP family (CLIP, SigLIP, SigLIP
    2), the pooled output of models of images alone (DINOv2, EfficientNet).
    """

    def __init__(self, value: str, *, device: str) -> None:
        if not value:
            raise InputError("embedding_model is empty; name a model that sees images")
        self.vision = load_vision_model(
            value, "AutoModel", parameter="embedding_model", device=device
        )
        model = self.vision.model
        self._features: Any = getattr(model, "get_image_features", model)
        self.name = f"{value} {self.vision.revision}"
        # any picture tells how long its vectors are
        grey = self.prepare(Image.new("RGB", (64, 64), "grey"))
        self.dimension = self([grey]).shape[1]

    def prepare(self, image: Image.Image) -> Any:
        """The model's input for one picture, a batch of one."""
        return self.vision.inputs([image])

    def __call__(self, prepared: Sequence[Any]) -> Vectors:
        """Image features of one batch, shape (len(prepared), dimension)."""
        import torch

        names = prepared[0].keys()
        batch = {name: torch.cat([one[name] for one in prepared]) for name in names}
        with torch.inference_mode():
            features = getattr(self._features(**batch), "pooler_output", None)
        if features is None:
            kind = type(self.vision.model).__name__
            raise InputError(
                f"embedding_model is {self.vision.name!r}, a {kind}, which has no pooled image"
                " features; name a CLIP-family model (CLIP, SigLIP, SigLIP 2) or one such as DINOv2"
            )
        vectors: Vectors = features.flatten(1).float().cpu().numpy()
        return vectors


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
    # Named by model and pictures, so that another model's vectors are never taken for its own.
    name = short_hash(encoder.name, *ids)
    state = folder / f"{name}.json"
    done, failed = json.loads(state.read_text("utf-8")) if state.exists() else (0, [])
    failures: dict[int, str] = dict(failed)
    vectors: Vectors = np.lib.format.open_memmap(
        folder / f"{name}.npy",
        "r+" if done else "w+",
        np.float32,
        (len(ids), encoder.dimension),
    )
    saved = done
    on_done(done)
    with ThreadPoolExecutor(workers) as pool:
        # what an earlier call has done is skipped, pictures that failed too
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
                saved = done
                write_redacted(state, json.dumps([done, list(failures.items())]))
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
