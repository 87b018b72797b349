"""Numbers behind the property figures (VisCon-100K, appendix B, figures 5 to 7): SQL over the
tables of a run, and pure functions.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from vislib.media.stems import source_stems, stems
from vislib.media.words import count_words, words
from vislib.runs import InputError
from vislib.runs.stage import read_record
from vislib.runs.tables import parts

PAPER_TOKENS = {"mean": 871.58, "median": 781.0}  # figure 5a
PAPER_OVERLAP = 0.24  # figure 5b, mean
PAPER_PAIRS = 4  # figures 6a and 6b, what most samples have
PAPER_TEXT_SHARE = 0.7  # DenseFusion-1M: more than that of its images hold text

# `vislib.runs.seeded` in SQL: ORDER BY seeded(seed, id) LIMIT n is a choice that no order changes
_SEEDED = "CREATE MACRO seeded(seed, id) AS left(sha256(concat(seed, chr(0), id)), 16)"
Row = Mapping[str, Any]


def query(sql: str, **tables: Any) -> Any:
    """The rows of a DuckDB query as a pandas table; it names each of `tables` by its keyword: a
    folder of Parquet, a list of folders that hold one table together, or a pandas table.

    Files that a table names lie beside its folder: `beside_images()` is that of `images`, with a
    slash. Only an ORDER BY fixes the order of rows. Raises InputError for a table that lacks a
    column.
    """
    with duckdb.connect() as connection:
        connection.execute(_SEEDED)
        for name, table in tables.items():
            if isinstance(table, Path):
                beside = str(table.parent).replace("'", "''")
                connection.execute(f"CREATE MACRO beside_{name}() AS '{beside}/'")
                table = [table]
            # pandas tables come in as they are: steps of a notebook join with the run's tables
            if isinstance(table, list):
                files = [str(part) for folder in table for part in parts(folder)]
                connection.read_parquet(files).create_view(name)
            else:
                connection.register(name, table)
        # duckdb names the column alone: say which folders were asked
        try:
            return connection.sql(sql).df()
        except duckdb.BinderException as error:
            places = ", ".join(f"{n} is {t}" for n, t in tables.items() if isinstance(t, Path))
            raise InputError(f"{error}; {places}: take tables of this run's own stages") from error


def overlap(caption: str, source: frozenset[str]) -> dict[str, int]:
    """Words of a caption: `all_words`, `content_words` left after stop words, and `matched` ones of
    these, whose stem is in `source` (figure 5b).
    """
    found = list(map(stems, words(caption)))
    # a run without blanks counts by its pairs, like words of other scripts
    content = [stem for word in found for stem in word]
    return {
        "all_words": len(content) + found.count(()),
        "content_words": len(content),
        "matched": sum(stem in source for stem in content),
    }


def overlap_table(samples: Iterable[Row], captions: Iterable[Row]) -> Any:
    """One row per good caption: sample_id, kind, the counts of `overlap`, `over_content` and
    `over_all` (0 to 1).

    Both ratios have the matched words above, and below the content words or all words; without
    words there is no ratio (NaN). Samples are streamed; captions are held in memory.
    """
    # captions are short and fit; pages pass by one at a time
    by_sample = defaultdict(list)
    for caption in captions:
        if caption["status"] == "ok":
            by_sample[caption["sample_id"]].append(caption)
    rows = []
    for sample in samples:
        if captions_here := by_sample.get(sample["sample_id"]):
            # a page is stemmed once for all captions of its image: it is far longer than they are
            source = source_stems(sample)
            rows += [{**one, **overlap(one["caption"], source)} for one in captions_here]
    # columns are named for a table without a row too
    table = pd.DataFrame(rows, columns=["sample_id", "kind", *overlap("", frozenset())])
    table["over_content"] = table["matched"] / table["content_words"]
    table["over_all"] = table["matched"] / table["all_words"]
    return table


def histogram(groups: Mapping[str, Iterable[float]], edges: Any) -> Any:
    """Counts per bin of each group of values as a table of `group`, `from`, `to` and `count`; the
    last bin holds its upper edge.
    """
    bins = {"from": edges[:-1], "to": edges[1:]}
    tables = [
        pd.DataFrame({"group": name, **bins, "count": np.histogram(list(values), edges)[0]})
        for name, values in groups.items()
    ]
    return pd.concat(tables, ignore_index=True)


def whole_edges(most: float, *, bins: int) -> Any:
    """Edges of at most about `bins` bins from 0, which has its own, to `most`: whole numbers wide,
    as half a word is none, and equal, as uneven ones would show false gaps.
    """
    step = max(1, ceil(most / bins))
    return np.arange(0.5 - step, most + step + 0.5, step)


def log_edges(values: Iterable[float], *, through: float, bins: int) -> Any:
    """About `bins` edges, evenly spaced on a logarithmic axis, around all `values` (above 0); one
    is `through`.
    """
    logs = np.log(np.array([*values, through]) / through)
    # a little more on both sides: rounding must leave no value outside
    low = min(logs.min(), -0.1) - 1e-6
    high = logs.max() + 1e-6
    # edges are counted from `through`, so that it is one of them
    step = (high - low) / bins
    return through * np.exp(step * np.arange(np.floor(low / step), np.ceil(high / step) + 1))


def word_counts(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Words left after stop words, numbers apart, with counts: most frequent first, equal counts by
    name.

    A run of a script without blanks is no word, so it counts as often as it stands there, whole.
    """
    # counted first: stems are asked once a word, not once an occurrence
    counts = Counter(word for text in texts for word in words(text))
    named = {w: n for w, n in counts.items() if stems(w) and any(map(str.isalpha, w))}
    return sorted(named.items(), key=lambda item: (-item[1], item[0]))


def answers(conversations: Iterable[Row]) -> Any:
    """One row per answer of conversation rows: sample_id, question_type (`caption` too) and
    n_words.
    """
    rows = [
        (row["sample_id"], source, count_words(turn["value"]))
        for row in conversations
        for source, turn in zip(row["sources"], row["conversations"][1::2], strict=True)
    ]
    return pd.DataFrame(rows, columns=["sample_id", "question_type", "n_words"])


def clustered(values: Any, clusters: Any) -> list[float]:
    """The mean of some values and its 95 % interval, where those of one cluster hang together."""
    from statsmodels.regression.linear_model import OLS  # late: it takes a second

    groups = {"groups": pd.factorize(np.asarray(clusters))[0]}
    given = np.asarray(values, float)
    fit = OLS(given, np.ones(len(given))).fit(cov_type="cluster", cov_kwds=groups, use_t=True)
    return [float(fit.params[0]), *map(float, fit.conf_int()[0])]


def parameters_of(table: Path) -> dict[str, Any]:
    """The parameters of the stage that wrote a table; none of a table without a record."""
    # what embedded or judged stands in no table
    return dict(read_record(table.parent.parent).get("hashes", {}).get("parameters", {}))


def model_names(names: Iterable[str]) -> str:
    """The models that wrote some records, for small print: sorted, each once."""
    return ", ".join(sorted({name for name in names if name})) or "none"
