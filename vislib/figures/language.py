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

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from vislib.checks import foreign
from vislib.figures.plots import CONTRAST, EDGE, FILL, INK, say
from vislib.figures.statistics import histogram
from vislib.media.tokenization import sentences
from vislib.media.words import count_words
from vislib.runs import InputError, choose, tables
from vislib.runs.tables import Row

PAPER: Mapping[str, Mapping[str, float]] = {
    "words": {"DenseFusion-4V-100K": 206, "DenseFusion-1M": 191},
    "sentences": {"DenseFusion-4V-100K": 11.2, "DenseFusion-1M": 11.0},
}  # means; of the other lengths and the parts of speech we know no figure of the paper
LENGTHS = ("characters", "words", "sentences")
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
}  # by how HanTa's tags begin, which are those of the British National Corpus
_NOTHING = "no English caption"
_LONGEST = 30  # characters of a token that the tagger is given: its time grows with their cube
_LOOKS: Sequence[
    tuple[Mapping[str, Any], Mapping[str, Any]]
] = (  # of a group's outline, and of its mark
    (
        {"fill": True, "facecolor": FILL, "edgecolor": EDGE, "linewidth": 0.6},
        {"marker": "o", "ms": 4, "color": EDGE},
    ),
    (
        {"edgecolor": INK, "linestyle": (0, (2, 1))},
        {"marker": "s", "ms": 3.6, "color": INK, "mfc": "white"},
    ),
    ({"edgecolor": EDGE, "linewidth": 1.4}, {"marker": "^", "ms": 4.4, "color": EDGE}),
    (
        {"edgecolor": INK, "linestyle": (0, (0.8, 0.8))},
        {"marker": "D", "ms": 3.4, "color": INK, "mfc": "white"},
    ),
)
_PAPER_LINES: Sequence[Any] = ((0, (5, 1, 1, 1)), (0, (1, 1)))


def length_table(captions: Sequence[Path], kinds: Sequence[str]) -> tuple[Any, int]:
    """One row per good English caption of `kinds`, and how many are surely in another language.

    Columns: group, table (its number), kind, sample_id, model, `LENGTHS`. A group is a kind, or a
    kind of one stage where several tables hold it. Raises InputError for more groups than print can
    tell apart.
    """
    import pandas

    rows, left_out = [], 0
    for number, row in _good_captions(captions, kinds):
        if foreign(row["caption"], wanted=("en",)):
            left_out += 1
        else:
            rows.append(
                (
                    number,
                    row["kind"],
                    row["sample_id"],
                    row["model"],
                    *caption_lengths(row["caption"]),
                )
            )
    table = pandas.DataFrame(rows, columns=["table", "kind", "sample_id", "model", *LENGTHS])
    stages = table["table"].map(lambda number: f" · {'/'.join(captions[number].parts[-4:-2])}")
    several = table.groupby("kind")["table"].transform("nunique") > 1
    table.insert(
        0, "group", [kind.replace("_", "-") for kind in table["kind"]] + stages.where(several, "")
    )
    if (groups := table["group"].nunique()) > len(_LOOKS):
        raise InputError(
            f"captions and kinds ({', '.join(kinds)}) give {groups} groups of English captions; a"
            f" panel shows at most {len(_LOOKS)}: name other kinds or tables, or leave this figure"
            " out of the set"
        )
    return (
        table.sort_values(
            ["kind", "table"], key=lambda c: c.map(kinds.index) if c.name == "kind" else c
        ),
        left_out,
    )


def _good_captions(captions: Sequence[Path], kinds: Collection[str]) -> Iterator[tuple[int, Row]]:
    for number, path in enumerate(captions):
        for row in tables.read_rows(path, ["sample_id", "kind", "caption", "status", "model"]):
            if row["status"] == "ok" and row["kind"] in kinds:
                yield number, row


def caption_lengths(text: str) -> tuple[int, int, int]:
    """Characters, words and sentences of a text; a line ends a sentence, signs alone are none."""
    return (
        len(text),
        count_words(text),
        sum(any(map(str.isalnum, sentence)) for sentence in sentences(text)),
    )


def class_table(captions: Sequence[Path], lengths: Any, *, limit: int, seed: int) -> Any:
    """Tokens of at most `limit` captions of each group, chosen by `seed`, by part of speech.

    `lengths` is the `length_table` of these captions. One row per group and class of `CLASSES`:
    group, captions (tagged ones), class, words, share (0 to 1; NaN without one).
    """
    import pandas

    chosen = {
        (number, kind): (group, set(choose(rows["sample_id"], limit, seed)))
        for (group, number, kind), rows in lengths.groupby(["group", "table", "kind"], sort=False)
    }
    counts = {group: Counter[str]() for group, _ in chosen.values()}
    for number, row in _good_captions(captions, lengths["kind"].unique()):
        group, ids = chosen.get((number, row["kind"]), ("", ()))
        if row["sample_id"] in ids:
            counts[group].update(word_classes(row["caption"]))
    rows = [
        (group, len(ids), name, counts[group][name])
        for group, ids in chosen.values()
        for name in CLASSES
    ]
    table = pandas.DataFrame(rows, columns=["group", "captions", "class", "words"])
    table["share"] = table["words"] / table.groupby("group")["words"].transform("sum")
    return table


