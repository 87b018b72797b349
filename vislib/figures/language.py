"""How long captions are and of which words they are made (DenseFusion-1M, its statistics of
captions).

Only English captions count: the tagger is English, and so are the paper's captions. What is surely
in another language is counted apart. HanTa gives each word a part of speech; its English model lies
in its package and needs no download. Tables of captions are streamed; what is held of a caption is
a row of numbers.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from vislib.checks import foreign
from vislib.figures.charts import GROUPS, marks, plot_dots
from vislib.figures.statistics import histogram
from vislib.media.tokenization import sentences
from vislib.media.words import count_words
from vislib.runs import InputError, choose, tables
from vislib.runs.tables import Row

# means; of the other lengths and the parts of speech we know no figure of the paper
PAPER: Mapping[str, Mapping[str, float]] = {
    "words": {"DenseFusion-4V-100K": 206, "DenseFusion-1M": 191},
    "sentences": {
        "DenseFusion-4V-100K": 11.2,
        "DenseFusion-1M": 11.0,
    },
}
LENGTHS = ("characters", "words", "sentences")
# by how HanTa's tags begin, which are those of the British National Corpus
CLASSES: Mapping[str, tuple[str, ...]] = {
    "nouns": ("NN", "NP"),
    "verbs": ("V",),
    "adjectives": ("AJ",),
    "adverbs": ("AV",),
    "adpositions": ("PR",),
    "determiners": ("AT", "DT", "DPS"),
    "pronouns": ("PN",),
    "conjunctions": ("CJ",),
    "numerals": ("CRD", "ORD"),
    "others": ("",),
}
_LONGEST = 30  # characters of a token that the tagger is given: its time grows with their cube


def length_table(captions: Sequence[Path], kinds: Sequence[str]) -> tuple[Any, int]:
    """One row per good English caption of `kinds`, and how many are surely in another language.

    Columns: group, table (its number), kind, sample_id, model, `LENGTHS`. A group is a kind, or a
    kind of one stage where several tables hold it. Raises InputError for more groups than print can
    tell apart.
    """
    rows, left_out = [], 0
    for number, row in _good_captions(captions, kinds):
        if foreign(row["caption"], wanted=("en",)):
            left_out += 1
        else:
            facts = [row[name] for name in ("kind", "sample_id", "model")]
            rows.append([number, *facts, *caption_lengths(row["caption"])])
    table = pd.DataFrame(
        rows,
        columns=["table", "kind", "sample_id", "model", *LENGTHS],
    )
    # a kind of two captioners is two groups, named by the stage that wrote it
    stages = table["table"].map(lambda number: f" · {'/'.join(captions[number].parts[-4:-2])}")
    several = table.groupby("kind")["table"].transform("nunique") > 1
    kind_names = table["kind"].map(lambda kind: kind.replace("_", "-"))
    table.insert(0, "group", kind_names + stages.where(several, ""))
    if (groups := table["group"].nunique()) > len(GROUPS):
        raise InputError(
            f"captions and kinds ({', '.join(kinds)}) give {groups} groups of English captions; a"
            f" panel shows at most {len(GROUPS)}: name other kinds or tables, or leave this figure"
            " out of the set"
        )
    # kinds in the order asked for, tables within a kind
    order = table["kind"].map(list(kinds).index) * len(captions) + table["table"]
    return table.iloc[order.argsort(kind="stable")], left_out


def _good_captions(captions: Sequence[Path], kinds: Collection[str]) -> Iterator[tuple[int, Row]]:
    for number, path in enumerate(captions):
        for row in tables.read_rows(path, ["sample_id", "kind", "caption", "status", "model"]):
            if row["status"] == "ok" and row["kind"] in kinds:
                yield number, row


def caption_lengths(text: str) -> tuple[int, int, int]:
    """Characters, words and sentences of a text; a line ends a sentence, signs alone are none."""
    spoken = [sentence for sentence in sentences(text) if any(map(str.isalnum, sentence))]
    return len(text), count_words(text), len(spoken)


def class_table(captions: Sequence[Path], lengths: Any, *, limit: int, seed: int) -> Any:
    """Tokens of at most `limit` captions of each group, chosen by `seed`, by part of speech.

    `lengths` is the `length_table` of these captions. One row per group and class of `CLASSES`:
    group, captions (tagged ones), class, words, share (0 to 1; NaN without one).
    """
    # the same ids whatever the order of rows
    groups = lengths.groupby(["table", "kind"], sort=False)
    chosen = {key: set(choose(rows["sample_id"], limit, seed)) for key, rows in groups}
    counts: dict[tuple[int, str], Counter[str]] = {key: Counter() for key in chosen}
    # a second pass in place of all texts in memory
    for number, row in _good_captions(captions, lengths["kind"].unique()):
        key = number, row["kind"]
        if row["sample_id"] in chosen.get(key, ()):
            counts[key].update(word_classes(row["caption"]))
    rows = [
        (group.iloc[0], len(chosen[key]), name, counts[key][name])
        for key, group in groups["group"]
        for name in CLASSES
    ]
    table = pd.DataFrame(rows, columns=["group", "captions", "class", "words"])
    table["share"] = table["words"] / table.groupby("group")["words"].transform("sum")
    return table


def word_classes(text: str) -> list[str]:
    """The class, one of `CLASSES`, of each token of an English text, as the Penn Treebank cuts them
    ("it" and "'s" are two); signs alone are none."""
    from nltk.tokenize import word_tokenize

    found = []
    for sentence in sentences(text):
        # tags need the sentence, not the caption
        tokens = [token[:_LONGEST] for token in word_tokenize(sentence, preserve_line=True)]
        tags = zip(
            tokens,
            _tagger().tag_sent(tokens, taglevel=0),
            strict=True,
        )
        found += [_class_of(tag) for token, tag in tags if any(map(str.isalnum, token))]
    return found


def _class_of(tag: str) -> str:
    return next(name for name, starts in CLASSES.items() if tag.startswith(starts))


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def length_bins(lengths: Any, *, bins: int) -> Any:
    """Histograms per group in at most about `bins` bins, whole numbers wide: length, group, from,
    to, count.
    """
    tables = [pd.DataFrame(columns=["length", "group", "from", "to", "count"])]
    for name, paper in PAPER.items():
        # the paper's means are in the picture
        end = ceil(max(*lengths[name], *paper.values()))
        # whole numbers wide: half a word is none, and uneven bins would show false gaps
        step = end // bins + 1
        edges = [n - 0.5 for n in range(0, end + step + 1, step)]
        for group, rows in lengths.groupby("group", sort=False):
            tables.append(histogram(rows[name], edges).assign(length=name, group=group))
    # an empty table among them would make all columns objects
    return pd.concat(tables[1:] or tables)[tables[0].columns]


def groups_of(lengths: Any, histograms: Any, name: str) -> dict[str, Any]:
    """The `length_bins` of `words` or `sentences` by group, with mean and median in its label."""
    groups = {}
    for group, values in lengths.groupby("group", sort=False)[name]:
        chosen = (histograms["length"] == name) & (histograms["group"] == group)
        label = f"{group}: {values.mean():.1f} / {values.median():g}"
        groups[label] = histograms[chosen]
    return groups


def plot_classes(axes: Axes, classes: Any) -> None:
    """The share of tokens that belong to each class: a mark per group, in a row per class."""
    # shares of few tokens say little: how many stands in the legend
    tokens = classes.groupby("group")["words"].transform("sum").map("{:,}".format)
    names = classes["group"] + ": " + tokens + " tokens"
    rows = classes.assign(
        name=names,
        label=classes["class"],
        value=100 * classes["share"],
    )
    rows = rows.assign(low=float("nan"), high=float("nan"))  # counted, not estimated
    plot_dots(axes, rows, marks(names), x="Share of tokens, %")
