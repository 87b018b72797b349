"""Which images of a cluster were selected, and which were set aside as duplicates (DenseFusion-1M,
Perceptual Fusion).

Clusters and pairs are chosen by seed and drawn on a `new_sheet` as groups of pictures with a word
below each. Memory grows with the images that are drawn.
"""

from typing import Any

from vislib.figures.style import ASIDE
from vislib.figures.text import Column

# Both give a row per item of `plot_groups`. The pictures of a cluster stand nearest to its middle
# first, whatever became of them: so the rule that selects is seen at work.
CLUSTERS = """
WITH files AS (SELECT image_id, beside_images() || min(path) AS path FROM images GROUP BY image_id),
chosen AS (SELECT cluster FROM embeddings GROUP BY cluster
    ORDER BY seeded({seed}, cluster) LIMIT {count}),
members AS (SELECT image_id, cluster, distance,
    CASE WHEN image_id IN (SELECT image_id FROM samples) THEN 'kept'
         WHEN image_id IN (SELECT image_id FROM duplicates) THEN 'duplicate'
         ELSE 'below top k' END AS said
    FROM embeddings SEMI JOIN chosen USING (cluster)),
placed AS (SELECT *, row_number() OVER (PARTITION BY cluster ORDER BY distance, image_id) AS place,
    count(*) OVER (PARTITION BY cluster) AS images,
    count(*) FILTER (said = 'kept') OVER (PARTITION BY cluster) AS kept FROM members)
SELECT 'Cluster ' || cluster AS title, cluster, image_id, distance, said, [path] AS paths,
    format('{{:,}} of {{:,}} images kept, nearest to its middle first', kept, images) AS note
FROM placed LEFT JOIN files USING (image_id) WHERE place <= 8 ORDER BY placed.cluster, place
"""
PAIRS = """
WITH files AS (SELECT image_id, beside_images() || min(path) AS path FROM images GROUP BY image_id),
ranked AS (SELECT *, count(*) OVER (PARTITION BY reason) AS of_reason, row_number() OVER (
    PARTITION BY reason ORDER BY seeded({seed}, image_id)) AS place FROM duplicates)
SELECT CASE reason WHEN 'near_duplicate' THEN 'Near duplicates' ELSE 'Semantic duplicates' END
        AS title,
    format('{{:,}} of {{:,}} that were set aside, each right of the one kept',
        count(*) OVER (PARTITION BY reason), of_reason) AS note,
    ranked.image_id, kept_id, reason, distance, of_reason, [kept.path, aside.path] AS paths,
    CASE reason WHEN 'near_duplicate' THEN distance::INT || ' bits'
        ELSE '1 − cosine = ' || format('{{:.3f}}', distance) END AS said
FROM ranked LEFT JOIN files AS aside ON aside.image_id = ranked.image_id
LEFT JOIN files AS kept ON kept.image_id = kept_id
WHERE place <= {count} ORDER BY reason, distance, ranked.image_id
"""
# What each step of 04 left of the samples, counted back from what is left, so that the account
# closes by itself. Steps are shown that set nothing aside, but for the seldom ones: that they ran
# is part of the story. Reasons of a step that is not known here come last.
FUNNEL = """
WITH steps(number, reason, step, seldom) AS (VALUES (0, '', 'samples', false),
    (1, 'image_failed', 'with a usable image', false), (2, 'exact_duplicate', 'distinct', false),
    (3, 'beyond_limit', 'chosen by limit', true), (4, 'too_small', 'large enough', false),
    (5, 'near_duplicate', 'no near-duplicate', false),
    (6, 'embedding_failed', 'with an embedding', true),
    (7, 'semantic_duplicate', 'no semantic duplicate', false),
    (8, 'below_top_k', 'top k of a cluster', false)),
counts AS (SELECT reason, count(*) AS n FROM dropped GROUP BY reason),
named AS (SELECT coalesce(number, 9) AS number, coalesce(step, reason) AS step,
    coalesce(n, 0) AS set_aside FROM steps FULL JOIN counts USING (reason)
    WHERE n > 0 OR NOT seldom)
SELECT step, ((SELECT count(*) FROM samples) + coalesce(sum(set_aside) OVER (ORDER BY number, step
    ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), 0))::BIGINT AS "left", set_aside
FROM named ORDER BY number, step
"""
_PER_ROW, _SIDE, _GAP = 8, 54.0, 3.0  # pictures in a row; points of a picture, and between two


def plot_groups(sheet: Column, table: Any) -> None:
    """Rows of `CLUSTERS` or `PAIRS` by title: the pictures of each item side by side, what is said
    of it below.
    """
    for (title, note), items in table.groupby(["title", "note"], sort=False):
        sheet.write(title, size=7.5, weight="bold")
        sheet.write(note, **ASIDE)
        sheet.y += 4
        place = 0
        lowest = sheet.y
        for paths, said in zip(items["paths"], items["said"], strict=True):
            if place == _PER_ROW:
                place = 0
                sheet.y = lowest + 6
            first = sheet.column(place * sheet.width / _PER_ROW, len(paths) * _SIDE)
            pictures = [
                first.column(number * (_SIDE + _GAP), _SIDE).draw(path, height=_SIDE)
                for number, path in enumerate(paths)
            ]
            first.y = max(picture.y1 for picture in pictures)
            first.write(said, size=5.5)
            # a row is as high as its highest picture: wide ones leave no gap
            lowest = max(lowest, first.y)
            place += len(paths)
        sheet.y = lowest + 10
