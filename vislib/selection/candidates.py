"""The distinct usable images of a run's samples, as columns: about 250 bytes an image and 30 a
sample.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vislib.runs import InputError, Run, tables
from vislib.runs.arrow_types import plain

Ints = NDArray[np.int64]
Ids = NDArray[np.bytes_]
NO_IMAGE = -1


def _read(table: Path, columns: list[str]) -> pa.Table:
    read = []
    for part in tables.parts(table):
        with tables.open_part(part) as file:
            if lacking := set(columns) - set(file.schema_arrow.names):
                raise InputError(
                    f"{part}: lacks the columns {sorted(lacking)}; it has {file.schema_arrow.names}"
                )
            read.append(plain(file.read(columns)))
    if not read:
        raise InputError(f"{table}: no part; run the stage that makes it again")
    return pa.concat_tables(read)


def _ids(column: pa.ChunkedArray) -> Ids:
    return np.array(column.to_pylist(), "S")


@dataclass
class Candidates:
    """Images sorted by id; `image` gives that of each sample (or NO_IMAGE), `fault` says why it has
    none.

    `sample` is the one that stands for each image: with an alt text if any has one, then the
    smallest sample_id. `reason` says why an image went ("": it is left); `other` (-1: none) is the
    image that it resembles, `apart` how little. `cluster` (-1: none), `rank` and `distance` are
    those of the contract.
    """

    sample_ids: Ids
    image: Ints
    fault: pa.ChunkedArray
    ids: Ids
    sample: Ints
    sides: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    paths: pa.ChunkedArray
    reason: NDArray[np.object_] = field(init=False)
    other: Ints = field(init=False)
    apart: NDArray[np.float32] = field(init=False)
    cluster: Ints = field(init=False)
    rank: Ints = field(init=False)
    distance: NDArray[np.float32] = field(init=False)
    failures: dict[int, str] = field(default_factory=dict)  # of embedding, by image

    def __post_init__(self) -> None:
        n = len(self.ids)
        self.reason = np.full(n, "", object)
        self.other, self.cluster, self.rank = (np.full(n, -1) for _ in range(3))
        self.apart, self.distance = np.zeros(n, np.float32), np.zeros(n, np.float32)

    @classmethod
    def of(cls, run: Run) -> "Candidates":
        """Join the samples with the ledger of images by address."""
        ledger = _read(
            run.table("images"),
            [
                "image_url",
                "image_id",
                "status",
                "reason",
                "path",
                "width",
                "height",
                "perceptual_hash",
            ],
        )
        samples = _read(run.table("samples"), ["sample_id", "image_url", "alt_text"])
        row = pc.index_in(samples["image_url"], value_set=ledger["image_url"])
        usable = pc.equal(pc.take(ledger["status"], row), "ok").fill_null(False).to_numpy()
        fault = pc.take(ledger["reason"], row).fill_null("not_in_ledger")
        rows = row.filter(pa.array(usable))
        ids, first, inverse = np.unique(
            _ids(pc.take(ledger["image_id"], rows)), return_index=True, return_inverse=True
        )
        image = np.full(len(samples), NO_IMAGE)
        image[usable] = inverse
        sample_ids = _ids(samples["sample_id"])
        no_text = pc.equal(pc.utf8_length(samples["alt_text"].fill_null("")), 0).to_numpy()
        order = np.lexsort((sample_ids, no_text, image))
        chosen = order[np.searchsorted(image[order], np.arange(len(ids)))]
        of_image = ledger.drop_columns(["image_url", "image_id"]).take(rows.take(pa.array(first)))
        hashes = np.fromiter(
            (int(text, 16) for text in of_image["perceptual_hash"].to_pylist()), np.uint64, len(ids)
        )
        sides = np.stack([of_image[name].to_numpy() for name in ("width", "height")], axis=1)
        return cls(sample_ids, image, fault, ids, chosen, sides, hashes, of_image["path"])

    @property
    def left(self) -> Ints:
        """Images that have not gone, in order of id."""
        return np.flatnonzero(self.reason == "")

    def name(self, image: int) -> str:
        """The id of an image."""
        return str(self.ids[image].decode())

    def detail(self, image: int) -> str:
        """More of the reason why an image went."""
        if self.other[image] >= 0:
            return self.name(self.other[image])
        if self.reason[image] == "below_top_k":
            return f"cluster {self.cluster[image]}, rank {self.rank[image]}"
        width, height = self.sides[image]
        return (
            f"{width} x {height}"
            if self.reason[image] == "too_small"
            else self.failures.get(image, "")
        )

    def drop(self, images: Ints, reason: str) -> None:
        """Let `images` go."""
        self.reason[images] = reason

    def drop_duplicates(
        self, images: Ints, reason: str, other: Ints, apart: NDArray[np.float32]
    ) -> None:
        """Let those of `images` go that resemble one in `other` (-1: none), at a distance of
        `apart`.
        """
        went = other >= 0
        images = images[went]
        self.reason[images], self.other[images], self.apart[images] = (
            reason,
            other[went],
            apart[went],
        )
