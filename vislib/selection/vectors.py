"""Unit vectors of a whole run's images, in files: threads decode while the model runs, and a killed
run goes on.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vislib.media.pixels import read_image
from vislib.runs import short_hash
from vislib.selection.features import Encoder, Vectors

WINDOW = 8192  # images per file of vectors: 16 MB at 512 dimensions
_AHEAD = 2  # batches that are decoded while one is with the model


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
    shape = (len(ids), encoder.dimension)
    vectors: Vectors = np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=shape
    )
    failures: dict[int, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(ids), window):
            members = slice(start, start + window)
            file = folder / f"{short_hash(encoder.name, *ids[members])}.npy"
            if file.exists():
                on_done(len(ids[members]))
            else:
                _write_window(file, paths[members], encoder, pool, batch_size, on_done)
            failed = json.loads(file.with_suffix(".json").read_text())
            at = start - len(failures)
            failures |= {start + int(row): reason for row, reason in failed.items()}
            found = np.load(file)
            vectors[at : at + len(found)] = found
    return vectors[: len(ids) - len(failures)], failures


def _write_window(
    file: Path,
    paths: Sequence[str],
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    batch_size: int,
    on_done: Callable[[int], object],
) -> None:
    vectors: list[Vectors] = []
    failed: dict[int, str] = {}
    for prepared in _prepared(paths, encoder, pool, batch_size):
        for found in _encoded(prepared, encoder):
            if isinstance(found, Exception):
                failed[len(vectors) + len(failed)] = (
                    " ".join(str(found).split())[:200] or type(found).__name__
                )
            else:
                vectors.append(found)
        on_done(len(prepared))
    file.with_suffix(".json").write_text(json.dumps(failed))
    with file.with_suffix(".tmp").open("wb") as stream:
        np.save(stream, np.array(vectors, np.float32).reshape(len(vectors), encoder.dimension))
    os.replace(file.with_suffix(".tmp"), file)


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
            raise ValueError("the model's vector is zero or not finite")
    except MemoryError:
        raise
    except Exception as error:  # and models
        return [error] if len(prepared) == 1 else [_encoded([one], encoder)[0] for one in prepared]
    unit = iter(vectors / lengths)
    return [one if isinstance(one, Exception) else next(unit) for one in prepared]
