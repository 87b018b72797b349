"""The stage function of 04: which images represent the others (DenseFusion-1M, Perceptual Fusion,
selection).
"""

from typing import Any

import numpy as np

from vislib.runs import InputError, Run, seeded, tables
from vislib.runs.contract import SAMPLES
from vislib.runs.tables import Output
from vislib.selection.candidates import NO_IMAGE, Candidates
from vislib.selection.clusters import PER_CLUSTER, by_cluster, cluster, semantic_duplicates
from vislib.selection.features import Vectors, load_encoder
from vislib.selection.hashes import near_duplicates
from vislib.selection.vectors import embed_images


def select_images(run: Run) -> None:
    """Write `samples`, `embeddings`, `duplicates` and `dropped`; the metrics count the images left
    by each step.

    In order: distinct, chosen by `limit`, large enough, unlike by perceptual hash, embedded, unlike
    within their cluster, among the `top_k` of it. Raises InputError when a step leaves none.
    """
    images = Candidates.of(run)
    _count(
        run,
        images,
        "images_distinct",
        "no sample has a usable image; data/dropped of 03_images says why",
    )
    _choose(run, images)
    _drop_small(run, images)
    _drop_near_duplicates(run, images)
    vectors = _embed(run, images)
    _cluster(run, images, vectors)
    with run.output() as output:
        _write_images(images, vectors, output)
        _write_samples(run, images, output)


def _count(run: Run, images: Candidates, step: str, mend: str = "") -> None:
    run.metrics[step] = len(images.left)
    if not run.metrics[step]:
        raise InputError(f"04_selection: no image is left: {mend}")


def _choose(run: Run, images: Candidates) -> None:
    if run.params.limit:
        chance = np.array(
            [seeded(run.seed, images.name(image)) for image in images.left], np.uint64
        )
        images.drop(np.argsort(chance, stable=True)[run.params.limit :], "beyond_limit")
    _count(run, images, "images_after_limit")


def _drop_small(run: Run, images: Candidates) -> None:
    least, short = run.params.min_side, images.sides.min(axis=1)
    largest = short[images.left].max()
    images.drop(images.left[short[images.left] < least], "too_small")
    _count(
        run,
        images,
        "images_after_size",
        f"the largest short edge is {largest} px, min_side {least}; lower it",
    )


def _drop_near_duplicates(run: Run, images: Candidates) -> None:
    left = images.left
    left = left[
        np.argsort(-images.sides[left].prod(axis=1), stable=True)
    ]  # of two alike the larger stays
    kept = near_duplicates(images.hashes[left], run.params.hash_distance)
    bits = np.bitwise_count(images.hashes[left] ^ images.hashes[left[kept]])
    images.drop_duplicates(
        left, "near_duplicate", np.where(kept < 0, -1, left[kept]), bits.astype(np.float32)
    )
    _count(run, images, "images_after_hash")


def _embed(run: Run, images: Candidates) -> Vectors:
    """Vectors of the images left, in order of id; those that give none are dropped."""
    p, left, root = run.params, images.left, run.table("images").parent
    encoder = load_encoder(p.embedding_model, device=p.device)
    with run.progress(len(left), "images embedded") as progress:
        vectors, failures = embed_images(
            [images.name(image) for image in left],
            [f"{root}/{path}" for path in images.paths.take(left).to_pylist()],
            encoder=encoder,
            folder=run.scratch,
            batch_size=p.batch_size,
            workers=p.workers,
            on_done=progress.update,
        )
    images.drop(left[list(failures)], "embedding_failed")
    images.failures = {int(left[place]): reason for place, reason in failures.items()}
    run.metrics["embedding_model"] = encoder.name
    reason = next(iter(failures.values()), "")
    _count(
        run,
        images,
        "images_embedded",
        f"{p.embedding_model} failed on all, first with {reason!r}; take another",
    )
    return vectors


def _cluster(run: Run, images: Candidates, vectors: Vectors) -> None:
    """Cluster, rank and distance of the images left; duplicates and those beyond `top_k` go."""
    p, left = run.params, images.left
    labels, distances = cluster(
        vectors, p.clusters or -(-len(left) // PER_CLUSTER), seeded(run.seed) % 2**32
    )
    images.cluster[left], images.distance[left] = labels, distances
    below = []
    with run.progress(len(left), "images compared") as progress:
        for members in by_cluster(labels, distances):
            kept, apart = semantic_duplicates(vectors, members, p.epsilon)
            images.drop_duplicates(
                left[members], "semantic_duplicate", np.where(kept < 0, -1, left[kept]), apart
            )
            ranked = left[members[kept < 0]]
            images.rank[ranked] = np.arange(len(ranked))
            below.append(ranked[p.top_k or len(ranked) :])
            progress.update(len(members))
    run.metrics["clusters"] = len(below)
    _count(run, images, "images_after_semantic")
    images.drop(np.concatenate(below), "below_top_k")
    _count(run, images, "images_selected")


def _place(images: Candidates, image: int) -> dict[str, Any]:
    return {
        "image_id": images.name(image),
        "cluster": int(images.cluster[image]),
        "distance": float(images.distance[image]),
    }


def _write_images(images: Candidates, vectors: Vectors, output: Output) -> None:
    """The tables of images, in order of id."""
    for row, image in enumerate(np.flatnonzero(images.cluster >= 0).tolist()):
        output.write("embeddings", _place(images, image) | {"vector": vectors[row]})
    for image in np.flatnonzero(images.other >= 0).tolist():
        pair = {"image_id": images.name(image), "kept_id": images.name(images.other[image])}
        why = {"reason": images.reason[image], "distance": float(images.apart[image])}
        output.write("duplicates", pair | why)


def _write_samples(run: Run, images: Candidates, output: Output) -> None:
    """Each sample of the input, in its order, is used or dropped."""
    for row, sample in enumerate(tables.read_rows(run.table("samples"), SAMPLES.names)):
        output.take("sample")
        image = int(images.image[row])
        if image == NO_IMAGE:
            reason, detail = "image_failed", images.fault[row].as_py()
        elif images.sample[image] != row:
            reason, detail = "exact_duplicate", images.sample_ids[images.sample[image]].decode()
        else:
            reason, detail = images.reason[image], images.detail(image)
        if reason:
            output.drop("sample", sample["sample_id"], reason, detail)
        else:
            output.keep("sample")
            output.write(
                "samples", sample | _place(images, image) | {"rank": int(images.rank[image])}
            )