def word_classes(text: str) -> list[str]:
    """The class, one of `CLASSES`, of each token of an English text, as the Penn Treebank cuts them
    ("it" and "'s" are two); signs alone are none."""
    from nltk.tokenize import word_tokenize

    found = []
    for sentence in sentences(text):
        tokens = [token[:_LONGEST] for token in word_tokenize(sentence, preserve_line=True)]
        tags = zip(tokens, _tagger().tag_sent(tokens, taglevel=0), strict=True)
        found += [tag for token, tag in tags if any(map(str.isalnum, token))]
    return [
        next(name for name, starts in CLASSES.items() if tag.startswith(starts)) for tag in found
    ]


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def length_bins(lengths: Any, *, bins: int) -> Any:
    """Histograms per group in at most about `bins` bins, whole numbers wide: length, group, from,
    to, count.
    """
    import pandas

    if lengths.empty:
        return pandas.DataFrame(columns=["length", "group", "from", "to", "count"])
    found: dict[tuple[str, str], Any] = {}
    for name, paper in PAPER.items():
        end = ceil(
            max(lengths[name].max(), *paper.values())
        )  # the paper's means are in the picture
        step = end // bins + 1
        edges = [n - 0.5 for n in range(0, end + step + 1, step)]
        found |= {
            (name, g): histogram(rows[name], edges)
            for g, rows in lengths.groupby("group", sort=False)
        }
    return pandas.concat(found, names=["length", "group"]).reset_index(["length", "group"])


def plot_lengths(axes: Axes, lengths: Any, bins: Any, name: str, *, title: str = "") -> None:
    """Groups by their `words` or `sentences` as shares of their captions, with their means and the
    paper's.
    """
    if lengths.empty:
        return say(axes, _NOTHING, title=title)
    handles: dict[str, Any] = {}
    for (group, rows), (outline, mark) in zip(
        lengths.groupby("group", sort=False), _LOOKS, strict=False
    ):
        bars = bins[(bins["length"] == name) & (bins["group"] == group)]
        filled = bars[
            bars["count"].cumsum().gt(0) & bars["count"][::-1].cumsum().gt(0)
        ]  # no outline along the axis
        steps = axes.stairs(
            filled["count"] / len(rows), [*filled["from"], filled["to"].iloc[-1]], **outline
        )
        (dot,) = axes.plot(rows[name].mean(), 0, linestyle="", clip_on=False, zorder=5, **mark)
        handles[f"{group} ({len(rows):,}): {rows[name].mean():.1f} / {rows[name].median():g}"] = (
            steps,
            dot,
        )
    for (corpus, mean), pattern in zip(PAPER[name].items(), _PAPER_LINES, strict=True):
        handles[f"{corpus} (paper): {mean}"] = axes.axvline(mean, color=CONTRAST, linestyle=pattern)
    axes.set(xlabel=f"{name.capitalize()} of a caption", ylabel="Share of captions")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(axes, title, "captions: mean / median", handles, lines=len(handles))


def plot_classes(axes: Axes, classes: Any, *, title: str = "") -> None:
    """Groups by the shares of their tokens that belong to each class: a mark each, in a row per
    class.
    """
    if classes.empty:
        return say(axes, _NOTHING, title=title)
    names, groups, handles = list(CLASSES), classes.groupby("group", sort=False), dict[str, Any]()
    for number, ((group, rows), (_, mark)) in enumerate(zip(groups, _LOOKS, strict=False)):
        shift = 0.22 * (number - (groups.ngroups - 1) / 2)  # equal shares stand below one another
        places = [names.index(name) + shift for name in rows["class"]]
        (dots,) = axes.plot(rows["share"], places, linestyle="", clip_on=False, **mark)
        handles[f"{group} ({rows['captions'].iloc[0]:,}): {rows['words'].sum():,}"] = dots
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="Share of tokens")
    axes.set_xlim(left=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_yticks([n + 0.5 for n in range(len(names) - 1)], minor=True)
    axes.grid(axis="y", which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(axis="y", which="both", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(
        axes, title, "captions tagged: tokens", handles, lines=len(handles) + len(PAPER["words"])
    )


def _legend(
    axes: Axes, title: str, heading: str, handles: Mapping[str, Any], *, lines: int
) -> None:
    """A legend above the axes, off the data, and the title over it with room for `lines`, alike in
    every panel.
    """
    height = 4 + 8.9 * (1 + lines)
    figure = axes.get_figure(root=True)
    assert figure is not None
    top = axes.transAxes + ScaledTranslation(0, height / 72, figure.dpi_scale_trans)
    legend = axes.legend(
        list(handles.values()),
        list(handles),
        loc="upper left",
        bbox_to_anchor=(-0.22, 1),
        bbox_transform=top,
        title=heading,
        alignment="left",
        fontsize=6,
        title_fontsize=6,
    )
    legend.set_in_layout(False)  # else a wide legend would squeeze the axes
    axes.set_title(title, x=-0.2, pad=height + 3)
