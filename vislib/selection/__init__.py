"""Stage 04: which images represent the others, by size, perceptual hash, clusters and semantic
likeness (DenseFusion-1M, Perceptual Fusion, selection).

One table of distinct images goes through all of them: a step marks who goes and why, and nothing is
taken out, so that each sample can be told in the end. The table holds about 250 bytes an image.
"""

from typing import Any

import numpy as np
import pandas as pd

from vislib.media.image_vectors import Encoder, Vectors, embed_images
from vislib.runs import InputError, Run, choose, seeded, sql
from vislib.runs.tables import read_rows
from vislib.selection.clusters import (
    PER_CLUSTER,
    Ints,
    cluster,
    near_duplicates,
    semantic_duplicates,
)

# One row per distinct file, in order of id, with what the steps fill in. The sample that stands for
# it is one with an alt text, if there is any, then the one of the smallest id.
DISTINCT = """
    SELECT image_id,
           substr(min((coalesce(alt_text, '') = '')::INT || sample_id), 2) AS sample_id,
           min(path) AS path,
           ('0x' || min(perceptual_hash))::UBIGINT AS hash,
           min(images.width * images.height) AS pixels,
           min(least(images.width, images.height)) AS edge,
           min(images.width || ' x ' || images.height) AS size,
           '' AS reason, '' AS detail, 0::FLOAT AS apart,
           -1::BIGINT AS cluster, -1::BIGINT AS rank, 0::FLOAT AS distance
    FROM samples JOIN images USING (image_url)
    WHERE status = 'ok'
    GROUP BY image_id
    ORDER BY image_id
"""
# What becomes of each sample, in the order of its table.
FATES = """
    SELECT samples.row AS sample,
           {'image_id': chosen.image_id, 'cluster': cluster, 'rank': rank, 'distance': distance}
               AS place,
           CASE WHEN chosen.image_id IS NULL THEN 'image_failed'
                WHEN chosen.sample_id <> samples.sample_id THEN 'exact_duplicate'
                ELSE chosen.reason END AS reason,
           CASE WHEN chosen.image_id IS NULL THEN coalesce(images.reason, 'not_in_ledger')
                WHEN chosen.sample_id <> samples.sample_id THEN chosen.sample_id
                ELSE chosen.detail END AS detail
    FROM samples
    LEFT JOIN images USING (image_url)
    LEFT JOIN chosen ON images.image_id = chosen.image_id AND status = 'ok'
    ORDER BY samples.row
"""
# What each step leaves, by the reason of those that it lets go.
STEPS = {
    "after_limit": "beyond_limit",
    "after_size": "too_small",
    "after_hash": "near_duplicate",
    "embedded": "embedding_failed",
    "after_semantic": "semantic_duplicate",
    "selected": "below_top_k",
}


def count_steps(images: pd.DataFrame) -> dict[str, int]:
    """Number of images left by each step."""
    n = len(images)
    counts = {"images_distinct": n}
    for step, reason in STEPS.items():
        n -= int((images["reason"] == reason).sum())
        counts[f"images_{step}"] = n
    return counts


def left(images: pd.DataFrame) -> Ints:
    """Places of the images that have not gone, in order of id."""
    return np.flatnonzero(images["reason"] == "")


def drop(images: pd.DataFrame, places: Ints, reason: str, detail: Any = "", mend: str = "") -> None:
    """Let the images at `places` go.

    Raises InputError, saying what to `mend`, if that leaves none.
    """
    images.loc[places, "reason"] = reason
    images.loc[places, "detail"] = detail
    if not len(left(images)):
        raise InputError(f"04_selection: no image is left: {mend or reason}")


def drop_alike(images: pd.DataFrame, places: Ints, reason: str, kept: Ints, apart: Any) -> None:
    """Let those of `places` go that resemble another of them, the one at the index in `kept` (-1:
    none does); `apart`: how little.
    """
    went = kept >= 0
    images.loc[places[went], "apart"] = apart[went]
    resembled = images.loc[places[kept[went]], "image_id"]
    drop(images, places[went], reason, resembled.to_numpy())


def distinct_images(run: Run) -> pd.DataFrame:
    """The distinct usable images of the samples, in order of id: a row each, with what the steps
    fill in.

    `reason` says why an image went ("": it is left), `detail` more of it; `cluster` (-1: none),
    `rank` and `distance` are those of the contract.
    """
    given = {name: run.table(name) for name in ("samples", "images")}
    with sql.connect(given, run.scratch) as database:
        images = database.execute(DISTINCT).df()
    if images.empty:
        mend = "no sample has a usable image; data/dropped of 03_images says why"
        raise InputError(f"04_selection: no image is left: {mend}")
    return images


def choose_images(images: pd.DataFrame, limit: int, seed: int) -> None:
    """Keep `limit` images (0: all), chosen by the hash of seed and id."""
    chosen = images["image_id"].isin(choose(images["image_id"], limit, seed))
    drop(images, np.flatnonzero(~chosen), "beyond_limit")


