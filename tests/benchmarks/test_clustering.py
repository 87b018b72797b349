"""Clustering of the selection against scikit-learn's own MiniBatchKMeans.fit: 100,000 vectors of
512 dimensions.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vislib.selection.clusters import cluster

N, DIMENSION, FAMILIES = 100_000, 512, 1_000
_PEAK = """
import sys
import numpy as np
from vislib.runs.provenance import peak_memory_mib
from vislib.selection.clusters import cluster
vectors = np.load(sys.argv[1], mmap_mode="r")
cluster(vectors, int(sys.argv[2]), 0)
print(peak_memory_mib())
"""


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> np.ndarray:
    """A mixture of families of unlike sizes, on disk as the stage has it."""
    chance = np.random.default_rng(0)
    family = np.minimum(chance.geometric(0.004, N) - 1, FAMILIES - 1)
    rows = chance.normal(size=(FAMILIES, DIMENSION))[family] + 1.5 * chance.normal(
        size=(N, DIMENSION)
    )
    file = tmp_path_factory.mktemp("clustering") / "vectors.npy"
    np.save(file, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return np.load(file, mmap_mode="r")


def theirs(vectors: np.ndarray, k: int) -> float:
    """Mean distance to the nearest centre (1 - cosine) after scikit-learn's own fit."""
    from sklearn.cluster import MiniBatchKMeans

    centres = MiniBatchKMeans(k, random_state=0).fit(vectors).cluster_centers_
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    nearest = [
        (vectors[start : start + 4096] @ centres.T).max(axis=1)
        for start in range(0, len(vectors), 4096)
    ]
    return float(1 - np.concatenate(nearest).mean())


@pytest.mark.campaign
@pytest.mark.parametrize("k", [357, 2_000])
def test_clustering_is_no_slower_and_no_worse_than_the_librarys_own_fit(k, vectors, capsys):
    started = time.perf_counter()
    reference = theirs(vectors, k)
    between = time.perf_counter()
    labels, distances = cluster(vectors, k, 0)
    seconds = between - started, time.perf_counter() - between
    command = [sys.executable, "-c", _PEAK, str(vectors.filename), str(k)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    with capsys.disabled():
        print(
            f"\nk {k}: {seconds[1]:.1f} s against {seconds[0]:.1f} s, {seconds[1] / seconds[0]:.2f}"
            f" of the time; mean distance {distances.mean():.4f} against {reference:.4f},"
            f" {distances.mean() / reference:.3f}; {labels.max() + 1} clusters; peak"
            f" {done.stdout.strip()} MiB, 196 of them vectors"
        )
    assert distances.mean() <= 1.02 * reference
