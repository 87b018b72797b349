"""Numbers behind the property figures (VisCon-100K, appendix B, figures 5 to 7), as pure functions
over rows.

Stop words are wordcloud's 192 English ones: longer common lists hold "top", "side" or "system",
which describe pictures. Stems are NLTK's English Snowball stems. Text of scripts without blanks,
such as Chinese and Thai, is compared by pairs of characters.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from vislib.media.words import UNSPACED, count_words, words

PAPER_TOKENS = {"mean": 871.58, "median": 781.0}  # figure 5a
PAPER_OVERLAP = 0.24  # figure 5b, mean
PAPER_PAIRS = 4  # figures 6a and 6b, what most samples have

_PLACEHOLDER = re.compile("<(?:another-)?image>")
Row = Mapping[str, Any]


@cache
def _stop_words() -> frozenset[str]:
    from wordcloud import STOPWORDS

    return frozenset(STOPWORDS)


@cache
def _stemmer() -> Any:
    from nltk.stem.snowball import SnowballStemmer

    return SnowballStemmer("english")


@lru_cache(maxsize=1 << 18)
def stems(word: str) -> tuple[str, ...]:
    """The stem of a lower-case word; none of a stop word or a single character; pairs of a run
    without blanks.
    """
    if re.match(f"[{UNSPACED}]", word):
        return tuple(word[i : i + 2] for i in range(max(1, len(word) - 1)))
    return (str(_stemmer().stem(word)),) if len(word) > 1 and word not in _stop_words() else ()


def source_stems(sample: Row) -> frozenset[str]:
    """Stems of what a sample's captioner was given beside the image: page URL, alt text and
    context.

    The image placeholders are no words of the page: "image" in a caption must not match them.
    """
    text = "\n".join(sample[name] or "" for name in ("page_url", "alt_text", "context"))
    return frozenset(stem for word in words(_PLACEHOLDER.sub(" ", text)) for stem in stems(word))


def overlap(caption: str, source: frozenset[str]) -> dict[str, int]:
    """Words of a caption: `all_words`, `content_words` left after stop words, and `matched` ones of
    these.

    A word matches when its stem is in `source` (figure 5b).
    """
    found = [stems(word) for word in words(caption)]
    content = [stem for word in found for stem in word]
    return {
        "all_words": len(content) + sum(not word for word in found),
        "content_words": len(content),
        "matched": sum(stem in source for stem in content),
    }


def overlap_table(samples: Iterable[Row], captions: Iterable[Row]) -> Any:
    """One row per good caption: sample_id, kind, the counts of `overlap`, `over_content` and
    `over_all` (0 to 1).

    Both ratios have the matched words above, and below the content words or all words; without
    words there is no ratio (NaN). Samples are streamed; captions are held in memory.
    """
    import pandas

    by_sample: dict[str, list[Row]] = {}
    for caption in captions:
        if caption["status"] == "ok":
            by_sample.setdefault(caption["sample_id"], []).append(caption)
    rows = []
    for sample in samples:
        own = by_sample.get(sample["sample_id"], [])
        source = source_stems(sample) if own else frozenset()
        rows += [
            (sample["sample_id"], c["kind"], *overlap(c["caption"], source).values()) for c in own
        ]
    table = pandas.DataFrame(
        rows, columns=["sample_id", "kind", "all_words", "content_words", "matched"]
    )
    for name, whole in (("over_content", "content_words"), ("over_all", "all_words")):
        table[name] = table["matched"] / table[whole].where(table[whole] > 0)
    return table


def histogram(values: Iterable[float], edges: Iterable[float]) -> Any:
    """Counts per bin as a table of `from`, `to` and `count`; the last bin holds its upper edge."""
    import numpy
    import pandas

    counts, bins = numpy.histogram(list(values), bins=list(edges))
    return pandas.DataFrame({"from": bins[:-1], "to": bins[1:], "count": counts})


def log_edges(values: Iterable[float], *, through: float, bins: int) -> list[float]:
    """About `bins` edges, evenly spaced on a logarithmic axis, around all `values` (above 0); one
    is `through`.
    """
    from math import ceil, exp, log

    seen = [log(value / through) for value in values] or [0.0]
    low, high = (
        min(*seen, -0.1) - 1e-6,
        max(*seen, 0.0) + 1e-6,
    )  # rounding must leave no value outside
    step = (high - low) / bins
    return [through * exp(step * i) for i in range(-ceil(-low / step), ceil(high / step) + 1)]


def even_edges(end: float, *, bins: int) -> list[float]:
    """Edges of `bins` equal bins from 0 to `end`."""
    return [end * i / bins for i in range(bins + 1)]


def tokens_above_cap(dropped: Any) -> Any:
    """Tokens of the documents that 02_filtering set aside, from the detail of its rows `above_cap`.

    Of a very long one ("over 8123") so many as were counted.
    """
    details = dropped.loc[dropped["reason"] == "above_cap", "detail"]
    return details.str.removeprefix("over ").astype(int)


def word_counts(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Words left after stop words, numbers apart, with counts: most frequent first, equal counts by
    name.

    A run of a script without blanks is no word, so it counts as often as it stands there, whole.
    """
    counts = Counter(
        word
        for text in texts
        for word in words(text)
        if stems(word) and any(map(str.isalpha, word))
    )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def answers(conversations: Iterable[Row]) -> Any:
    """One row per answer of conversation rows: sample_id, question_type (`caption` too) and
    n_words.
    """
    import pandas

    rows = [
        (row["sample_id"], source, count_words(turn["value"]))
        for row in conversations
        for source, turn in zip(row["sources"], row["conversations"][1::2], strict=True)
    ]
    return pandas.DataFrame(rows, columns=["sample_id", "question_type", "n_words"])


def pairs_per_sample(pairs: Any, sample_ids: Iterable[str]) -> Any:
    """How many samples have how many pairs: question_type, pairs, samples; samples without a pair
    have 0.

    `pairs` has a row per pair, with sample_id and question_type.
    """
    import pandas

    ids, rows = list(sample_ids), []
    for question_type in ("free_form", "multiple_choice"):
        found = pairs.loc[pairs["question_type"] == question_type, "sample_id"].value_counts()
        numbers = Counter(int(found.get(name, 0)) for name in ids)
        rows += [(question_type, n, numbers[n]) for n in sorted(numbers)]
    return pandas.DataFrame(rows, columns=["question_type", "pairs", "samples"])


def model_names(names: Iterable[str]) -> str:
    """The models that wrote some records, for small print: sorted, each once."""
    return ", ".join(sorted({name for name in names if name})) or "none"
