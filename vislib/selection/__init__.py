"""Stage 04: representative images, by size, perceptual hash, clusters and semantic likeness
(DenseFusion-1M).

`stage` has the steps as a notebook calls them, `clusters` what resembles what, `vectors` the
embeddings of images.
"""

from vislib.selection.stage import (
    DISTINCT,
    choose_images,
    cluster_images,
    count_steps,
    distinct_images,
    drop_below,
    drop_near_duplicates,
    drop_semantic_duplicates,
    drop_small,
    embed_left,
    write_tables,
)

__all__ = [
    "DISTINCT",
    "choose_images",
    "cluster_images",
    "count_steps",
    "distinct_images",
    "drop_below",
    "drop_near_duplicates",
    "drop_semantic_duplicates",
    "drop_small",
    "embed_left",
    "write_tables",
]
