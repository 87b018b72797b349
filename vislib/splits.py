"""What never stands on both sides of a split: a page, a site, or pages that are tied by their
images (VisCon-100K, section 3.4, splits by nothing that it names).

A model that has learnt from a site's other pages knows their logos, layout and names, and one that
has learnt from a picture knows its copies: each of the two splits measures what is left without.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from vislib.media.near_hashes import banded
from vislib.runs import Run, sql

_PAGE = "coalesce(nullif(page_url, ''), doc_id)"
# The host without `www.`: which names below a suffix belong together only a list could tell.
_HOST = r"regexp_extract(lower(page_url), '^[a-z]+://(?:[^/@]*@)?(?:www\.)?([^/:?#]+)', 1)"
KEYS = {
    "page": _PAGE,
    "site": f"coalesce(nullif({_HOST}, ''), {_PAGE})",
    "group": f'coalesce((SELECT "group" FROM groups WHERE page = {_PAGE}), {_PAGE})',
}
_NEAR = 4  # bits, as 04 takes two images for copies of each other
# A page is tied to its images' hashes, a hash to those near it. `~` sorts behind every address.
_TIES = f"""
    WITH used AS (
        SELECT DISTINCT {_PAGE} AS page, ('0x' || perceptual_hash)::UBIGINT AS hash
        FROM samples JOIN images USING (image_url) WHERE status = 'ok'
    ), banded AS {banded("(SELECT DISTINCT hash FROM used)", _NEAR + 1)}
    SELECT page AS one, '~' || hash AS other FROM used SEMI JOIN banded USING (hash)
    UNION SELECT '~' || a.hash, '~' || b.hash FROM banded AS a JOIN banded AS b USING (band)
    WHERE a.hash < b.hash AND bit_count(xor(a.hash, b.hash)) <= {_NEAR}
    ORDER BY ALL
"""


def groups(run: Run) -> Path:
    """A table of the `group` of each `page`: pages that share an image, or near copies of one, and
    so on through others. It is named by its smallest page.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    given = {name: run.table(name) for name in ("samples", "images")}
    with sql.connect(given, run.scratch) as database:
        ties = database.execute(_TIES).df()
    nodes, names = pd.factorize(np.concatenate([ties["one"], ties["other"]]))
    ends = nodes[: len(ties)], nodes[len(ties) :]
    graph = coo_array((np.ones(len(ties)), ends), shape=(len(names), len(names)))
    found = pd.DataFrame({"page": names, "label": connected_components(graph)[1]})
    groups = found[~found["page"].str.startswith("~")].groupby("label")["page"]
    found["group"] = groups.transform("min")
    # one image on many pages may tie most of a set, which then goes to one side as a whole
    run.metrics["largest_group"] = int(max(groups.size(), default=0))
    file = run.scratch / "groups.parquet"
    found.to_parquet(file)
    return file
