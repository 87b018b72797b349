"""Hashes of a picture's parts, and the join on bands held against comparing all with all."""

import duckdb
import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vislib import sample
from vislib.media.near_hashes import banded, part_hashes
from vislib.media.pixels import read_image

PICTURES = sorted(p for p in (sample._HERE / "images").glob("*.jpg"))[:12]


def parts_of(image: Image.Image) -> np.ndarray:
    return np.array(part_hashes(image), np.uint64)


def hashes(n: int, seed: int) -> pd.DataFrame:
    """Random hashes, half of them few bits from an earlier one."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, n, dtype=np.uint64)
    for place in range(n // 2, n):
        bits = rng.choice(64, rng.integers(0, 12), replace=False)
        values[place] = values[place - n // 2] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    return pd.DataFrame({"number": range(n), "hash": values})


@pytest.mark.parametrize(("bands", "reach", "bits"), [(5, False, 4), (9, False, 8), (4, True, 7)])
def test_every_pair_within_the_bits_shares_a_band(bands: int, reach: bool, bits: int) -> None:
    given = hashes(400, bands)  # noqa: F841  # DuckDB's
    found = duckdb.sql(
        f"SELECT DISTINCT a.number, b.number FROM {banded('given', bands, reach=reach)} AS a"
        f" JOIN {banded('given', bands)} AS b USING (band)"
        f" WHERE a.number < b.number AND bit_count(xor(a.hash, b.hash)) <= {bits}"
    ).fetchall()
    values = hashes(400, bands)["hash"].to_numpy()
    apart = np.bitwise_count(values[:, None] ^ values)
    pairs = {(int(a), int(b)) for a, b in np.argwhere(apart <= bits) if a < b}
    assert set(found) == pairs
    assert len(pairs) > 50


def test_flat_pictures_are_copies_of_nothing() -> None:
    flat = pd.DataFrame({"hash": np.array([2**63, 0, 2**64 - 1], np.uint64)})  # noqa: F841
    assert duckdb.sql(f"FROM {banded('flat', 5)}").fetchall() == []


def test_the_whole_is_hashed_as_imagehash_does() -> None:
    for file in PICTURES:
        image = read_image(file)
        whole = int(str(imagehash.phash(image)), 16)
        assert np.bitwise_count(parts_of(image)[1] ^ np.uint64(whole)) <= 6  # of a thumbnail


def test_a_crop_is_near_a_part_and_a_mirror_image_near_the_first() -> None:
    for file in PICTURES:
        image = read_image(file)
        w, h = image.size
        parts = parts_of(image)
        cut = image.crop((round(0.1 * w), round(0.2 * h), round(0.9 * w), h))
        assert np.bitwise_count(parts[1:] ^ parts_of(cut)[1]).min() <= 4
        assert np.bitwise_count(parts[1] ^ parts_of(cut)[1]) > 4
        mirrored = parts_of(image.transpose(0))
        assert np.bitwise_count(parts[0] ^ mirrored[1]) <= 2
