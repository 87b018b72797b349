"""Hashes and clusters of the selection against plain, slow versions of the same rules."""

import numpy as np
import pytest

from vislib.selection import clusters
from vislib.selection.clusters import cluster, near_duplicates, semantic_duplicates


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def mixture(
    n: int, families: int, *, seed: int = 0, spread: float = 0.2, dimension: int = 16
) -> np.ndarray:
    """Unit vectors around `families` random middles, row i in family i modulo `families`."""
    chance = np.random.default_rng(seed)
    middles = unit(chance.normal(size=(families, dimension)))
    return unit(middles[np.arange(n) % families] + spread / 4 * chance.normal(size=(n, dimension)))


def some_hashes(n: int, seed: int) -> np.ndarray:
    """Random hashes, half of them some flipped bits away from another, some equal."""
    chance = np.random.default_rng(seed)
    hashes = chance.integers(0, 2**63, n, dtype=np.uint64)
    for place in range(n // 2, n):
        flips = sum(
            1 << int(bit) for bit in chance.choice(64, chance.integers(0, 12), replace=False)
        )
        hashes[place] = hashes[chance.integers(0, place)] ^ np.uint64(flips)
    return hashes


@pytest.mark.parametrize("distance", [-1, 0, 1, 4, 10, 16])
def test_near_duplicates_are_those_that_a_plain_walk_finds(distance):
    for seed in range(3):
        hashes = some_hashes(300, seed)
        kept: list[int] = []
        found = near_duplicates(hashes, distance)
        for place, value in enumerate(hashes.tolist()):
            bits = [((value ^ int(hashes[other])).bit_count(), other) for other in kept]
            near = min((pair for pair in bits if pair[0] <= distance), default=None)
            if near is None:
                assert found[place] == -1
                kept.append(place)
            else:
                assert found[place] in kept
                assert (int(hashes[found[place]]) ^ value).bit_count() <= distance
                if value not in hashes[:place].tolist():  # copies follow the first of their kind
                    assert found[place] == near[1]


def test_a_hundred_thousand_equal_hashes_are_one():
    hashes = np.full(100_000, 1 << 63, np.uint64)
    hashes[1::2] ^= np.uint64(3)  # and as many two bits away
    assert near_duplicates(hashes, 2).tolist() == [-1] + [0] * 99_999
    assert near_duplicates(hashes, 1).tolist() == [-1, -1, *[0, 1] * 49_999]
    assert len(near_duplicates(hashes[:0], 4)) == 0


@pytest.mark.parametrize("whole", [10_000, 500])
def test_families_are_found_whole_and_in_batches(whole, monkeypatch):
    monkeypatch.setattr(clusters, "_WHOLE", whole)
    monkeypatch.setattr(clusters, "_BATCH", 300)
    vectors = mixture(3001, 7)
    labels, distances = cluster(vectors, 7, seed=1)
    again, _ = cluster(vectors, 7, seed=1)
    np.testing.assert_array_equal(labels, again)
    families = np.arange(3001) % 7
    assert len(set(zip(labels.tolist(), families.tolist(), strict=True))) == 7
    assert labels[0] == 0  # the largest cluster is the first: family 0 has one more
    assert (np.diff(np.bincount(labels)) <= 0).all()
    for label in range(7):
        members = np.flatnonzero(labels == label)
        middle = unit(vectors[members].mean(axis=0, keepdims=True))[0]
        np.testing.assert_allclose(distances[members], 1 - vectors[members] @ middle, atol=0.005)


@pytest.mark.parametrize("whole", [10_000, 10])
def test_more_clusters_than_rows_and_equal_rows_are_borne(whole, monkeypatch):
    monkeypatch.setattr(clusters, "_WHOLE", whole)
    labels, distances = cluster(mixture(40, 40), 500, seed=0)
    assert len(np.unique(labels)) <= 40
    assert (np.unique(labels) == np.arange(labels.max() + 1)).all()
    labels, distances = cluster(np.tile(mixture(1, 1), (60, 1)), 9, seed=0)
    assert labels.max() < 9
    assert distances.max() < 1e-5
    monkeypatch.setattr(clusters, "_PLUS_PLUS", 5)
    assert cluster(mixture(40, 40), 30, seed=0)[0].max() < 30
    assert cluster(mixture(1, 1), 3, seed=0)[0].tolist() == [0]


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.2, 1.0])
def test_semantic_duplicates_are_those_that_a_plain_walk_finds(epsilon):
    vectors = mixture(200, 30, spread=0.3)
    members = np.random.default_rng(0).permutation(200)[:150]
    found, apart = semantic_duplicates(vectors, members, epsilon)
    kept: list[int] = []
    for place, member in enumerate(members.tolist()):
        cosines = vectors[kept] @ vectors[member] if kept else np.zeros(0)
        if epsilon and kept and cosines.max() > 1 - epsilon:
            assert found[place] == kept[int(cosines.argmax())]
            assert apart[place] == pytest.approx(1 - cosines.max(), abs=1e-6)
        else:
            assert found[place] == -1
            kept.append(member)
    assert (len(kept) == 150) == (epsilon == 0)
