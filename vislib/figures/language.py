"""How long captions are and of which words they are made (DenseFusion-1M, its statistics of
captions).

Only English captions count: the tagger is English, and so are the paper's captions. What is surely
in another language is counted apart. HanTa gives each word a part of speech; its English model lies
in its package and needs no download. Tables of captions are streamed; what is held of a caption is
a row of numbers.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from nltk.tokenize import word_tokenize

from vislib.checks import foreign
from vislib.figures.charts import GROUPS, marks, plot_dots
from vislib.figures.statistics import histogram, query, whole_edges
from vislib.media.tokenization import sentences
from vislib.media.words import count_words
from vislib.runs import InputError, tables

# means; of the other lengths and the parts of speech we know no figure of the paper
PAPER = {
    "words": {"DenseFusion-4V-100K": 206.0, "DenseFusion-1M": 191.0},
    "sentences": {
        "DenseFusion-4V-100K": 11.2,
        "DenseFusion-1M": 11.0,
    },
}
LENGTHS = ("characters", "words", "sentences")
# by how HanTa's tags begin, which are those of the British National Corpus
CLASSES = {
    "nouns": "NN|NP",
    "verbs": "V",
    "adjectives": "AJ",
    "adverbs": "AV",
    "adpositions": "PR",
    "determiners": "AT|DT|DPS",
    "pronouns": "PN",
    "conjunctions": "CJ",
    "numerals": "CRD|ORD",
    "others": "",
}
_LONGEST = 30  # characters of a token that the tagger is given: its time grows with their cube


# Kinds in the order asked for, tables within a kind; a kind of two captioners is two groups, named
# by the stage that wrote it.
_GROUPED = """
SELECT * EXCLUDE (index, stage), replace(kind, '_', '-') || if(min("table") OVER (PARTITION BY kind)
    < max("table") OVER (PARTITION BY kind), ' · ' || stage, '') AS "group"
FROM found ORDER BY list_position({kinds}, kind), index
"""
_CHOSEN = """
SELECT caption FROM captions SEMI JOIN own USING (sample_id)
WHERE kind = '{kind}' AND status = 'ok' ORDER BY seeded({seed}, sample_id) LIMIT {limit}
"""


def length_table(captions: Sequence[Path], kinds: Sequence[str]) -> tuple[Any, int]:
    """One row per good English caption of `kinds`, and how many are surely in another language.

    Columns: table (its number), kind, sample_id, model, `LENGTHS`, group. A group is a kind, or a
    kind of one stage where several tables hold it. Raises InputError for more groups than print can
    tell apart.
    """
    rows = []
    left_out = 0
    facts = ["kind", "sample_id", "model"]
    for number, path in enumerate(captions):
        stage = "/".join(path.parts[-4:-2])
        for row in tables.read_rows(path, [*facts, "caption", "status"]):
            if row["status"] != "ok" or row["kind"] not in kinds:
                continue
            if foreign(row["caption"], wanted=("en",)):
                left_out += 1
                continue
            lengths = caption_lengths(row["caption"])
            rows.append([number, stage, *(row[name] for name in facts), *lengths])
    found = pd.DataFrame(rows, columns=["table", "stage", *facts, *LENGTHS])
    table = query(_GROUPED.format(kinds=list(kinds)), found=found.reset_index())
    if (groups := table["group"].nunique()) > len(GROUPS):
        raise InputError(
            f"captions and kinds ({', '.join(kinds)}) give {groups} groups of English captions; a"
            f" panel shows at most {len(GROUPS)}: name other kinds or tables, or leave this figure"
            " out of the set"
        )
    return table, left_out


def caption_lengths(text: str) -> tuple[int, int, int]:
    """Characters, words and sentences of a text; a line ends a sentence, signs alone are none."""
    spoken = [sentence for sentence in sentences(text) if any(map(str.isalnum, sentence))]
    return len(text), count_words(text), len(spoken)


def class_table(captions: Sequence[Path], lengths: Any, *, limit: int, seed: int) -> Any:
    """Tokens of at most `limit` captions of each group (0: of all), chosen by `seed`, by part of
    speech.

    `lengths` is the `length_table` of these captions. One row per group and class of `CLASSES`:
    group, captions (tagged ones), class, words, share (0 to 1; NaN without one).
    """
    rows = []
    # a second pass over a few in place of all texts in memory
    for (number, kind, group), own in lengths.groupby(["table", "kind", "group"], sort=False):
        sql = _CHOSEN.format(kind=kind, seed=seed, limit=limit or len(own))
        texts = query(sql, captions=captions[number], own=own[["sample_id"]])["caption"]
        counts = Counter(name for text in texts for name in word_classes(text))
        rows += [(group, len(texts), name, counts[name]) for name in CLASSES]
    table = pd.DataFrame(rows, columns=["group", "captions", "class", "words"])
    table["share"] = table["words"] / table.groupby("group")["words"].transform("sum")
    return table


def word_classes(text: str) -> list[str]:
    """The class, one of `CLASSES`, of each token of an English text, as the Penn Treebank cuts them
    ("it" and "'s" are two); signs alone are none."""
    found = []
    for sentence in sentences(text):
        # tags need the sentence, not the caption
        tokens = [token[:_LONGEST] for token in word_tokenize(sentence, preserve_line=True)]
        tags = _tagger().tag_sent(tokens, taglevel=0)
        for token, tag in zip(tokens, tags, strict=True):
            if any(map(str.isalnum, token)):
                found.append(next(name for name in CLASSES if re.match(CLASSES[name], tag)))
    return found


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def length_bins(lengths: Any, name: str, *, bins: int) -> Any:
    """A `statistics.histogram` of `words` or `sentences`; groups are named with mean and median."""
    # the paper's means are in the picture
    edges = whole_edges(max(*lengths[name], *PAPER[name].values()), bins=bins)
    groups = {
        f"{group}: {values.mean():.1f} / {values.median():g}": values
        for group, values in lengths.groupby("group", sort=False)[name]
    }
    return histogram(groups or {"": []}, edges)


def plot_classes(axes: Axes, classes: Any) -> None:
    """The share of tokens that belong to each class: a mark per group, in a row per class."""
    # shares of few tokens say little: how many stands in the legend
    tokens = classes.groupby("group")["words"].transform("sum").map("{:,}".format)
    names = classes["group"] + ": " + tokens + " tokens"
    shares = 100 * classes["share"]
    # counted, not estimated: there is no interval
    rows = {
        "name": names,
        "label": classes["class"],
        "value": shares,
        "low": shares,
        "high": shares,
    }
    plot_dots(axes, pd.DataFrame(rows), marks(names), x="Share of tokens, %")