def drop_small(images: pd.DataFrame, min_side: int) -> None:
    """Let images go whose shorter edge is below `min_side` px."""
    there = images.loc[left(images)]
    small = there[there["edge"] < min_side]
    mend = f"the largest short edge is {there['edge'].max()} px, min_side {min_side}; lower it"
    drop(images, small.index.to_numpy(), "too_small", small["size"], mend)


def drop_near_duplicates(images: pd.DataFrame, distance: int) -> None:
    """Let images go whose perceptual hash is within `distance` bits of one that stays."""
    # Of two alike the larger stays.
    there = images.loc[left(images)].sort_values("pixels", ascending=False, kind="stable")
    places = there.index.to_numpy()
    hashes = there["hash"].to_numpy()
    kept = near_duplicates(hashes, distance)
    bits = np.bitwise_count(hashes ^ hashes[kept])
    drop_alike(images, places, "near_duplicate", kept, bits.astype(np.float32))


def embed_left(run: Run, images: pd.DataFrame) -> Vectors:
    """Unit vectors of the images left, in order of id; those that give none are dropped."""
    p = run.params
    root = run.table("images").parent
    encoder = Encoder(p.embedding_model, device=p.device)
    places = left(images)
    some = images.loc[places]
    with run.progress(len(some), "images embedded") as progress:
        vectors, failures = embed_images(
            some["image_id"].tolist(),
            [f"{root}/{path}" for path in some["path"]],
            encoder=encoder,
            folder=run.scratch,
            batch_size=p.batch_size,
            workers=p.workers,
            on_done=progress.update,
        )
    run.metrics["embedding_model"] = encoder.name
    reasons = list(failures.values())
    first = next(iter(reasons), "")
    mend = f"{p.embedding_model} failed on all, first with {first!r}; take another"
    drop(images, places[list(failures)], "embedding_failed", reasons, mend)
    return vectors


def cluster_images(images: pd.DataFrame, vectors: Vectors, k: int, seed: int) -> None:
    """Give the images left their `cluster`, of `k` (0: one per 280), and `distance` to its
    centre.
    """
    # The paper's 14 M images in 50,000 clusters are as many in each.
    places = left(images)
    k = k or -(-len(places) // PER_CLUSTER)
    labels, distances = cluster(vectors, k, seeded(seed) % 2**32)
    images.loc[places, "cluster"] = labels
    images.loc[places, "distance"] = distances


def drop_semantic_duplicates(images: pd.DataFrame, vectors: Vectors, epsilon: float) -> None:
    """Let images go whose cosine to one that stays in their cluster is above 1 - `epsilon`, and
    rank the others from the centre.
    """
    places = left(images)
    there = images.loc[places].assign(number=range(len(places)))
    nearest_first = there.sort_values("distance", kind="stable")
    kept = np.full(len(places), -1)
    apart = np.zeros(len(places), np.float32)
    for _, numbers in nearest_first.groupby("cluster")["number"]:
        members = numbers.to_numpy()
        kept[members], apart[members] = semantic_duplicates(vectors, members, epsilon)
    drop_alike(images, places, "semantic_duplicate", kept, apart)
    stay = images.loc[left(images)].sort_values("distance", kind="stable")
    images.loc[stay.index, "rank"] = stay.groupby("cluster").cumcount()


def drop_below(images: pd.DataFrame, top_k: int) -> None:
    """Let images go that are not among the `top_k` of their cluster (0: all are)."""
    # Ranks are of those that stay: what went as a duplicate takes no place.
    ranked = images.loc[left(images)]
    below = ranked[ranked["rank"] >= (top_k or len(images))]
    where = "cluster " + below["cluster"].astype(str) + ", rank " + below["rank"].astype(str)
    drop(images, below.index.to_numpy(), "below_top_k", where)


def write_tables(run: Run, images: pd.DataFrame, vectors: Vectors) -> None:
    """Write `embeddings`, `duplicates`, `samples` and `dropped`: what was found of images, in order
    of id, and of samples, in the order of the input. The metrics count what each step left.
    """
    run.metrics |= count_steps(images)
    # Clusters are numbered from 0, and none is empty.
    run.metrics["clusters"] = int(images["cluster"].max()) + 1
    embedded = images.loc[images["cluster"] >= 0, ["image_id", "cluster", "distance"]]
    alike = images[images["reason"].isin(["near_duplicate", "semantic_duplicate"])]
    chosen = run.scratch / "chosen.parquet"
    images.to_parquet(chosen)
    ledger = run.table("images")
    fates = run.sql(FATES, into="fates", chosen=chosen, samples=run.table("samples"), images=ledger)
    with run.output() as output:
        for number, row in enumerate(embedded.to_dict("records")):
            output.write("embeddings", row | {"vector": vectors[number]})
        for row in alike.to_dict("records"):
            pair = {"image_id": row["image_id"], "kept_id": row["detail"]}
            pair |= {"reason": row["reason"], "distance": row["apart"]}
            output.write("duplicates", pair)
        for row in read_rows(fates):
            sample = row["sample"]
            output.take("sample")
            if row["reason"]:
                output.drop("sample", sample["sample_id"], row["reason"], row["detail"])
            else:
                output.keep("sample")
                output.write("samples", sample | row["place"])
